"""SGD, Adam and AdamW of `torch.optim`, with GC.

They are subclasses: arguments, groups, state and hooks are PyTorch's own, and so are the steps that are taken (page
`step`). A gradient with GC goes through such a step in a temporary's place, so that `p.grad` stays as it is.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from gc_core import checks
from gc_torch import compat, low_precision, path, sharded
from gc_torch.arrays import TORCH, given
from gc_torch.model_plan import ModelPlan
from gc_torch.pieces import Columns
from gc_torch.step import CentralizingOptimizer, Params
from gc_torch.step_checks import place, read


class SGD(CentralizingOptimizer, torch.optim.SGD):
    """`torch.optim.SGD` with GC: the same arguments, defaults, groups, state and hooks.

    Formula: that of `sgdm_update`, with PyTorch's own first step, m ← g. GC adds two arguments.

    Args:
        params: a model, a list of models; or, as in PyTorch, parameters, named parameters, or groups.
        lr, momentum, dampening, weight_decay, nesterov, maximize, foreach, differentiable, fused: as in PyTorch.
        gc_on: "gradient" (the paper), "update" (the step is centralized instead), or None: no GC, and PyTorch's
            results to the last bit. An option of a group like any other.
        plan: from `gc_torch.plan(model)`: which axes of which parameter. Without one, it is found for each parameter by
            the module in memory that owns it; where none does, by the rule "out_first", with a warning. "out_first"
            means that rule for all, without one. No state_dict contains or changes it.
        low_precision: how weights in float16 and bfloat16 are rounded; an option of a group. None: to the nearest, as
            in PyTorch. "kahan": compensated summation, with a state more, `compensation`. "stochastic": up or down at
            random. Parameters of other dtypes need neither, and have nothing of it. See docs/precision.md.
        seed: of the random numbers, which follow from it, the parameter's place in its group, and the step. An option
            of a group.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.

    >>> from torch import nn
    >>> layer = nn.Linear(3, 1, bias=False)
    >>> _ = nn.init.constant_(layer.weight, 1.0)
    >>> layer.weight.grad = torch.tensor([[3.0, 0.0, 0.0]])
    >>> SGD(layer, lr=0.5).step()
    >>> layer.weight.data
    tensor([[0.0000, 1.5000, 1.5000]])

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 1.
    """

    kind = "sgd"
    states = ("momentum_buffer",)

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        gc_on: checks.Place | None = "gradient",
        plan: ModelPlan | Literal["out_first"] | None = None,
        low_precision: checks.Way | None = None,
        seed: int = 0,
    ):
        options: dict[str, Any] = dict(
            lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov
        )
        ours: dict[str, Any] = dict(gc_on=gc_on, low_precision=low_precision, seed=seed)
        self.check({**options, **ours, "differentiable": differentiable})
        groups = self._groups(params, plan, **ours)
        super().__init__(
            groups, **options, maximize=maximize, foreach=foreach, differentiable=differentiable, fused=fused
        )
        self._made(**ours)

    def check(self, group: dict[str, Any], *, in_step: bool = False) -> None:
        super().check(group)
        checks.sgdm(
            lr=read(group["lr"]),
            momentum=read(group["momentum"]),
            dampening=read(group["dampening"]),
            nesterov=bool(group["nesterov"]),
            weight_decay=read(group["weight_decay"]),
            decoupled=False,
            gc_on=place(group["gc_on"]),
            framework=TORCH,
            in_step=in_step,
        )

    def columns(self, group: dict[str, Any]) -> Columns:
        params, grads, buffers = [], [], []
        self._init_group(group, params, grads, buffers)
        return [params, grads, buffers, *low_precision.extra_columns(self.state, group, params, None)]

    def torch_step(self, group, taken, columns, grad_scale, found_inf):
        params, grads, buffers, *steps = columns
        for step in steps[0] if steps else ():  # where random numbers hang on it
            step.add_(1)
        if taken == path.FOREACH and group["nesterov"] and not group["maximize"] and not given(group["weight_decay"]):
            grads = [grad.clone() for grad in grads]  # PyTorch adds the momentum to them in place
        sgd(
            params,
            grads,
            buffers,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            has_sparse_grad=any(grad.is_sparse for grad in grads),
            foreach=taken == path.FOREACH,
            fused=taken == path.FUSED,
            grad_scale=grad_scale,
            found_inf=found_inf,
        )

    def remember(self, params: list[Tensor], columns: Columns) -> None:
        for p, buffer in zip(params, columns[2], strict=False):  # there are none without momentum
            if self.state[p].get("momentum_buffer") is None:
                self.state[p]["momentum_buffer"] = sharded.sharded_like(p, buffer)


class _AdamSteps(CentralizingOptimizer):
    """What Adam and AdamW share: PyTorch's AdamW is its Adam with another default."""

    kind = "adam"
    states = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def check(self, group: dict[str, Any], *, in_step: bool = False) -> None:
        super().check(group)
        checks.adam(
            lr=read(group["lr"]),
            betas=tuple(map(read, checks.pair("betas", group["betas"]))),
            eps=read(group["eps"]),
            weight_decay=read(group["weight_decay"]),
            decoupled=bool(group["decoupled_weight_decay"]),
            amsgrad=bool(group["amsgrad"]),
            gc_on=place(group["gc_on"]),
            framework=TORCH,
            in_step=in_step,
        )

    def columns(self, group: dict[str, Any]) -> Columns:
        columns: Columns = [[], [], [], [], [], []]
        compat.init_adam_group(self, group, columns)
        return [*columns[:-1], *low_precision.extra_columns(self.state, group, columns[0], columns[-1])]

    def torch_step(self, group, taken, columns, grad_scale, found_inf):
        params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps, *_ = columns
        counted = steps
        on_tensors = group["differentiable"] or group["capturable"] or torch.compiler.is_compiling()
        if group["gc_on"] and taken != path.FUSED and on_tensors:
            counted = [step.double() for step in steps]  # the bias corrections are computed in its precision
        compat.adam(
            params,
            grads,
            exp_avgs,
            exp_avg_sqs,
            max_exp_avg_sqs,
            counted,
            foreach=taken == path.FOREACH,
            capturable=group["capturable"],
            differentiable=group["differentiable"],
            fused=taken == path.FUSED,
            grad_scale=grad_scale,
            found_inf=found_inf,
            has_complex=any(p.is_complex() for p in params),
            decoupled_weight_decay=group["decoupled_weight_decay"],
            amsgrad=group["amsgrad"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )
        for step, count in zip(steps, counted, strict=True):
            if step is not count:
                step.copy_(count)


class Adam(_AdamSteps, torch.optim.Adam):
    """`torch.optim.Adam` with GC: the same arguments, defaults, groups, state and hooks.

    Formula: that of `adam_update`; weight_decay is L2, added to the gradient.

    Args:
        params, gc_on, plan, low_precision, seed: see `SGD`.
        lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay: as in PyTorch.
        foreach, maximize, capturable, differentiable, fused: as in PyTorch.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.

    >>> from torch import nn
    >>> layer = nn.Linear(3, 1, bias=False)
    >>> _ = nn.init.constant_(layer.weight, 1.0)
    >>> layer.weight.grad = torch.tensor([[3.0, 0.0, 0.0]])  # Φ of it: 2, −1, −1
    >>> Adam(layer, lr=0.5).step()
    >>> layer.weight.data
    tensor([[0.5000, 1.5000, 1.5000]])

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 2.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        gc_on: checks.Place | None = "gradient",
        plan: ModelPlan | Literal["out_first"] | None = None,
        low_precision: checks.Way | None = None,
        seed: int = 0,
    ):
        options: dict[str, Any] = dict(
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad
        )  # fmt: skip
        ours: dict[str, Any] = dict(
            gc_on=gc_on, low_precision=low_precision, seed=seed, decoupled_weight_decay=decoupled_weight_decay
        )
        self.check({**options, **ours, "differentiable": differentiable})
        groups = self._groups(params, plan, **ours)
        super().__init__(
            groups, **options, foreach=foreach, maximize=maximize, capturable=capturable,
            differentiable=differentiable, fused=fused, **compat.adam_options(decoupled_weight_decay),
        )  # fmt: skip
        self._made(**ours)


class AdamW(_AdamSteps, torch.optim.AdamW):
    """`torch.optim.AdamW` with GC: the same arguments, defaults, groups, state and hooks.

    Formula: that of `adam_update` with `decoupled=True`. With GC on the gradient the decay is not centralized; on the
    update it is.

    Args:
        params, gc_on, plan, low_precision, seed: see `SGD`.
        lr, betas, eps, weight_decay, amsgrad, maximize, foreach, capturable, differentiable, fused: as in PyTorch.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or value.

    >>> from torch import nn
    >>> layer = nn.Linear(3, 1, bias=False)
    >>> _ = nn.init.constant_(layer.weight, 2.0)
    >>> layer.weight.grad = torch.tensor([[3.0, 0.0, 0.0]])
    >>> AdamW(layer, lr=0.5, weight_decay=0.5).step()
    >>> layer.weight.data
    tensor([[1., 2., 2.]])

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 2, with the decay of AdamW.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        gc_on: checks.Place | None = "gradient",
        plan: ModelPlan | Literal["out_first"] | None = None,
        low_precision: checks.Way | None = None,
        seed: int = 0,
    ):
        options: dict[str, Any] = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)
        ours: dict[str, Any] = dict(gc_on=gc_on, low_precision=low_precision, seed=seed, decoupled_weight_decay=True)
        self.check({**options, **ours, "differentiable": differentiable})
        groups = self._groups(params, plan, **ours)
        super().__init__(
            groups, **options, maximize=maximize, foreach=foreach, capturable=capturable,
            differentiable=differentiable, fused=fused,
        )  # fmt: skip
        self._made(**ours)

"""GC in front of any optimizer: what it reads as gradients has been centralized."""

import functools
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from gc_core import checks
from gc_core.plan import Overrides, Row
from gc_torch import sharded
from gc_torch.arrays import TORCH, rounded, widen
from gc_torch.operator import center
from gc_torch.optimizer import CentralizingOptimizer
from gc_torch.plan import ModelPlan
from gc_torch.plan import plan as plan_of

PLACES = ("step", "gradient")

# What GC stands in front of already: optimizers, and parameters with a hook on their gradient.
_optimizers: WeakKeyDictionary[torch.optim.Optimizer, "Attachment"] = WeakKeyDictionary()
_parameters = WeakTensorKeyDictionary()


class Attachment:
    """GC in front of an optimizer, until `remove()`; made by `attach`.

    Its `plan` says what is done to each parameter. Printing it tells how many parameters are centralized.
    """

    def __init__(self, plan: ModelPlan, handles: list[RemovableHandle], what: str):
        self.plan = plan
        self._handles = handles
        self._what = what

    def remove(self) -> None:
        """Undo `attach`: from now on gradients are what backward made of them. A second time does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for known in (_optimizers, _parameters):
            for key in [key for key, one in known.items() if one is self]:
                del known[key]

    def __repr__(self) -> str:
        return self._what if self._handles else f"removed: {self._what}"


def attach(
    optimizer: torch.optim.Optimizer | None,
    model: nn.Module,
    overrides: Overrides | None = None,
    *,
    plan: ModelPlan | None = None,
    where: str = "step",
) -> Attachment:
    """Put GC in front of any optimizer: it then reads Φ(g) where it read g, and does with it what it does.

    Formula, with the optimizer's own rule, its decay included, as step::

        w ← step(w, Φ(grad))

    Φ comes before everything that the optimizer does itself. Decay, of either kind, is not centralized: the mean of a
    weight vector shrinks by it (by 1 − ηλ a step with SGD), and without decay stays under every rule whose step is
    linear in its gradients. (`gc_torch.SGD` and `gc_torch.Adam` centralize L2 decay as well; `gc_on="update"` of the
    functions and optimizers centralizes the whole step. That cannot be had from outside.)

    Args:
        optimizer: any torch.optim.Optimizer but those of gc_torch, which do GC themselves. With where="gradient" it may
            be None.
        model: whose plan is made.
        overrides: as for `plan`.
        plan: a plan of the model made before, instead of overrides.
        where: "step": when `step` is called, or when a closure that it calls has computed gradients (LBFGS), `p.grad`
            is changed in place. Clipping and unscaling done before `step` see the gradient before GC.
            "gradient": during backward, on each gradient before it is added to `p.grad`. Clipping sees it after GC. For
            engines that flatten or partition gradients (FSDP1, ZeRO): attach before the model is wrapped. GC is linear,
            so that it commutes with accumulation, with averaging over workers, and with loss scaling.

    Returns:
        What can be removed again, with `remove()`. A state_dict is that of the optimizer alone. Copies of the optimizer
        (deepcopy, pickle) have no hooks, as always in PyTorch: attach to the copy.

    Raises:
        TypeError: an argument is of the wrong kind; the optimizer runs no step hooks.
        ValueError: it is an optimizer of gc_torch; GC is attached already; there is nothing to centralize; the
            optimizer has none of the model's parameters; an unknown `where`; errors of `plan`.
        During `step`, TypeError: a gradient is sparse; then no gradient has changed.

    >>> layer = nn.Linear(3, 1, bias=False)
    >>> _ = nn.init.constant_(layer.weight, 1.0)
    >>> optimizer = torch.optim.RMSprop(layer.parameters(), lr=0.5)
    >>> attached = attach(optimizer, layer)
    >>> attached
    GC in front of RMSprop: 1 of its 1 parameters, when it steps
    >>> layer.weight.grad = torch.tensor([[3.0, 0.0, 0.0]])
    >>> optimizer.step()
    >>> layer.weight.grad
    tensor([[ 2., -1., -1.]])
    >>> attached.remove()

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), section 3.2: GC can be embedded into any optimizer
    by centralizing the gradient first.
    """
    _check(optimizer, model, plan, overrides, where)
    plan = plan_of(model, overrides) if plan is None else plan
    if where == "gradient":
        return _attach_to_gradients(optimizer, model, plan)
    assert optimizer is not None
    rows = [plan.row_of(p) for group in optimizer.param_groups for p in group["params"]]
    if all(row is None for row in rows):
        shapes = ", ".join(str(tuple(p.shape)) for p in optimizer.param_groups[0]["params"][:3])
        raise ValueError(
            f"the optimizer has none of the model's {len(plan)} parameters; its own have shapes {shapes}. If an engine "
            'has flattened or partitioned them, attach with where="gradient" before the model is wrapped'
        )
    on = sum(row is not None and row.axes is not None for row in rows)
    if not on:
        raise ValueError(f"there is nothing to centralize among the optimizer's {len(rows)} parameters:\n{plan}")

    what = f"GC in front of {type(optimizer).__name__}: {on} of its {len(rows)} parameters, when it steps"
    if None in rows:
        what += f"; {rows.count(None)} are not the model's"
    handle = optimizer.register_step_pre_hook(functools.partial(_before_step, plan))
    _optimizers[optimizer] = made = Attachment(plan, [handle], what)
    return made


def _check(optimizer: Any, model: Any, plan: Any, overrides: Any, where: Any) -> None:
    if not isinstance(where, str) or where not in PLACES:
        kind = ValueError if isinstance(where, str) else TypeError
        raise kind(f"where must be one of {', '.join(map(repr, PLACES))}; got {where!r}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__qualname__}")
    if plan is not None and not isinstance(plan, ModelPlan):
        raise TypeError(f"plan must be what gc_torch.plan(model) gives, or None; got {type(plan).__qualname__}")
    if plan is not None and overrides is not None:
        raise TypeError("give overrides to the plan that you give: plan=gc_torch.plan(model, overrides)")
    if optimizer is None and where == "gradient":
        return
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer; got {type(optimizer).__qualname__}")
    name = type(optimizer).__name__
    if isinstance(optimizer, CentralizingOptimizer):
        raise ValueError(
            f"gc_torch.{name} centralizes by itself, and would do so twice: give it the plan, {name}(model, plan=…), "
            f"or attach to torch.optim.{name}"
        )
    if optimizer in _optimizers:
        raise ValueError(f"GC is attached already ({_optimizers[optimizer]}): remove() that first")
    if where == "step" and not (
        hasattr(optimizer, "_optimizer_step_pre_hooks") and getattr(type(optimizer).step, "hooked", False)
    ):
        raise TypeError(
            f"{name} runs no step hooks: if it wraps another optimizer, attach to that one; if not, attach with "
            'where="gradient"'
        )


# ---- When the optimizer steps


def _before_step(plan: ModelPlan, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Centralize now; or, where a closure is to compute gradients inside the step, each time that it has."""
    closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer
    if closure is None:
        _centralize_gradients(plan, optimizer)
        return None

    @functools.wraps(closure)
    def closure_with_gc() -> Any:
        loss = closure()
        _centralize_gradients(plan, optimizer)
        return loss

    if len(args) > 1:
        return (args[0], closure_with_gc, *args[2:]), kwargs
    return args, {**kwargs, "closure": closure_with_gc}


@torch.no_grad()
def _centralize_gradients(plan: ModelPlan, optimizer: torch.optim.Optimizer) -> None:
    found: list[tuple[Any, Row]] = [(p, row) for p, row in _with_gc(plan, optimizer) if p.grad is not None]
    for p, row in found:
        _check_dense(row, p.grad)
    grads = [sharded.local_grad(p, p.grad) for p, _ in found]
    rows: list[Any] = [sharded.row_of_shard(p, row) for p, row in found]
    some_split = any(isinstance(row, sharded.Split) for row in rows)
    split = sharded.means([widen(grad) for grad in grads], rows) if some_split else {}
    for i, ((p, _), grad, row) in enumerate(zip(found, grads, rows, strict=True)):
        if i in split:
            grad.copy_(widen(grad) - split[i])
        else:
            _phi_(grad, row)
        if sharded.is_sharded(p) and p.grad.placements != p.placements:
            p.grad = sharded.sharded_like(p, grad)


def _with_gc(plan: ModelPlan, optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, Row]]:
    for group in optimizer.param_groups:
        for p in group["params"]:
            row = plan.row_of(p)
            if row is not None and row.axes is not None:
                yield p, row


def _check_dense(row: Row, grad: Any) -> None:
    checks.array(TORCH, f"the gradient of {row.name}", grad)


def _phi_(grad: Tensor, row: Row) -> None:
    wide = widen(grad)
    if wide is grad and row.view == row.shape:
        grad.sub_(grad.mean(row.axes, keepdim=True))
    else:
        grad.copy_(_phi(grad, row))


def _phi(grad: Tensor, row: Row) -> Tensor:
    """In at least float32, and rounded once."""
    return rounded(center(widen(grad).reshape(row.view), row.axes).reshape(row.shape), grad.dtype)


# ---- During backward


def _attach_to_gradients(optimizer: Any, model: nn.Module, plan: ModelPlan) -> Attachment:
    places = []  # (module, name in it, parameter, row)
    for module in model.modules():
        for local, p in module.named_parameters(recurse=False, remove_duplicate=False):
            row = plan.row_of(p)
            if row is None or row.axes is None or not p.requires_grad:
                continue
            if p in _parameters:
                raise ValueError(f"GC is attached already ({_parameters[p]}): remove() that first")
            if sharded.is_sharded(p):
                raise ValueError(f'{row.name} is sharded in its own shape: attach to its optimizer, with where="step"')
            places.append((module, local, p, row))
    if not places:
        raise ValueError(f"there is nothing to centralize among the model's parameters:\n{plan}")

    hooked = {p: row for _, _, p, row in places}
    handles = [p.register_hook(functools.partial(_hook, row)) for p, row in hooked.items()]
    handles += [
        module.register_forward_pre_hook(functools.partial(_hook_stand_in, local, row))
        for module, local, _, row in places
    ]
    what = f"GC on the gradients of {len(hooked)} of the model's {len(plan)} parameters, in backward"
    made = Attachment(plan, handles, what)
    _parameters.update(dict.fromkeys(hooked, made))
    if optimizer is not None:
        _optimizers[optimizer] = made
    return made


def _hook(row: Row, grad: Tensor) -> Tensor:
    _check_dense(row, grad)
    return _phi(grad, row)


def _hook_stand_in(local: str, row: Row, module: nn.Module, args: Any) -> None:
    """An engine that flattens parameters puts views of its own in their place, new ones for each forward pass."""
    x = getattr(module, local, None)
    if isinstance(x, Tensor) and not x.is_leaf and tuple(x.shape) == row.shape and not hasattr(x, "_has_gc"):
        x._has_gc = True  # type: ignore[attr-defined]
        x.register_hook(functools.partial(_hook, row))

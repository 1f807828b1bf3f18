"""SGD, Adam and AdamW of `torch.optim`, with GC.

They are subclasses: arguments, groups, state and hooks are PyTorch's own, and so are the steps that are taken. A
gradient with GC goes through such a step in a temporary's place, so that `p.grad` stays as it is.
"""

import operator
from collections.abc import Collection, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from gc_core import checks
from gc_core.plan import Row
from gc_torch import compat, path, sharded, table, temporaries
from gc_torch.arrays import TORCH, as_scalar, given, is_half, widen
from gc_torch.plan import ModelPlan
from gc_torch.plan import plan as plan_of
from gc_torch.temporaries import Columns, select

Params = nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]


class CentralizingOptimizer(torch.optim.Optimizer):
    """What the three optimizers share: the plan, and where GC stands in a step."""

    kind: ClassVar[str]
    states: ClassVar[tuple[str, ...]]  # by parameter, of the parameter's shape and dtype
    plan: ModelPlan

    @property
    def _names(self) -> tuple[str, ...]:
        """Of the columns after parameters and gradients."""
        return (*self.states, "step")

    def check(self, group: dict[str, Any]) -> None:
        """Raise if an option of a group is wrong."""
        raise NotImplementedError

    def torch_step(
        self,
        group: dict[str, Any],
        taken: str,
        columns: Columns,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
    ) -> None:
        """PyTorch's own step on these columns, with the options of the group."""
        raise NotImplementedError

    # -- parameters and their axes --------------------------------------------------------------------------------

    def _groups(self, params: Params, plan: ModelPlan | None, **ours: Any) -> Any:
        """Fix the plan, and give the groups to hand to PyTorch's constructor, with options that it may not know."""
        self._scratch = temporaries.Scratch()
        self._kernels: dict[Any, Any] = {}  # what kernels keep of each group
        self._known: dict[int, Known] = {}  # what was found of each group in the step before
        self._geometries: dict[Tensor, Any] = {}
        self._places: list[list[str]] = []  # of each group, the names of its parameters in the plan
        if plan is not None and not isinstance(plan, ModelPlan):
            raise TypeError(f"plan must be what gc_torch.plan(model) gives, or None; got {type(plan).__qualname__}")
        if isinstance(params, nn.Module):
            self.plan = plan_of(params) if plan is None else plan
            params = params.parameters()
        else:
            self.plan = ModelPlan([], {}) if plan is None else plan
        if isinstance(params, Tensor):
            return params  # PyTorch says what is wrong with it
        groups: list[Any] = list(params)
        if groups and not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        return [{**ours, **group} if isinstance(group, dict) else group for group in groups]

    def _made(self, plan: ModelPlan | None, **ours: Any) -> None:
        """What is left to do when PyTorch's constructor is done."""
        self.defaults.update(ours)
        params = [p for group in self.param_groups for p in group["params"]]
        if plan is not None and plan.rows and params and all(plan.row_of(p) is None for p in params):
            raise ValueError(
                f"plan must be made of the model whose parameters these are; it has {len(plan)}, and none of them is "
                "here (fully_shard and copying replace parameters: make the plan after that)"
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as in `torch.optim`; parameters that the plan does not know get the shape rule "out_first"."""
        if isinstance(param_group, dict):
            self.check({**self.defaults, **param_group})
        super().add_param_group(param_group)
        try:
            self._learn(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise
        self._places.append([cast(Row, self.plan.row_of(p)).name for p in self.param_groups[-1]["params"]])

    def _learn(self, group: dict[str, Any]) -> None:
        """Give every parameter of a group a row in the plan."""
        # By identity: to compare groups would compare their tensors.
        index = next(i for i, one in enumerate(self.param_groups) if one is group)
        unknown = {}
        for i, p in enumerate(group["params"]):
            if self.plan.row_of(p) is None:
                name = group["param_names"][i] if "param_names" in group else f"group{index}.{i}"
                while name in self.plan or name in unknown:
                    name += "'"
                unknown[name] = p
        if unknown:
            self.plan = self.plan.with_parameters(unknown)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "plan": self.plan, "_places": self._places}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Loading a state_dict replaces whole groups: options that it lacks stay what they are.
        for group, current in zip(state["param_groups"], self.__dict__.get("param_groups", ()), strict=False):
            for option, value in current.items():
                group.setdefault(option, value)
        if "param_groups" in self.__dict__:
            for group in self.param_groups:
                for p in group["params"]:
                    if of_p := state["state"].get(p):
                        self._check_kind(of_p)
        self.__dict__.setdefault("_scratch", temporaries.Scratch())
        self._kernels, self._geometries, self._known = {}, {}, {}
        super().__setstate__(state)

    def __repr__(self) -> str:
        lines = [super().__repr__().removesuffix(")")]
        for i, group in enumerate(self.param_groups):
            rows = [self.plan.row_of(p) for p in group["params"]]
            on = sum(row is not None and row.axes is not None for row in rows) if group["gc_on"] else 0
            params = [sharded.local(p) for p in group["params"]]
            first, otherwise = path.choose(group, params)
            halves = group["gc_on"] is not None
            taken = set()
            for whole, p, row in zip(group["params"], params, rows, strict=True):
                found = self._kernel_for(group, whole, p, row, p, ()) if first == path.FUSED else None
                if found is not None:
                    taken.add(found[0].NAME)
                elif first == path.FUSED and not path.fused_is_right(self.kind, p, (), widened=halves):
                    taken.add(otherwise)
                else:
                    taken.add(first)
            gc = f"GC on the {group['gc_on']} of {on} of" if group["gc_on"] else "no GC on"
            faster = path.would_be_faster(group, params) if path.FUSED in taken else ""
            lines.append(f"Group {i}: {gc} {len(rows)} parameters; path: {', '.join(sorted(taken))}{faster}\n")
        return "".join([*lines, ")"])

    # -- a step ---------------------------------------------------------------------------------------------------

    @compat.use_grad_for_differentiable
    def step(self, closure: Any = None) -> Any:
        """Take one step.

        Args:
            closure: reevaluates the model and returns the loss; called once.

        Raises:
            TypeError, ValueError: an option, a gradient or a state is wrong; then nothing has changed.
        """
        if self.kind == "adam":
            compat.graph_capture_health_check(self)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self.check(group)
        recognized = [self._recognized(i, group) for i, group in enumerate(self.param_groups)]
        for group, batches in zip(self.param_groups, recognized, strict=True):
            if batches is None:
                self._check_group(group)
        batches = [
            batch
            for i, group in enumerate(self.param_groups)
            for batch in (self._batches(i, group) if recognized[i] is None else recognized[i])  # type: ignore[union-attr]
        ]

        # A GradScaler leaves these to optimizers that were asked for the fused step.
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if found_inf is not None and not all(batch.heeds_found_inf for batch in batches):
            if found_inf.item():
                return loss
            found_inf = None
        for batch in batches:
            if grad_scale is not None and not batch.heeds_grad_scale:
                _unscale(batch.columns[1], grad_scale, found_inf)
                self._take(batch, None, found_inf)
            else:
                self._take(batch, grad_scale, found_inf)
        return loss

    def _check_group(self, group: dict[str, Any]) -> None:
        for p in group["params"]:
            if p.grad is not None:
                if (row := self.plan.row_of(p)) is None:  # put into the group by hand
                    self._follow(group)
                    self._learn(group)
                    row = cast(Row, self.plan.row_of(p))
                try:
                    self._check_tensors(group, row, p, p.grad, self.state.get(p))
                except (TypeError, ValueError) as error:
                    raise type(error)(f"{row.name}: {error}") from None

    def _follow(self, group: dict[str, Any]) -> None:
        """Where every parameter was replaced, those of the same shapes in the same places are the same parameters."""
        params = [p for group in self.param_groups for p in group["params"]]
        if group["gc_on"] is None or any(self.plan.row_of(p) for p in params):
            return
        names = [name for place in self._places for name in place]
        if [self.plan[name].shape for name in names] == [tuple(p.shape) for p in params]:  # Accelerate, with FSDP2
            self.plan = self.plan.of_parameters(dict(zip(names, params, strict=True)))
            return
        shapes = ", ".join(str(tuple(p.shape)) for p in params[:3])
        raise ValueError(
            "the plan knows none of the parameters that are in the optimizer now: something has replaced them all, by "
            f"others of shapes {shapes} …, as ZeRO engines do, which flatten them. Of flat ones the weight vectors are "
            "lost. Use fully_shard (FSDP2) or ZeroRedundancyOptimizer, which keep shapes; or one without GC, after "
            'gc_torch.attach(None, model, where="gradient") before the model is wrapped'
        )

    def _check_tensors(self, group: dict[str, Any], row: Row, p: Tensor, grad: Tensor, state: Any) -> None:
        with_gc = group["gc_on"] is not None
        sharded.check_like(p, "the gradient", grad)
        if (with_gc and row.axes is not None) or (grad.layout != torch.strided and self.kind == "adam"):
            checks.array(TORCH, "the gradient", grad, allow_complex=self.kind == "sgd")
        if with_gc:
            _check_like(p, "the gradient", grad)
        if not state:
            return
        self._check_kind(state)
        for name in self.states:
            value = state.get(name)
            if name == "max_exp_avg_sq":
                if not group["amsgrad"]:
                    continue
                checks.amsgrad_state(True, value)
            if value is not None or self.kind == "adam":
                sharded.check_like(p, f"the state's {name}", value)
                _check_like(p, f"the state's {name}", value)
                if value is not None and value.layout not in (torch.strided, grad.layout):
                    checks.array(TORCH, f"the state's {name}", value)
        if self.kind == "adam":
            step = state["step"]
            if not isinstance(step, Tensor) or step.numel() != 1:
                raise TypeError(f"the state's step must be a torch.Tensor of one number; got {step!r}")

    def _check_kind(self, state: dict[str, Any]) -> None:
        needed = ("step", "exp_avg", "exp_avg_sq") if self.kind == "adam" else self.states
        if any(name not in state for name in needed):
            raise TypeError(
                f"its state must be that of {type(self).__name__}, with {', '.join(needed)}; it has {sorted(state)}"
            )

    def _recognized(self, index: int, group: dict[str, Any]) -> "list[Batch] | None":
        """The batches of a group if they are those of the step before; None if anything may differ.

        Most of a step's time on the host goes by where there are thousands of small tensors: no more than what can
        change from one step to the next is looked at, and all of it.
        """
        known = self._known.get(index)
        if known is None or known.options != self._options(group):
            return None
        grads = [p.grad for p in group["params"]]
        if not (
            _are(group["params"], known.params)
            and [grad is None for grad in grads] == known.without
            and _are(self.state.values(), known.states)  # what hashing thousands of parameters would find out
        ):
            return None
        batches = []
        try:
            for batch, indices, states, alike in known.batches:
                columns: Columns = [batch.params, [grads[i] for i in indices]]
                columns += [[state[name] for state in states] if name else [] for name in known.names]
                if not alike.holds(columns):
                    return None
                batches.append(batch._replace(group=group, columns=columns))
        except (KeyError, TypeError, RuntimeError):  # a state is missing; a sparse tensor has no strides
            return None
        return batches

    def _options(self, group: dict[str, Any]) -> list[Any]:
        """What decides about paths and columns, beside the tensors."""
        names = ("gc_on", "fused", "foreach", "capturable", "differentiable", "amsgrad")
        return [self.plan, path.sees_numbers(group), bool(given(group.get("momentum", 0))), *map(group.get, names)]

    def _batches(self, index: int, group: dict[str, Any]) -> "list[Batch]":
        """The parameters that have a gradient, by what the step does with them."""
        batches = list(self._sorted_out(index, group))
        self._known.pop(index, None)
        if batches and all(batch.may_be_known for batch in batches):
            names = [name if column else "" for name, column in zip(self._names, batches[0].columns[2:], strict=False)]
            params = list(group["params"])
            places = {id(p): i for i, p in enumerate(params)}
            # Without the columns, which would keep gradients alive.
            recognizable = [
                KnownBatch(
                    batch._replace(columns=[]),
                    [places[id(p)] for p in batch.params],
                    [self.state.get(p, {}) for p in batch.params],
                    table.Alike(batch.columns),
                )
                for batch in batches
            ]
            without, states = [p.grad is None for p in params], list(self.state.values())
            self._known[index] = Known(self._options(group), params, without, states, names, recognizable)
        return batches

    def _sorted_out(self, index: int, group: dict[str, Any]) -> Iterator["Batch"]:
        columns = self.columns(group)
        whole = columns[0]
        rows = [sharded.row_of_shard(p, cast(Row, self.plan.row_of(p))) for p in whole]
        columns[1] = [sharded.local_grad(p, grad) for p, grad in zip(whole, columns[1], strict=True)]
        columns = [[sharded.local(x) for x in column] for column in columns]
        params, grads = columns[:2]
        states = [column for column in columns[2 : 2 + len(self.states)] if column]
        with_gc = group["gc_on"] is not None
        first, otherwise = path.choose(group, params)
        found: dict[Any, list[int]] = {}
        for i, p in enumerate(params):
            ours = with_gc and (rows[i].axes is not None or is_half(p))
            others = [column[i] for column in states]
            fresh = bool(others) and others[0] is None
            split = isinstance(rows[i], sharded.Split)
            taken = first
            plain = first == path.FUSED and not split
            if plain and self._kernel_for(group, whole[i], p, cast(Row, rows[i]), grads[i], others) is not None:
                alike = (p.device, p.dtype, _dtype_of(others, p), columns[-1][i].dtype if self.kind == "adam" else None)
                found.setdefault((True, fresh, path.KERNEL, alike), []).append(i)
                continue
            # Split ones meet in collectives: their path must not hang on the strides that one device happens to have.
            if plain:
                read = [] if fresh else others
                if not ours:  # ours: it comes in a temporary like p
                    read = [grads[i], *read]
                if not path.fused_is_right(self.kind, p, read, widened=ours):
                    taken = otherwise
            # PyTorch's other steps take both kinds at once, and round by whether any is fresh.
            found.setdefault((ours, fresh and taken == path.FUSED, taken, split), []).append(i)
        for (ours, fresh, taken, alike), indices in found.items():
            (params,) = select([whole], indices)
            steps, seen = temporaries.Steps(self._scratch) if ours else None, None
            if taken == path.KERNEL:
                geometries = [self._geometries[p][1] for p in params]
                key = (index, *alike, tuple(geometries))  # fresh or not: the second may be captured
                if key not in self._kernels:
                    self._kernels[key] = cast(Any, path.kernels(group, params[0].device)).Steps()
                steps, seen = self._kernels[key], np.array(geometries, np.int64)
            columns_here, rows_here = select(columns, indices), [rows[i] for i in indices]
            yield Batch(group, taken, ours, fresh, params, columns_here, rows_here, steps, seen)

    def _kernel_for(
        self, group: dict[str, Any], p: Tensor, local: Tensor, row: Row | None, grad: Tensor, states: Sequence[Any]
    ) -> tuple[ModuleType, table.Geometry] | None:
        """The kernel that stands in for the fused step of a parameter, and how it sees it; None: there is none."""
        kernel = path.kernels(group, local.device)
        if kernel is None or not path.kernel_is_right(kernel, local, grad, states):
            return None
        seen = self._geometry(p, local, row)
        if seen is None or not kernel.takes(group, local, _dtype_of(states, local), seen):
            return None
        if not path.compiles(kernel, self.kind, local.dtype):
            return None
        return kernel, seen

    def _geometry(self, p: Tensor, local: Tensor, row: Row | None) -> table.Geometry | None:
        """How a kernel sees the parameter, which stays as it is as long as the strides and the row do."""
        key = (local.stride(), row)
        known = self._geometries.get(p)
        if known is None or known[0] != key:
            known = self._geometries[p] = (key, table.geometry(local, row))
        return known[1]

    def _take(self, batch: "Batch", grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        if batch.taken == path.KERNEL:
            self._kernel_step(batch, grad_scale, found_inf)
            return
        if batch.ours:
            batch.steps.step(
                self.torch_step, batch.group, batch.taken, batch.params, batch.columns, batch.rows, found_inf
            )
        else:
            self.torch_step(batch.group, batch.taken, batch.columns, grad_scale, found_inf)
        if not batch.may_be_known:  # the states are what they were
            self.remember(batch.params, batch.columns)

    def _kernel_step(self, batch: "Batch", grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """One kernel for all of them. Where an infinity was found, it changes nothing."""
        columns = batch.columns
        if batch.fresh:  # zeros, for a step that finds an infinity leaves them
            columns = [*columns[:2], [torch.zeros_like(p) for p in columns[0]], *columns[3:]]
        batch.steps.step(self.kind, batch.group, columns, batch.seen, batch.fresh, found_inf, grad_scale)
        if batch.fresh:
            self.remember(batch.params, columns)

    def columns(self, group: dict[str, Any]) -> Columns:
        """Parameters with a gradient, their gradients and their states, which are made where there are none."""
        raise NotImplementedError

    def remember(self, params: list[Tensor], columns: Columns) -> None:
        """Keep what a step has put into the columns, where they are not the state itself."""


class KnownBatch(NamedTuple):
    """A batch of the step before: where its parameters are in their group, their states, what its tensors were like."""

    batch: "Batch"
    indices: list[int]
    states: list[dict[str, Any]]
    alike: table.Alike


class Known(NamedTuple):
    """What was found of a group in the step before, and what must be so still."""

    options: list[Any]
    params: list[Tensor]
    without: list[bool]  # a gradient
    states: list[dict[str, Any]]  # of all groups
    names: list[str]  # of the columns of states; empty for one there is not
    batches: list[KnownBatch]


class Batch(NamedTuple):
    """Parameters of one group that take the same way through a step."""

    group: dict[str, Any]
    taken: str  # the path
    ours: bool  # centralized, or half precision, which is computed in float32; the others are PyTorch's alone
    fresh: bool  # without the state they will have
    params: list[Tensor]
    columns: Columns  # of DTensors what this device holds
    rows: list[Row | sharded.Split]
    steps: Any = None  # the `Steps` of a kernel's page, or of `temporaries`; None: PyTorch's own alone
    seen: Any = None  # how a kernel sees the parameters

    @property
    def may_be_known(self) -> bool:
        """Whether the next step does the same with tensors like these."""
        if self.taken not in (path.FUSED, path.KERNEL) or self.fresh:
            return False
        return all(p is local for p, local in zip(self.params, self.columns[0], strict=True))

    @property
    def heeds_found_inf(self) -> bool:
        if self.taken == path.KERNEL:  # its next step would no longer be the first, which is undamped
            return not self.fresh or not given(self.group["dampening"])
        # PyTorch's fused SGD would keep an uninitialized momentum buffer.
        return self.taken == path.FUSED and not self.fresh

    @property
    def heeds_grad_scale(self) -> bool:
        return self.taken == path.KERNEL or (self.taken == path.FUSED and not self.ours)


def _dtype_of(states: Sequence[Tensor | None], p: Tensor) -> torch.dtype:
    """Of the states of a parameter; of those that are not there yet, what it will be."""
    return p.dtype if not states or states[0] is None else states[0].dtype


def _are(some: Collection[Any], others: Collection[Any]) -> bool:
    """Whether they are the same objects."""
    return len(some) == len(others) and all(map(operator.is_, some, others))


def _check_like(p: Tensor, name: str, value: Any) -> None:
    if not isinstance(value, Tensor) or (value.shape, value.dtype, value.device) != (p.shape, p.dtype, p.device):
        checks.array(TORCH, name, value)
        checks.like(TORCH, p, name, value)


def _unscale(grads: list[Tensor], grad_scale: Tensor, found_inf: Tensor | None) -> None:
    """Divide p.grad as PyTorch's fused steps do: not where an infinity was found."""
    scale = grad_scale if found_inf is None else torch.where(found_inf > 0, torch.ones_like(grad_scale), grad_scale)
    for grad in grads:
        here = scale.to(grad.device, non_blocking=True)
        grad.copy_(widen(grad) / here) if is_half(grad) else grad.div_(here)


def _read(number: Any) -> Any:
    """What an option must be checked for: a tensor on a CPU is read, one elsewhere would be waited for."""
    here = type(number) in (Tensor, nn.Parameter) and number.device.type == "cpu" and number.numel() == 1
    here = here and number.is_floating_point()
    return number.item() if here and not torch.compiler.is_compiling() else as_scalar(number)


class SGD(CentralizingOptimizer, torch.optim.SGD):
    """`torch.optim.SGD` with GC: the same arguments, defaults, groups, state and hooks.

    Formula: that of `sgdm_update`, with PyTorch's own first step, m ← g. GC adds two arguments.

    Args:
        params: a model, whose plan is then made; or, as in PyTorch, parameters, named parameters, or groups. What no
            plan knows gets the rule "out_first" by its shape alone, which is wrong for transposed convolutions,
            `transformers`' Conv1D, embeddings, experts, and any other matrix that is not stored (out, in, …).
        lr, momentum, dampening, weight_decay, nesterov, maximize, foreach, differentiable, fused: as in PyTorch.
        gc_on: "gradient" (the paper), "update" (the step is centralized instead), or None: no GC, and PyTorch's
            results to the last bit. An option of a group like any other.
        plan: from `gc_torch.plan(model)`: which axes of which parameter. It stays with the optimizer: no state_dict
            contains or changes it.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value.

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
        gc_on: str | None = "gradient",
        plan: ModelPlan | None = None,
    ):
        options: dict[str, Any] = dict(
            lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov
        )
        self.check({**options, "gc_on": gc_on})
        groups = self._groups(params, plan, gc_on=gc_on)
        super().__init__(
            groups, **options, maximize=maximize, foreach=foreach, differentiable=differentiable, fused=fused
        )
        self._made(plan, gc_on=gc_on)

    def check(self, group: dict[str, Any]) -> None:
        checks.sgdm(
            lr=_read(group["lr"]),
            momentum=_read(group["momentum"]),
            dampening=_read(group["dampening"]),
            nesterov=group["nesterov"],
            weight_decay=_read(group["weight_decay"]),
            decoupled=False,
            gc_on=_place(group["gc_on"]),
            framework=TORCH,
        )

    def columns(self, group: dict[str, Any]) -> Columns:
        params, grads, buffers = [], [], []
        self._init_group(group, params, grads, buffers)
        return [params, grads, buffers]

    def torch_step(self, group, taken, columns, grad_scale, found_inf):
        params, grads, buffers = columns
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

    def check(self, group: dict[str, Any]) -> None:
        betas = group["betas"]
        checks.adam(
            lr=_read(group["lr"]),
            betas=tuple(map(_read, betas)) if isinstance(betas, (tuple, list)) else betas,
            eps=_read(group["eps"]),
            weight_decay=_read(group["weight_decay"]),
            decoupled=group["decoupled_weight_decay"],
            amsgrad=group["amsgrad"],
            gc_on=_place(group["gc_on"]),
            framework=TORCH,
        )

    def columns(self, group: dict[str, Any]) -> Columns:
        columns: Columns = [[], [], [], [], [], []]
        compat.init_adam_group(self, group, columns)
        return columns

    def torch_step(self, group, taken, columns, grad_scale, found_inf):
        params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps = columns
        counted = steps
        if group["gc_on"] and taken != path.FUSED and (group["differentiable"] or group["capturable"]):
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

    def _sorted_out(self, index: int, group: dict[str, Any]) -> Iterator[Batch]:
        for batch in super()._sorted_out(index, group):
            if batch.taken in (path.FUSED, path.KERNEL):
                steps = batch.columns[-1]
                for i, p in enumerate(batch.params):  # kept on the host for the other paths, unless asked for
                    if steps[i].device != p.device:
                        steps[i] = self.state[p]["step"] = steps[i].to(p.device)
                    if batch.taken == path.KERNEL and steps[i].dtype not in (torch.float32, torch.float64):
                        steps[i] = self.state[p]["step"] = steps[i].float()
            yield batch


class Adam(_AdamSteps, torch.optim.Adam):
    """`torch.optim.Adam` with GC: the same arguments, defaults, groups, state and hooks.

    Formula: that of `adam_update`; weight_decay is L2, added to the gradient.

    Args:
        params, gc_on, plan: see `SGD`.
        lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay: as in PyTorch.
        foreach, maximize, capturable, differentiable, fused: as in PyTorch.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value.

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
        gc_on: str | None = "gradient",
        plan: ModelPlan | None = None,
    ):
        options: dict[str, Any] = dict(
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad
        )  # fmt: skip
        ours = dict(gc_on=gc_on, decoupled_weight_decay=decoupled_weight_decay)
        self.check({**options, **ours})
        groups = self._groups(params, plan, **ours)
        super().__init__(
            groups, **options, foreach=foreach, maximize=maximize, capturable=capturable,
            differentiable=differentiable, fused=fused, **compat.adam_options(decoupled_weight_decay),
        )  # fmt: skip
        self._made(plan, **ours)


class AdamW(_AdamSteps, torch.optim.AdamW):
    """`torch.optim.AdamW` with GC: the same arguments, defaults, groups, state and hooks.

    Formula: that of `adam_update` with `decoupled=True`. With GC on the gradient the decay is not centralized; on the
    update it is.

    Args:
        params, gc_on, plan: see `SGD`.
        lr, betas, eps, weight_decay, amsgrad, maximize, foreach, capturable, differentiable, fused: as in PyTorch.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or value.

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
        gc_on: str | None = "gradient",
        plan: ModelPlan | None = None,
    ):
        options: dict[str, Any] = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)
        ours = dict(gc_on=gc_on, decoupled_weight_decay=True)
        self.check({**options, **ours})
        groups = self._groups(params, plan, **ours)
        super().__init__(
            groups, **options, maximize=maximize, foreach=foreach, capturable=capturable,
            differentiable=differentiable, fused=fused,
        )  # fmt: skip
        self._made(plan, **ours)


def _place(gc_on: Any) -> str:
    """The place of GC as the checks of the rules want it, which know no None."""
    checks.place(gc_on, optional=True)
    return gc_on or checks.PLACES[0]

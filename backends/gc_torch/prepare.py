"""What a step does with each parameter of a group: parameters that take the same path make one batch."""

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from gc_core.plan import Row
from gc_torch import low_precision, memory, path, sharded, table, temporaries
from gc_torch.arrays import given, is_half
from gc_torch.pieces import Columns, select
from gc_torch.scratch import Scratch


class Batch(NamedTuple):
    """Parameters of one group that take the same path through a step."""

    group: dict[str, Any]
    path: str
    by_our_rules: bool  # centralized, or half precision, which is computed in float32; the others are PyTorch's alone
    fresh: bool  # without the state they will have
    params: list[Tensor]
    columns: Columns  # of DTensors what this device holds
    rows: list[Row | sharded.Split]
    steps: Any = None  # the `Steps` of a kernel's page, or of `temporaries`; None: PyTorch's own alone
    geometries: Any = None  # how a kernel sees the parameters
    streams: Sequence[int] = ()  # of random bits, where weights are rounded stochastically
    kept: bool = False  # it was prepared in an earlier step

    @property
    def may_be_kept(self) -> bool:
        """Whether the next step may do the same with tensors like these."""
        if self.path not in (path.FUSED, path.KERNEL) or self.fresh:
            return False
        return all(p is local for p, local in zip(self.params, self.columns[0], strict=True))

    @property
    def heeds_found_inf(self) -> bool:
        if self.path == path.KERNEL:  # its next step would no longer be the first, which is undamped
            return not self.fresh or not given(self.group["dampening"])
        # PyTorch's fused SGD would keep an uninitialized momentum buffer; and w + c is rounded anew at every step.
        return self.path == path.FUSED and not self.fresh and self.rounding is None

    @property
    def rounding(self) -> str | None:
        """How weights of low precision are rounded, of which then all are; None: to the nearest."""
        return low_precision.way_for(self.group, self.columns[0][0])

    @property
    def heeds_grad_scale(self) -> bool:
        return self.path == path.KERNEL or (self.path == path.FUSED and not self.by_our_rules)


class Rule(Protocol):
    """What is asked of an optimizer."""

    kind: str  # "sgd" or "adam"
    states: tuple[str, ...]  # by parameter, of the parameter's shape and dtype, but for the compensation

    def columns(self, group: dict[str, Any]) -> Columns: ...

    def settle(self, taken: str, params: list[Tensor], columns: Columns) -> None: ...


def batches(
    rule: Rule, group: dict[str, Any], rows: Sequence[Row], scratch: Scratch, streams: Sequence[int] = ()
) -> Iterator[Batch]:
    """The parameters of a group that have a gradient, by what the step does with them.

    Args:
        rule: the optimizer. States that are not there yet are made, as by PyTorch.
        group: its parameters and options, checked.
        rows: of the plan, one for each parameter that has a gradient.
        scratch: where temporaries come from.
        streams: of random bits, one for each of them, where weights are to be rounded stochastically.
    """
    columns = rule.columns(group)
    whole, with_gc = columns[0], group["gc_on"] is not None
    if not with_gc and group["low_precision"] is not None:  # else none of them is seen to by our rules
        rows = [row._replace(axes=None) for row in rows]
    local_rows = [sharded.row_of_shard(p, row) for p, row in zip(whole, rows, strict=True)]
    columns[1] = [sharded.local_grad(p, grad) for p, grad in zip(whole, columns[1], strict=True)]
    columns = [[sharded.local(x) for x in column] for column in columns]
    params, grads = columns[:2]
    states = [column for column in columns[2 : 2 + len(rule.states)] if column]
    steps_column = columns[2 + len(rule.states)]
    first, otherwise = path.choose(group, params)
    found: dict[Any, list[int]] = {}
    seen: dict[int, table.Geometry] = {}
    for i, p in enumerate(params):
        row = local_rows[i]
        rounding = low_precision.way_for(group, p)
        ours = rounding is not None or (with_gc and (row.axes is not None or is_half(p)))
        others = [column[i] for column in states]
        fresh = bool(others) and others[0] is None
        split = isinstance(row, sharded.Split)
        taken = first if with_gc or ours or group["fused"] else otherwise
        plain = taken == path.FUSED and not split
        kernel = kernel_for(rule.kind, group, p, row, grads[i], others) if plain and (ours or with_gc) else None
        if kernel is not None:
            seen[i] = kernel[1]
            alike = (p.device, p.dtype, _dtype_of(others, p), steps_column[i].dtype if steps_column else None)
            found.setdefault((True, fresh, path.KERNEL, alike), []).append(i)
            continue
        # Split ones meet in collectives: their path must not hang on the strides that one device happens to have.
        if plain:
            read = [] if fresh else [x for x in others if x is not None]
            if not ours:  # ours: it comes in a temporary like p
                read = [grads[i], *read]
            if not path.fused_is_right(rule.kind, p, read, widened=ours):
                taken = otherwise
        # PyTorch's other steps take both kinds at once, and round by whether any is fresh.
        found.setdefault((ours, fresh and taken == path.FUSED, taken, (split, rounding)), []).append(i)
    for (ours, fresh, taken, _), indices in found.items():
        (params_here,) = select([whole], indices)
        steps: Any = temporaries.Steps(scratch) if ours else None
        geometries = None
        if taken == path.KERNEL:
            page = path.kernels(group, params[indices[0]].device)
            assert page is not None
            steps, geometries = page.Steps(), np.array([seen[i] for i in indices], np.int64)
        rows_here, columns_here = [local_rows[i] for i in indices], select(columns, indices)
        for at in range(2 + len(rule.states), len(columns)):  # steps and compensations: all of them have one, or none
            if columns_here[at] and columns_here[at][0] is None:
                columns_here[at] = []
        rule.settle(taken, params_here, columns_here)
        streams_here = [streams[i] for i in indices] if streams and ours and is_half(params[indices[0]]) else ()
        yield Batch(
            group, taken, ours, fresh, params_here, columns_here, rows_here, steps, geometries, streams=streams_here
        )


def kernel_for(
    kind: str, group: dict[str, Any], p: Tensor, row: Any, grad: Tensor, states: Sequence[Any], *, ready: bool = True
) -> tuple[ModuleType, table.Geometry] | None:
    """The kernel that stands in for the fused step of a parameter, and how it sees it; None: there is none.

    It is compiled, if it is not and must be ready.
    """
    if isinstance(row, sharded.Split):
        return None
    if group["gc_on"] is None:
        row = row._replace(axes=None)
    kernel = path.kernels(group, p.device)
    if kernel is None or not path.kernel_is_right(kernel, p, grad, states):
        return None
    geometry = table.geometry(p, row)
    if geometry is None or not kernel.takes(group, p, _dtype_of(states, p), geometry):
        return None
    return (kernel, geometry) if not ready or path.is_ready(kernel, kind, p.dtype) else None


def written(batch: Batch) -> list[Tensor]:
    """What a step of a batch has written through addresses; PyTorch's own operations say so themselves."""
    if batch.path not in (path.FUSED, path.KERNEL):
        return []
    params, _, *states = batch.columns
    if batch.path == path.KERNEL:
        return [*params, *(x for column in states for x in column if x is not None)]
    return [x for column in (params, *states) for x in column if x is not None and type(x) in memory.PLAIN]


def unscale(grads: list[Tensor], grad_scale: Tensor, found_inf: Tensor | None) -> None:
    """Divide p.grad as PyTorch's fused steps do: not where an infinity was found."""
    scale = grad_scale if found_inf is None else torch.where(found_inf > 0, torch.ones_like(grad_scale), grad_scale)
    for grad in grads:
        here = scale.to(grad.device, non_blocking=True)
        grad.copy_(grad.float() / here) if is_half(grad) else grad.div_(here)


def _dtype_of(states: Sequence[Tensor | None], p: Tensor) -> torch.dtype:
    """Of the states of a parameter; of those that are not there yet, what it will be."""
    return p.dtype if not states or states[0] is None else states[0].dtype

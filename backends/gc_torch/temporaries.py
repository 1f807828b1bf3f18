"""PyTorch's own steps with GC: they are given temporaries, so that a gradient with GC is nowhere stored for long.

On a CPU a temporary is small enough to stay in the cache from when it is written until the step has read it: large
tensors are cut. Its memory is kept from step to step, since fresh pages cost more than the arithmetic.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from gc_core.plan import Row
from gc_torch import path, sharded
from gc_torch.arrays import as_scalar, given, is_dense, is_half

Columns = list[list[Any]]  # parameters, gradients, and the states of the step, each a list with one entry a parameter
Lender = Callable[[Tensor, torch.dtype], Tensor | None]
Rows = Sequence[Row | sharded.Split]

# Elements of the temporaries at a time: on a CPU for its cache, elsewhere enough to keep kernels few.
_AT_A_TIME = {"cpu": 1 << 20}
_AT_A_TIME_ELSEWHERE = 1 << 26
_SMALL = 1 << 14  # elements, at most, of a tensor that is centralized in one go with those that are alike
_SHARED = 1 << 22  # elements of a tensor that is read twice, for the means and for the step, rather than cut
_KEEP_AT_MOST = 1 << 28  # bytes of one device and dtype; beyond it, memory is given back


class Scratch:
    """Hands out uninitialized tensors that are valid until `clear`."""

    def __init__(self):
        self._flat: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._used: dict[tuple[torch.device, torch.dtype], int] = {}

    def like(self, p: Tensor, dtype: torch.dtype) -> Tensor:
        """A tensor of the shape and strides of p."""
        key = (p.device, dtype)
        start = self._used.get(key, 0)
        self._used[key] = start + -(-p.numel() // 16) * 16  # the next one starts on a cache line
        flat = self._flat.get(key)
        if flat is None or start + p.numel() > flat.numel() or not is_dense(p):
            return torch.empty_like(p, dtype=dtype, requires_grad=False)
        return flat[start : start + p.numel()].as_strided(p.shape, p.stride())

    def clear(self) -> None:
        """Take back what was handed out, and keep as much for the next time."""
        for key, used in self._used.items():
            device, dtype = key
            flat = self._flat.get(key)
            if (
                device.type == "cpu"
                and used * dtype.itemsize <= _KEEP_AT_MOST
                and (flat is None or flat.numel() < used)
            ):
                self._flat[key] = torch.empty(used, dtype=dtype, device=device)
        self._used.clear()


def select(columns: Columns, indices: Sequence[int]) -> Columns:
    """The columns of some parameters; a column may be empty."""
    return [[column[i] for i in indices] if column else [] for column in columns]


def step(
    torch_step: Callable[..., None],
    group: dict[str, Any],
    taken: str,
    params: list[Tensor],
    columns: Columns,
    rows: Rows,
    found_inf: Tensor | None,
    scratch: Scratch,
) -> None:
    """One step with GC of the parameters of a group. States that are made by the step are put into the columns.

    Args:
        torch_step: PyTorch's step, a function of (group, taken, columns, grad_scale, found_inf).
        group: the options.
        taken: the path, one of PyTorch's.
        params: the parameters; DTensors where they are split over devices.
        columns: what this device holds of the parameters, of their gradients and states, and Adam's steps.
        rows: what is centralized in each.
        found_inf: of a GradScaler; where it is not 0, nothing changes.
    """
    # Where autograd or a compiler is at work, every result is its own tensor.
    alone = group["differentiable"] or torch.compiler.is_compiling()
    lend: Lender = _lend_nothing if alone else scratch.like
    for indices in _at_a_time(params):
        some, some_rows = select(columns, indices), [rows[i] for i in indices]
        pieces, means = [some], None
        if taken == path.FUSED and not alone and len(indices) == 1 and some[0][0].numel() > _limit(some[0][0]):
            pieces, means = _cut(group, some, some_rows)
        for piece in pieces:
            scratch.clear()
            _step(torch_step, group, taken, piece, some_rows, means, found_inf, lend)
        for column, after in zip(columns, pieces[0] if len(pieces) == 1 else [], strict=False):
            for i, x in zip(indices, after, strict=False):
                column[i] = x


def _at_a_time(params: list[Tensor]) -> Iterator[list[int]]:
    indices, size = [], 0
    for i, p in enumerate(params):
        if indices and size + sharded.numel(p) > _limit(p):
            yield indices
            indices, size = [], 0
        indices.append(i)
        size += sharded.numel(p)
    if indices:
        yield indices


def _limit(p: Tensor) -> int:
    return _AT_A_TIME.get(p.device.type, _AT_A_TIME_ELSEWHERE)


def _cut(group: dict[str, Any], columns: Columns, rows: Rows) -> tuple[list[Columns], Sequence[Tensor] | None]:
    """A large tensor in pieces, which lie one after another in memory, and the means, where a piece does not show them.
    A single piece if it cannot be cut."""
    (w,), (g,), *states = columns
    (row,) = rows
    whole = [columns], None
    if isinstance(row, sharded.Split) or row.view != row.shape or any(x is None for column in states for x in column):
        return whole
    axis = max((axis for axis in range(w.ndim) if w.size(axis) > 1), key=w.stride)
    means = None
    if row.axes is not None and axis in row.axes:
        inside = given(_inside(group))
        if group["gc_on"] == "update" or (inside and w.numel() <= _SHARED):
            return whole
        means = [_with_decay(group, _mean(g, row), _mean(w, row) if inside else w, None)]
    most = -(-w.size(axis) // -(-w.numel() // _limit(w)))
    n = -(-w.size(axis) // most)

    def cut(x: Tensor) -> Sequence[Tensor]:
        # Every piece counts Adam's step, from the same number.
        return x.split(most, axis) if x.shape == w.shape else [x, *(x.clone() for _ in range(n - 1))]

    cuts = [[cut(x) for x in column] for column in columns]
    return [[[x[i] for x in column] for column in cuts] for i in range(n)], means


def _step(
    torch_step: Callable[..., None],
    group: dict[str, Any],
    taken: str,
    columns: Columns,
    rows: Rows,
    means: Sequence[Tensor] | None,
    found_inf: Tensor | None,
    lend: Lender,
) -> None:
    """PyTorch's step on centralized gradients, or, with GC on the update, on zeros: that gives the update −ηd."""
    stored, grads, *states = columns
    w, g = [_widened(p, lend) for p in stored], [_widened(x, lend) for x in grads]
    s = [[x if x is None else _widened(x, lend) for x in column] for column in states]
    if taken == path.FUSED and isinstance(rows[0], sharded.Split):  # then all are, with whatever strides
        w = [x.contiguous() for x in w]
        s = [[x if x is None else x.contiguous() for x in column] for column in s]

    options = {**group, "weight_decay": 0.0, "maximize": False} if given(_inside(group)) else group
    if group["gc_on"] != "update":
        torch_step(options, taken, [w, _gradients(group, w, g, rows, means, lend), *s], None, found_inf)
    else:
        temporaries = [lend(p, p.dtype) for p in w]
        g = [_laid_out_like(p, _with_decay(group, x, p, t)) for x, p, t in zip(g, w, temporaries, strict=True)]
        d = [lend(p, p.dtype) for p in w]
        d = [torch.zeros_like(p) if t is None else t.zero_() for p, t in zip(w, d, strict=True)]
        torch_step({**options, "weight_decay": 0.0}, taken, [d, g, *s], None, found_inf)
        decay = group["weight_decay"]
        if given(decay) and group.get("decoupled_weight_decay", False):
            factor = -as_scalar(group["lr"]) * decay
            # Where an infinity was found d is zero, and so must the decay be.
            kept = w if found_inf is None else [torch.where(found_inf > 0, 0, p) for p in w]
            d = [_plus(x, factor, p, t) for x, p, t in zip(d, kept, temporaries, strict=True)]
        for p, x in zip(w, _centered(d, _means(d, rows), rows, temporaries), strict=True):
            p.add_(x)

    for narrow, wide in zip([stored, *states], [w, *s], strict=True):
        for i, x in enumerate(wide):
            if narrow[i] is None:
                narrow[i] = x if x is None else x.to(stored[i].dtype)
            elif narrow[i] is not x:
                narrow[i].copy_(x)


def _gradients(
    group: dict[str, Any],
    w: list[Tensor],
    g: list[Tensor],
    rows: Rows,
    means: Sequence[Tensor] | None,
    lend: Lender,
) -> list[Tensor]:
    """Φ(g), or Φ(±g + λw), each laid out like its parameter."""
    centered, others = list(g), []
    for alike in [[i] for i in range(len(g))] if lend is _lend_nothing else _alike(w, rows):
        if len(alike) == 1:
            others += alike
            continue
        x = torch.stack([g[i] for i in alike])
        if given(_inside(group)):
            x = _with_decay(group, x, torch.stack([w[i] for i in alike]), x)
        x.sub_(x.mean([axis + 1 for axis in rows[alike[0]].axes or ()], keepdim=True))
        for i, one in zip(alike, x.unbind(), strict=True):
            centered[i] = one
    g, w, rows = [g[i] for i in others], [w[i] for i in others], [rows[i] for i in others]
    outs = [lend(p, p.dtype) for p in w]
    g = [_with_decay(group, x, p, out) for x, p, out in zip(g, w, outs, strict=True)]
    g = _centered(g, _means(g, rows) if means is None else means, rows, outs)
    for i, x, p in zip(others, g, w, strict=True):
        centered[i] = _laid_out_like(p, x)
    return centered


def _alike(w: list[Tensor], rows: Rows) -> Collection[list[int]]:
    """Which small tensors can be seen as one, by their places."""
    found: dict[Any, list[int]] = {}
    for i, (p, row) in enumerate(zip(w, rows, strict=True)):
        plain = row.axes is not None and row.view == row.shape and not isinstance(row, sharded.Split)
        small = plain and p.numel() <= _SMALL and p.is_contiguous()
        found.setdefault((row.shape, row.axes, p.dtype, p.device) if small else i, []).append(i)
    return found.values()


def _inside(group: dict[str, Any]) -> Any:
    """The decay λ that goes into Φ: the gradient is ±g + λw."""
    return 0.0 if group.get("decoupled_weight_decay", False) else group["weight_decay"]


def _with_decay(group: dict[str, Any], x: Tensor, w: Tensor, out: Tensor | None) -> Tensor:
    if not given(_inside(group)):
        return x
    return _plus(-x if group["maximize"] else x, _inside(group), w, out)


def _plus(x: Tensor, factor: Any, w: Tensor, out: Tensor | None) -> Tensor:
    if isinstance(factor, Tensor):
        return torch.add(x, factor * w, out=out)
    return torch.add(x, w, alpha=factor, out=out)


def _widened(x: Tensor, lend: Lender) -> Tensor:
    if not is_half(x):
        return x
    out = lend(x, torch.float32)
    return x.float() if out is None else out.copy_(x)


def _lend_nothing(p: Tensor, dtype: torch.dtype) -> None:
    return None


def _means(xs: list[Tensor], rows: Rows) -> Sequence[Tensor | None]:
    """Of each weight vector, as they are subtracted; None where there is no GC."""
    split = sharded.means(xs, rows)
    return [
        None if row.axes is None else split[i] if i in split else _mean(x, row)
        for i, (x, row) in enumerate(zip(xs, rows, strict=True))
    ]


def _mean(x: Tensor, row: Row | sharded.Split) -> Tensor:
    seen = x if row.view == row.shape else x.reshape(row.view)
    return seen.mean(row.axes, keepdim=True, dtype=torch.float32 if is_half(x) else None)


def _centered(
    xs: list[Tensor], means: Sequence[Tensor | None], rows: Rows, outs: Sequence[Tensor | None]
) -> list[Tensor]:
    """Each without its means, in the tensors that are given."""
    centered = []
    for x, mean, row, out in zip(xs, means, rows, outs, strict=True):
        if mean is None:
            centered.append(x)
        elif isinstance(row, sharded.Split) or row.view == row.shape:
            centered.append(torch.sub(x, mean, out=out))
        else:
            y = (x.reshape(row.view) - mean).reshape(row.shape)
            centered.append(y if out is None else out.copy_(y))
    return centered


def _laid_out_like(p: Tensor, x: Tensor) -> Tensor:
    """x with the strides of p, which PyTorch's fused step on a CPU takes for granted."""
    return x if x.stride() == p.stride() else torch.empty_like(p).copy_(x)

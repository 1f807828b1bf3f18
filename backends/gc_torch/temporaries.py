"""PyTorch's own steps with GC: they are given temporaries, so that a gradient with GC is nowhere stored for long.

Parameters are taken piece by piece. On a CPU the temporaries of a piece stay in the cache from when they are written
until the step has read them: small tensors share a piece, large ones are cut. Their memory is kept from step to step,
since fresh pages cost more than the arithmetic.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gc_core.plan import Row
from gc_torch import path, sharded
from gc_torch.arrays import as_scalar, given, is_dense, is_half

Columns = list[list[Any]]  # parameters, gradients, and the states of the step, each a list with one entry a parameter
Lender = Callable[[Tensor, torch.dtype], Tensor | None]
Rows = Sequence[Row | sharded.Split]

# Elements of a piece: on a CPU for its cache, elsewhere enough to keep kernels few.
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

    def reserve(self, device: torch.device, dtype: torch.dtype, n: int) -> bool:
        """Whether memory for n elements is kept, now if not before. It is on a CPU, if it is not very much."""
        flat = self._flat.get((device, dtype))
        if device.type != "cpu" or n * dtype.itemsize > _KEEP_AT_MOST:
            return False
        if flat is None or flat.numel() < n:
            self._flat[device, dtype] = torch.empty(n, dtype=dtype, device=device)
        return True

    def clear(self) -> None:
        """Take back what was handed out, and keep as much for the next time."""
        for (device, dtype), used in self._used.items():
            self.reserve(device, dtype, used)
        self._used.clear()


def select(columns: Columns, indices: Sequence[int]) -> Columns:
    """The columns of some parameters; a column may be empty."""
    return [[column[i] for i in indices] if column else [] for column in columns]


class Piece(NamedTuple):
    """What goes through a step at once: whole parameters, or a part of one."""

    indices: list[int]  # of the parameters
    stored: Columns  # parameters, and states
    rows: Rows
    half: bool  # whether any is to be computed in float32
    cut: tuple[int, int, int] | None  # of a part: axis, start and size
    across: bool  # a part along a fan-in axis, which does not show the means
    counts: list[tuple[Tensor, Tensor]]  # of a part: its own counts of steps, and those that they follow
    alike: list[list[int]]  # small tensors that are centralized as one, by their places here
    others: list[int]
    outs: Sequence[Tensor] = ()  # temporaries for these, if there is memory that is kept


class Steps:
    """Steps with GC of the same parameters, one after another: what pieces they are taken in is found once.

    Args:
        scratch: where temporaries come from.
    """

    def __init__(self, scratch: Scratch):
        self._scratch = scratch
        self._pieces: list[Piece] = []
        self._addresses: list[int] | None = None

    def step(
        self,
        torch_step: Callable[..., None],
        group: dict[str, Any],
        taken: str,
        params: list[Tensor],
        columns: Columns,
        rows: Rows,
        found_inf: Tensor | None,
    ) -> None:
        """One step. States that are made by it are put into the columns.

        Args:
            torch_step: PyTorch's step, a function of (group, taken, columns, grad_scale, found_inf).
            group: the options.
            taken: the path, one of PyTorch's.
            params: the parameters; DTensors where they are split over devices.
            columns: what this device holds of the parameters, of their gradients and states, and Adam's steps.
            rows: what is centralized in each.
            found_inf: of a GradScaler; where it is not 0, nothing changes.
        """
        w, grads, *states = columns
        stored = [w, *states]
        fresh = any(x is None for column in states for x in column)
        # Where autograd or a compiler is at work, every result is its own tensor.
        scratch = None if group["differentiable"] or torch.compiler.is_compiling() else self._scratch
        addresses = None if scratch is None or fresh else [x.data_ptr() for column in stored for x in column]
        if addresses is None or addresses != self._addresses:
            whole = addresses is None or taken != path.FUSED
            self._pieces = list(_pieces(group, params, stored, rows, whole, scratch is not None))
            if scratch is not None and group["gc_on"] != "update":
                self._pieces = _with_outs(self._pieces, scratch)
            self._addresses = addresses
        for piece in self._pieces:  # before the first of its parts counts
            for own, count in piece.counts:
                own.copy_(count)
        means = None
        for piece in self._pieces:
            g = [grads[i] for i in piece.indices]
            if piece.cut is not None:
                if not piece.across:
                    means = None
                elif piece.cut[1] == 0:
                    means = [_mean_of_sum(group, g[0], w[piece.indices[0]], piece.rows[0])]
                g = [g[0].narrow(*piece.cut)]
            if scratch is not None:
                scratch.clear()
            _step(torch_step, group, taken, piece, g, means if piece.across else None, found_inf, scratch)
            if fresh:
                for column, made in zip(states, piece.stored[1:], strict=True):
                    for i, x in zip(piece.indices, made, strict=False):
                        column[i] = x


def _pieces(
    group: dict[str, Any], params: list[Tensor], stored: Columns, rows: Rows, whole: bool, together: bool
) -> Iterator[Piece]:
    """All of them, in order. `whole`: no parameter is cut. `together`: small ones that are alike go as one."""
    for indices in _at_a_time(params):
        some, some_rows = select(stored, indices), [rows[i] for i in indices]
        cuts = [] if whole or len(indices) > 1 else _cuts(group, some[0][0], some_rows[0])
        for cut in cuts or [None]:
            part, counts = some, []
            if cut is not None:
                # Each part counts Adam's step, the first one in the state itself.
                shape = some[0][0].shape
                part = [[x.narrow(*cut) if x.shape == shape else x.clone() if cut[1] else x for x in c] for c in some]
                counts = [(x, y) for xs, ys in zip(part, some, strict=True) for x, y in zip(xs, ys, strict=True)]
                counts = [(x, y) for x, y in counts if y.shape != shape and x is not y]
            w = part[0]
            alike, others = _alike(w, some_rows) if together else ([], list(range(len(w))))
            across = cut is not None and cut[0] in (some_rows[0].axes or ())
            yield Piece(indices, part, some_rows, any(map(is_half, w)), cut, across, counts, alike, others)


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


def _cuts(group: dict[str, Any], w: Tensor, row: Row | sharded.Split) -> list[tuple[int, int, int]]:
    """Where to cut a large parameter, so that its parts lie one after another in memory; empty: it stays whole."""
    if w.numel() <= _limit(w) or isinstance(row, sharded.Split) or row.view != row.shape:
        return []
    axis = max((axis for axis in range(w.ndim) if w.size(axis) > 1), key=w.stride)
    if axis in (row.axes or ()) and (group["gc_on"] == "update" or (given(_inside(group)) and w.numel() <= _SHARED)):
        return []
    n = w.size(axis)
    most = -(-n // -(-w.numel() // _limit(w)))
    return [(axis, start, min(most, n - start)) for start in range(0, n, most)]


def _with_outs(pieces: list[Piece], scratch: Scratch) -> list[Piece]:
    """The pieces with their temporaries, which are all in the same memory; without, if there is none that is kept."""
    likes = [[piece.stored[0][i] for i in piece.others] for piece in pieces]
    first = next((p for like in likes for p in like), None)
    alike = all(p.dtype == first.dtype and p.device == first.device for like in likes for p in like)  # type: ignore
    if first is None or not alike or is_half(first) or not all(is_dense(p) for like in likes for p in like):
        return pieces
    if not scratch.reserve(first.device, first.dtype, max(sum(-(-p.numel() // 16) * 16 for p in x) for x in likes)):
        return pieces
    found = []
    for piece, like in zip(pieces, likes, strict=True):
        scratch.clear()
        found.append(piece._replace(outs=[scratch.like(p, p.dtype) for p in like]))
    return found


def _step(
    torch_step: Callable[..., None],
    group: dict[str, Any],
    taken: str,
    piece: Piece,
    g: list[Tensor],
    means: Sequence[Tensor] | None,
    found_inf: Tensor | None,
    scratch: Scratch | None,
) -> None:
    """PyTorch's step on centralized gradients, or, with GC on the update, on zeros: that gives the update −ηd."""
    rows, (w, *s), copied = piece.rows, piece.stored, piece.half
    lend: Lender = _lend_nothing if scratch is None else scratch.like
    if piece.half:
        w, g = [_widened(p, lend) for p in w], [_widened(x, lend) for x in g]
        s = [[x if x is None else _widened(x, lend) for x in column] for column in s]
    if taken == path.FUSED and isinstance(rows[0], sharded.Split):  # then all are, with whatever strides
        w, copied = [x.contiguous() for x in w], True
        s = [[x if x is None else x.contiguous() for x in column] for column in s]

    options = {**group, "weight_decay": 0.0, "maximize": False} if given(_inside(group)) else group
    if group["gc_on"] != "update":
        g = _gradients(group, w, g, piece, means, lend)
        torch_step(options, taken, [w, g, *s], None, found_inf)
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

    for narrow, wide in zip(piece.stored, [w, *s], strict=True) if copied else ():
        for i, x in enumerate(wide):
            if narrow[i] is None:
                narrow[i] = x if x is None else x.to(piece.stored[0][i].dtype)
            elif narrow[i] is not x:
                narrow[i].copy_(x)


def _gradients(
    group: dict[str, Any],
    w: list[Tensor],
    g: list[Tensor],
    piece: Piece,
    means: Sequence[Tensor] | None,
    lend: Lender,
) -> list[Tensor]:
    """Φ(g), or Φ(±g + λw), each laid out like its parameter."""
    centered = list(g)
    for alike in piece.alike:
        x = torch.stack([g[i] for i in alike])
        if given(_inside(group)):
            x = _with_decay(group, x, torch.stack([w[i] for i in alike]), x)
        x.sub_(x.mean([axis + 1 for axis in piece.rows[alike[0]].axes or ()], keepdim=True))
        for i, one in zip(alike, x.unbind(), strict=True):
            centered[i] = one
    g, w, rows = [g[i] for i in piece.others], [w[i] for i in piece.others], [piece.rows[i] for i in piece.others]
    outs = piece.outs or [lend(p, p.dtype) for p in w]
    g = [_with_decay(group, x, p, out) for x, p, out in zip(g, w, outs, strict=True)]
    g = _centered(g, _means(g, rows) if means is None else means, rows, outs)
    for i, x, p in zip(piece.others, g, w, strict=True):
        centered[i] = _laid_out_like(p, x)
    return centered


def _alike(w: list[Tensor], rows: Rows) -> tuple[list[list[int]], list[int]]:
    """Which small tensors can be seen as one, and the others, by their places."""
    found: dict[Any, list[int]] = {}
    for i, (p, row) in enumerate(zip(w, rows, strict=True)):
        plain = row.axes is not None and row.view == row.shape and not isinstance(row, sharded.Split)
        small = plain and p.numel() <= _SMALL and p.is_contiguous()
        dtype = torch.float32 if is_half(p) else p.dtype
        found.setdefault((p.shape, row.axes, dtype, p.device) if small else i, []).append(i)
    alike = [places for places in found.values() if len(places) > 1]
    return alike, [places[0] for places in found.values() if len(places) == 1]


def _mean_of_sum(group: dict[str, Any], g: Tensor, w: Tensor, row: Row | sharded.Split) -> Tensor:
    """The means of ±g + λw, which are ±mean(g) + λ mean(w)."""
    return _with_decay(group, _mean(g, row), _mean(w, row) if given(_inside(group)) else w, None)


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

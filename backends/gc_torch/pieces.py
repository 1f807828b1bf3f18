"""How a step through temporaries is cut: small tensors go together, large ones in parts that stay in a cache."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gc_core.plan import Row
from gc_torch import sharded
from gc_torch.arrays import given, is_dense, is_half
from gc_torch.scratch import Scratch

Columns = list[list[Any]]  # parameters, gradients, and the states of the step, each a list with one entry a parameter
Rows = Sequence[Row | sharded.Split]

# Elements of a piece: on a CPU for its cache, elsewhere enough to keep kernels few.
_AT_A_TIME = {"cpu": 1 << 20}
_AT_A_TIME_ELSEWHERE = 1 << 26
_SMALL = 1 << 14  # elements, at most, of a tensor that is centralized in one go with those that are alike
_SHARED = 1 << 22  # elements of a tensor that is read twice, for the means and for the step, rather than cut


class Piece(NamedTuple):
    """What goes through a step at once: whole parameters, or a part of one. It holds none of their tensors."""

    indices: list[int]  # of the parameters
    rows: Rows
    half: bool  # whether any is to be computed in float32
    cut: tuple[int, int, int] | None  # of a part: axis, start and size
    across: bool  # a part along a fan-in axis, which does not show the means
    alike: list[list[int]]  # small tensors that are centralized as one, by their places here
    others: list[int]
    outs: Sequence[Tensor] = ()  # temporaries for these, if there is memory that is kept

    def of(self, stored: Columns) -> Columns:
        """Its part of the parameters and states. Each part counts Adam's step, the first one in the state itself."""
        some = select(stored, self.indices)
        if self.cut is None:
            return some
        shape, later = some[0][0].shape, self.cut[1] > 0
        return [[x.narrow(*self.cut) if x.shape == shape else x.clone() if later else x for x in c] for c in some]


def select(columns: Columns, indices: Sequence[int]) -> Columns:
    """The columns of some parameters; a column may be empty."""
    return [[column[i] for i in indices] if column else [] for column in columns]


def pieces(
    group: dict[str, Any], params: list[Tensor], w: list[Tensor], rows: Rows, *, whole: bool, together: bool
) -> Iterator[Piece]:
    """All of them, in order.

    Args:
        group: the options.
        params: the parameters; DTensors where they are split over devices.
        w: what this device holds of them.
        rows: what is centralized in each.
        whole: no parameter is cut.
        together: small ones that are alike go as one.
    """
    for indices in _at_a_time(params):
        some, some_rows = [w[i] for i in indices], [rows[i] for i in indices]
        cuts = [] if whole or len(indices) > 1 else _cuts(group, some[0], some_rows[0])
        alike, others = _alike(some, some_rows) if together else ([], list(range(len(some))))
        for cut in cuts or [None]:
            across = cut is not None and cut[0] in (some_rows[0].axes or ())
            yield Piece(indices, some_rows, any(map(is_half, some)), cut, across, alike, others)


def with_outs(found: list[Piece], w: list[Tensor], scratch: Scratch) -> list[Piece]:
    """The pieces with their temporaries, which are all in the same memory; without, if there is none that is kept."""
    likes = [[part[i] for i in piece.others] for piece in found for part in piece.of([w])]
    first = next((p for like in likes for p in like), None)
    alike = all(p.dtype == first.dtype and p.device == first.device for like in likes for p in like)  # type: ignore
    if first is None or not alike or is_half(first) or not all(is_dense(p) for like in likes for p in like):
        return found
    if not scratch.reserve(first.device, first.dtype, max(sum(-(-p.numel() // 16) * 16 for p in x) for x in likes)):
        return found
    ready = []
    for piece, like in zip(found, likes, strict=True):
        scratch.clear()
        ready.append(piece._replace(outs=[scratch.like(p, p.dtype) for p in like]))
    return ready


def inside(group: dict[str, Any]) -> Any:
    """The decay λ that goes into Φ: the gradient is ±g + λw."""
    return 0.0 if group.get("decoupled_weight_decay", False) else group["weight_decay"]


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
    if axis in (row.axes or ()) and (group["gc_on"] == "update" or (given(inside(group)) and w.numel() <= _SHARED)):
        return []
    n = w.size(axis)
    most = -(-n // -(-w.numel() // _limit(w)))
    return [(axis, start, min(most, n - start)) for start in range(0, n, most)]


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

"""What a kernel is given: one table of 64-bit integers, with a row for every tensor that the launch updates.

A row holds addresses, and how the memory is seen. In the order of its memory every weight that a kernel takes is

    (outer, r1, inner, r2)

where r1 and r2 run along the weight vectors: weight vector (o, i) is all of [o, :, i, :]. Two forms are left when
neighbours are merged: rows, (outer, 1, 1, r2), each weight vector contiguous (Linear, convolutions, channels_last);
and columns, with r1 > 1 and inner > 1 (a matrix stored (in, out); a grouped transposed convolution has all four).
A tensor without GC is (1, 1, 1, size) with `centralize` 0. All tensors of a row have the same strides and no gaps, so
that a kernel walks through each as through one flat array.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from gc_core.plan import Row
from gc_torch.arrays import is_dense

# Addresses: the parameter, its gradient, its states in the order of `states` of the optimizer (SGD: momentum_buffer;
# Adam: exp_avg, exp_avg_sq, max_exp_avg_sq), what rounding has cut off, the number of steps. 0 where there is none.
# Then of random bits the stream, and a word for the key that a kernel makes of it and of the step.
COLUMNS = (
    "w", "grad", "state0", "state1", "state2", "compensation", "step", "stream", "key",
    "outer", "r1", "inner", "r2", "centralize",
)  # fmt: skip
W, GRAD, STATE0, STATE1, STATE2, COMPENSATION, STEP, STREAM, KEY = range(9)
OUTER, R1, INNER, R2, CENTRALIZE = range(9, len(COLUMNS))
WRITTEN = (W, STATE0, STATE1, STATE2, COMPENSATION)
# Where the columns of an optimizer go; the last two may be missing, any may be empty.
PLACES = {
    "sgd": (W, GRAD, STATE0, STEP, COMPENSATION),
    "adam": (W, GRAD, STATE0, STATE1, STATE2, STEP, COMPENSATION),
}


class Geometry(NamedTuple):
    """How a kernel sees the memory of one tensor; the last five columns of its row."""

    outer: int
    r1: int
    inner: int
    r2: int
    centralize: int


def geometry(p: Tensor, row: Row | None) -> Geometry | None:
    """How a kernel sees a parameter; None if it cannot: memory with gaps, or fan-in axes in more than two places.

    Args:
        p: the parameter.
        row: its row of the plan; None or axes None: no GC.

    >>> import torch
    >>> geometry(torch.ones(4, 3, 2, 2), Row("conv", (4, 3, 2, 2), (4, 3, 2, 2), (1, 2, 3), ""))
    Geometry(outer=4, r1=1, inner=1, r2=12, centralize=1)
    >>> geometry(torch.ones(3, 4), Row("in, out", (3, 4), (3, 4), (0,), ""))
    Geometry(outer=1, r1=3, inner=4, r2=1, centralize=1)
    """
    if not is_dense(p):
        return None
    if row is None or row.axes is None or not p.numel():
        return Geometry(1, 1, 1, p.numel(), 0)
    try:
        seen = p.detach().view(row.view)
    except RuntimeError:  # not without moving memory
        return None
    # The sizes in the order of the memory; neighbours of one kind merge.
    merged: list[list[int]] = []  # [whether fan-in, size]
    order = sorted((axis for axis in range(seen.ndim) if seen.size(axis) > 1), key=lambda axis: -seen.stride(axis))
    for axis in order:
        fan_in = axis in row.axes
        if merged and merged[-1][0] == fan_in:
            merged[-1][1] *= seen.size(axis)
        else:
            merged.append([fan_in, seen.size(axis)])
    kinds = [bool(fan_in) for fan_in, _ in merged]
    sizes = [size for _, size in merged]
    if kinds and kinds[0]:  # starts with fan-in
        kinds, sizes = [False, *kinds], [1, *sizes]
    while len(kinds) < 4:
        kinds, sizes = [*kinds, not kinds[-1] if kinds else False], [*sizes, 1]
    if kinds != [False, True, False, True]:
        return None
    outer, r1, inner, r2 = sizes
    if inner == 1:
        return Geometry(outer, 1, 1, r1 * r2, 1)
    return Geometry(outer, r1, inner, r2, 1)


def rows(
    columns: Sequence[Sequence[Tensor] | None],
    steps: Sequence[Tensor] | None,
    seen: Sequence[Geometry],
    compensations: Sequence[Tensor] | None = None,
    streams: Sequence[int] = (),
):
    """The table: an array of int64, of shape (tensors, len(COLUMNS)).

    Args:
        columns: parameters, gradients, and up to three lists of states; None or empty for one there is not.
        steps: the numbers of steps, or None.
        seen: the geometry of each parameter.
        compensations: what rounding has cut off, or None.
        streams: of random bits, where weights are rounded stochastically.
    """
    table = np.zeros((len(seen), len(COLUMNS)), np.int64)
    table[:, OUTER:] = np.array(seen, np.int64).reshape(-1, len(Geometry._fields))
    for index, tensors in [*enumerate(columns), (STEP, steps), (COMPENSATION, compensations)]:
        if tensors:
            table[:, index] = addresses(tensors)
    if streams:
        table[:, STREAM] = np.array(streams, np.uint64).view(np.int64)
    return table


def addresses(tensors: Sequence[Tensor]) -> np.ndarray:
    """Where the first elements lie."""
    return np.fromiter(map(Tensor.data_ptr, tensors), np.int64, len(tensors))


def overlap(table: np.ndarray, itemsize: int) -> bool:
    """Whether tensors that are written share memory: then they must be updated one after another.

    >>> two = np.zeros((2, len(COLUMNS)), np.int64)
    >>> two[:, W], two[:, OUTER:] = (4096, 4128), (1, 1, 1, 10, 0)
    >>> overlap(two, itemsize=4), overlap(two, itemsize=2)
    (True, False)
    """
    starts = table[:, WRITTEN]
    sizes = table[:, [OUTER, R1, INNER, R2]].prod(axis=1, keepdims=True) * itemsize
    ends = np.where(starts > 0, starts + sizes, starts).ravel()
    order = np.argsort(starts, axis=None)
    return bool((starts.ravel()[order][1:] < ends[order][:-1]).any())

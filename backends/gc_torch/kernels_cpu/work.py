"""What there is to do, cut by the shapes alone, and which thread begins with what."""

import itertools
from typing import Any

import numpy as np

from gc_torch.kernels_cpu.words import ALONE, BLOCK, FIRST, ITEM, LANES, LAST, N_ITEM, PARTS, SIZE, STRIP


def work(seen: Any) -> tuple[np.ndarray, np.ndarray]:
    """What there is to do: items, and how many of them each stage has.

    An item is (tensor, offset, size, first row, last row + 1, part): of columns, `size` lanes from the offset on in
    these rows; else `size` numbers. The part says whose sums they are of those that make up the sums of a panel.

    Args:
        seen: `Geometry` of each tensor.

    >>> from gc_torch import table
    >>> items, counts = work([table.Geometry(1000, 1, 1, 256, 1), table.Geometry(1, 300, 1000, 1, 1)])
    >>> items[:3].tolist(), counts.tolist()
    ([[1, 0, 1000, 0, 37, 0], [1, 0, 1000, 37, 75, 1], [1, 0, 1000, 75, 112, 2]], [8, 5, 4])
    """
    shared: list[list[tuple[int, ...]]] = []
    alone: list[tuple[int, ...]] = []
    for tensor, (outer, r1, inner, r2, centralize) in enumerate(np.asarray(seen).tolist()):
        row, size = inner * r2, outer * r1 * inner * r2
        if not size:
            continue
        if not centralize or r1 == 1:
            unit = r2 if centralize else 1
            most = max(1, ITEM // unit) * unit
            alone += [(tensor, at, min(most, size - at), 0, 1, 0) for at in range(0, size, most)]
            continue
        rows = r1
        if row < STRIP:  # several rows side by side, where they come out even
            together = next(k for k in range(STRIP // row, 0, -1) if r1 % k == 0)
            row, rows = together * row, r1 // together
        in_one_thread = rows * min(ALONE, row) <= BLOCK
        most = max(ALONE, ITEM // rows) if in_one_thread else -(-row // -(-row // LANES))
        most = -(-most // r2) * r2
        for at in (start + lane for start in range(0, size, rows * row) for lane in range(0, row, most)):
            n = min(most, row - at % row)
            if in_one_thread:
                alone.append((tensor, at, n, 0, rows, 0))
                continue
            cuts = [rows * part // PARTS for part in range(PARTS + 1)]
            shared.append([(tensor, at, n, cuts[part], cuts[part + 1], part) for part in range(PARTS)])
            some = max(1, ITEM // n)
            shared.append([(tensor, at, n, first, min(first + some, rows), 0) for first in range(0, rows, some)])
    stages = [*shared, alone]
    return (
        np.array([item for stage in stages for item in stage], np.int64).reshape(-1, N_ITEM),
        np.array(list(map(len, stages)), np.int64),
    )


def shares(items: np.ndarray, counts: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the share of each thread in each stage begins and ends, in items: in one run, and even.

    >>> from gc_torch import table
    >>> items, counts = work([table.Geometry(1000, 1, 1, 256, 1)])
    >>> [cuts.tolist() for cuts in shares(items, counts, 2)]
    [[[0, 2]], [[2, 4]]]
    """
    numbers = items[:, SIZE] * (items[:, LAST] - items[:, FIRST])
    ends = np.zeros((len(counts), threads), np.int64)
    done = np.concatenate([[0], np.cumsum(counts)])
    for stage, (first, last) in enumerate(itertools.pairwise(done)):
        here = numbers[first:last]
        middles = np.cumsum(here) - here / 2
        ends[stage] = first + np.searchsorted(middles, here.sum() * np.arange(1, threads + 1) / threads)
    return np.concatenate([[0], ends.ravel()[:-1]]).reshape(ends.shape), ends

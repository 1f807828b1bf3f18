"""Where the axes of a parameter are in an array that was made of it by moving its numbers about.

An axis of such an array runs along pieces of the parameter's axes: merged by a reshape, it runs along several; split,
along digits of one. The piece (axis, low, high) of an axis with n places is the digit `(i // low) % (high // low)` of
its index i; the whole axis is (axis, 1, n). A piece of axis −1 is of no axis of the parameter (a broadcast one).
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from gc_core import layouts
from gc_core.reasons import Why


class Piece(NamedTuple):
    """One digit of the index along an axis of the parameter; low = high = 0: somewhere in it, nobody can say where."""

    axis: int
    low: int
    high: int

    @property
    def size(self) -> int:
        return self.high // self.low if self.low else 0


class Dim(NamedTuple):
    """One axis of an array: the pieces it runs along, from the slowest to the fastest."""

    pieces: tuple[Piece, ...]
    size: int
    part: bool = False  # a slice: not everything that is in these pieces

    @property
    def exact(self) -> bool:
        """Whether it runs along all of its pieces and nothing else, so that it can be split."""
        return not self.part and math.prod(piece.size for piece in self.pieces) == self.size


def of_shape(shape: Sequence[int]) -> tuple[Dim, ...]:
    """The parameter itself."""
    return tuple(Dim((Piece(axis, 1, size),) if size > 1 else (), size) for axis, size in enumerate(shape))


def new(size: int) -> Dim:
    """An axis that is none of the parameter's."""
    return Dim((Piece(-1, 1, size),) if size > 1 else (), size)


def own(dims: Iterable[Dim]) -> frozenset[Piece]:
    """The pieces of the parameter's own axes among these."""
    return frozenset(piece for dim in dims for piece in dim.pieces if piece.axis >= 0)


def resized(dim: Dim, size: int) -> Dim:
    """The axis with another number of places: padded, concatenated, gathered from devices, or one shard of it."""
    return dim if dim.size == size else dim._replace(size=size)


def reshaped(dims: Sequence[Dim], shape: Sequence[int]) -> tuple[Dim, ...]:
    """
    >>> reshaped(of_shape((6, 4)), (2, 3, 4))[1].pieces
    (Piece(axis=0, low=1, high=3),)
    """
    result: list[Dim] = []
    i = j = 0
    while i < len(dims) or j < len(shape):
        # The fewest axes on both sides that have as many places.
        a, b, start, stop = 1, 1, i, j
        while True:
            if i < len(dims) and (a <= b or j == len(shape)):
                a *= dims[i].size
                i += 1
            elif j < len(shape):
                b *= shape[j]
                j += 1
            if a == b and (i > start or j > stop) and (a or (i == len(dims) and j == len(shape))):
                break
        result += _regrouped(dims[start:i], shape[stop:j])
    return tuple(result)


def _regrouped(dims: Sequence[Dim], sizes: Sequence[int]) -> list[Dim]:
    real = [dim for dim in dims if dim.size != 1 or dim.pieces]
    large = [size for size in sizes if size != 1]
    pieces = [piece for dim in real for piece in dim.pieces]
    if len(large) <= 1:
        merged = Dim(tuple(pieces), math.prod(sizes), any(dim.part for dim in real))
        return [merged if size != 1 or (not large and k == 0) else Dim((), 1) for k, size in enumerate(sizes)]
    if all(dim.exact for dim in real):
        rest, split = pieces[::-1], []
        for size in sizes:
            taken: list[Piece] = []
            while size > 1 and rest:
                piece = rest.pop()
                if size % piece.size == 0:
                    taken.append(piece)
                    size //= piece.size
                elif piece.size % size == 0:
                    cut = piece.low * (piece.size // size)
                    taken.append(Piece(piece.axis, cut, piece.high))
                    rest.append(Piece(piece.axis, piece.low, cut))
                    size = 1
                else:
                    break
            if size > 1:
                break
            split.append(Dim(tuple(taken), math.prod(piece.size for piece in taken)))
        if len(split) == len(sizes):
            return split
    unknown = tuple(Piece(axis, 0, 0) for axis in sorted({piece.axis for piece in pieces if piece.axis >= 0}))
    return [Dim(unknown, size, True) if size != 1 else Dim((), 1) for size in sizes]


def sliced(dim: Dim, start: int | None, size: int, stride: int = 1) -> tuple[Dim, frozenset[Piece]]:
    """A slice of an axis, and the pieces along which it stays in one place (those that an index has chosen).

    Args:
        start: None where only the running program knows it.
    """
    if size == dim.size:
        return dim, frozenset()
    if size == 1:
        return Dim((), 1), frozenset(dim.pieces)
    if dim.exact and len(dim.pieces) >= 1 and dim.size % size == 0 and stride == 1 and start is not None:
        major, minor = reshaped([dim], (dim.size // size, size))
        if start % size == 0 and not any(piece.low == 0 for piece in major.pieces):
            return minor, frozenset(major.pieces)
    return Dim(dim.pieces, size, True), frozenset()


def whole(pieces: Iterable[Piece], shape: Sequence[int]) -> tuple[tuple[int, tuple[tuple[int, int], ...]], ...]:
    """Pieces in one form that can be compared: for each axis its digits, adjoining ones joined."""
    found = []
    for axis, size in enumerate(shape):
        spans = sorted((piece.low, piece.high) for piece in pieces if piece.axis == axis)
        joined: list[tuple[int, int]] = []
        for low, high in spans:
            if low == 0:
                joined = [(1, size)]
                break
            if joined and joined[-1][1] >= low:
                joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
            else:
                joined.append((low, high))
        if joined:
            found.append((axis, tuple(joined)))
    return tuple(found)


def view(shape: Sequence[int], over: Iterable[Piece], why: Why) -> layouts.View | None:
    """The parameter seen so that the pieces which are summed over are axes; None if no reshape can show them.

    >>> view((6, 4), [Piece(0, 1, 3)], Why(layouts.BIAS.reason))[:2]
    ((2, 3, 4), (1,))
    """
    spans = dict(whole(over, shape))
    seen: list[int] = []
    axes: list[int] = []
    for axis, size in enumerate(shape):
        cuts = sorted({1, size, *(end for span in spans.get(axis, ()) for end in span)})
        if any(high % low for low, high in pairwise(cuts)):
            return None
        # From the slowest digit to the fastest; an axis with one place is one digit.
        for low, high in reversed(list(pairwise(cuts)) or [(1, 1)]):
            if any(start <= low and high <= stop and low < high for start, stop in spans.get(axis, ())):
                axes.append(len(seen))
            seen.append(high // low)
    if not axes:
        return None
    return layouts.weight(seen, axes, why, stored=shape)

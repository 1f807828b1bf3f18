"""Where the axes of a parameter go when a program reshapes it: bookkeeping for plans that are read from a program.

An axis is a `Piece` of the parameter, and may be split into smaller ones. A tensor that is made of a parameter has, for
each of its axes, the pieces that run along it, the outermost first.
"""

import math
from collections.abc import Iterator, Sequence


class Piece:
    """A run of places: along an axis of a parameter, or (`blank`) along none, where a tensor was only repeated.

    `loose` says that its places are some of the parameter's, or that others lie between them: an unequal slice, a
    concatenation (then it is `whole`: all of the parameter's are there). What is summed over a loose piece that is not
    whole is uncertain.
    """

    def __init__(self, size: int, *, blank: bool = False, of: "tuple[Piece, ...]" = (), whole: bool = False):
        self.size: int = size
        self.blank: bool = blank
        self.of: tuple[Piece, ...] = of
        self.whole: bool = whole
        self.parts: tuple[Piece, ...] = ()

    @property
    def loose(self) -> bool:
        return bool(self.of)

    def leaves(self) -> "Iterator[Piece]":
        """The smallest pieces that this one has been split into."""
        if not self.parts:
            yield self
        for part in self.parts:
            yield from part.leaves()

    def split(self, outer: int) -> "tuple[Piece, Piece]":
        """Two pieces, the outer one of that size."""
        assert not self.parts and self.size % outer == 0
        sizes = outer, self.size // outer
        self.parts = tuple(Piece(size, blank=self.blank, of=self.of) for size in sizes)
        return self.parts[0], self.parts[1]


Axis = tuple[Piece, ...]  # of a tensor: the pieces along it; none where its size is 1
Axes = tuple[Axis, ...]


def of_parameter(shape: Sequence[int]) -> Axes:
    """A piece for each axis that is longer than 1."""
    return tuple((Piece(n),) if n != 1 else () for n in shape)


def blank(size: int) -> Axis:
    """An axis that is none of the parameter's."""
    return (Piece(size, blank=True),) if size != 1 else ()


def leaves(axis: Axis) -> Axis:
    """The pieces of an axis as they have been split by now."""
    return tuple(leaf for piece in axis for leaf in piece.leaves())


def loosened(axis: Axis, size: int, *, whole: bool = False) -> Axis:
    """An axis of that size where the places of another one are, all of them (`whole`) or some."""
    pieces = leaves(axis)
    real = [piece for piece in pieces if not piece.blank]
    of = tuple(dict.fromkeys(one for piece in real for one in (piece.of or (piece,))))
    return (Piece(size, of=of, whole=whole),) if of else blank(size)


def reshaped(axes: Axes, shape: Sequence[int], new: Sequence[int]) -> Axes:
    """The axes of a tensor of that shape, seen in another one.

    >>> weight = of_parameter((6, 4))
    >>> [[piece.size for piece in axis] for axis in reshaped(weight, (6, 4), (2, 12))]
    [[2], [3, 4]]
    """
    result: list[Axis] = []
    i = j = 0
    while i < len(shape) or j < len(new):
        start, first = i, j
        before = after = 1
        while True:  # the fewest axes that have the same number of places before and after
            if i < len(shape) and (before <= after or j >= len(new)):
                before *= shape[i]
                i += 1
            elif j < len(new):
                after *= new[j]
                j += 1
            if before == after and (i > start or j > first):
                break
            if i >= len(shape) and j >= len(new):
                break
        pieces = [leaf for axis in axes[start:i] for leaf in leaves(axis)]
        result += _shared_out(pieces, new[first:j])
    return tuple(result)


def _shared_out(pieces: list[Piece], sizes: Sequence[int]) -> list[Axis]:
    """Pieces in their order over axes of these sizes; split where one reaches into the next axis."""
    rest, result = list(pieces), []
    for size in sizes:
        axis: list[Piece] = []
        while size > 1 and rest:
            piece = rest[0]
            if size % piece.size == 0:
                axis.append(rest.pop(0))
                size //= piece.size
            elif piece.size % size == 0:
                outer, inner = piece.split(size)
                axis.append(outer)
                rest[0] = inner
                size = 1
            else:
                break
        if size != 1:
            return [loosened(tuple(pieces), n) if n != 1 else () for n in sizes]
        result.append(tuple(axis))
    return result


def sliced(axis: Axis, size: int, start: int, stop: int, step: int = 1) -> Axis:
    """The part of an axis of that size from start to stop, one in `step` of it.

    An equal part is a piece beside which the others lie; so the halves of a fused weight are two weights.
    """
    taken = len(range(start, stop, step))
    if taken == size:
        return axis
    if step == 1 and taken and size % taken == 0 and start % taken == 0:
        try_to_split = (size // taken, taken)
        part = 1
    elif start < step and size % step == 0 and taken == size // step:
        try_to_split = (taken, step)
        part = 0
    else:
        return loosened(axis, taken) if taken != 1 else ()
    found = _shared_out(list(leaves(axis)), try_to_split)
    return found[part]


def view(shape: Sequence[int], parameter: Axes, summed: set[Piece]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape that a parameter is seen as, and its axes that are summed over.

    Args:
        shape: as stored.
        parameter: its axes, from `of_parameter`.
        summed: leaves of them.

    >>> weight = of_parameter((8, 3))
    >>> outer, inner = weight[0][0].split(2)
    >>> view((8, 3), weight, {inner})
    ((2, 4, 3), (1,))
    """
    parts: list[tuple[int, bool]] = []
    for size, axis in zip(shape, parameter, strict=True):
        runs: list[tuple[int, bool]] = []
        for leaf in leaves(axis):
            if runs and runs[-1][1] == (leaf in summed):
                runs[-1] = (runs[-1][0] * leaf.size, runs[-1][1])
            else:
                runs.append((leaf.size, leaf in summed))
        parts += runs or [(size, False)]
    return tuple(size for size, _ in parts), tuple(i for i, (_, along) in enumerate(parts) if along)


def same_vectors(a: tuple[Sequence[int], Sequence[int]], b: tuple[Sequence[int], Sequence[int]]) -> bool:
    """Whether two views (a shape, and axes of it) of one tensor have the same weight vectors.

    >>> same_vectors(((8, 3, 1), (1,)), ((8, 3, 1), (1, 2)))
    True
    """
    return _runs(*a) == _runs(*b)


def _runs(shape: Sequence[int], axes: Sequence[int]) -> list[tuple[int, bool]]:
    runs: list[tuple[int, bool]] = []
    for i, size in enumerate(shape):
        if size != 1:
            if runs and runs[-1][1] == (i in axes):
                runs[-1] = (runs[-1][0] * size, i in axes)
            else:
                runs.append((size, i in axes))
    return runs


def size(axis: Axis) -> int:
    """Places along an axis."""
    return math.prod(piece.size for piece in axis)

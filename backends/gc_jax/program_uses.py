"""What a program does with each parameter, and what follows for GC."""

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import NamedTuple

from gc_core import layouts
from gc_core.reasons import Reason, Why
from gc_jax.program_dims import Piece, own, view, whole
from gc_jax.program_values import Image, State, Value
from gc_jax.weight import FACTOR


class Kind(Enum):
    """What an operation does with a parameter; the value is what is said of it where several differ."""

    CONTRACTED = "summed over"
    ADDED = "added"
    MULTIPLIED = "multiplied"
    LOOKED_UP = "looked up"
    INPUT = "as the data"
    MAGNITUDE = "as the scale of a weight"
    FACTOR = "as a low-rank factor"
    PRODUCT = "in a product of parameters"
    NOT_LINEAR = "in a function that is not linear"
    TWICE = "with data twice"
    UNREAD = "by another operation"


class Use(NamedTuple):
    """One use of a parameter."""

    kind: Kind
    operation: str
    over: frozenset[Piece] = frozenset()  # of the parameter's axes: summed over
    kept: frozenset[Piece] = frozenset()  # and these not
    stacked: bool = False
    summed: bool = False  # first multiplied number by number, then summed over
    parts: bool = False
    others: frozenset[int] = frozenset()


class Uses:
    """The uses of all parameters, in the order of the program."""

    def __init__(self, count: int):
        self._of: list[list[Use]] = [[] for _ in range(count)]
        self.off = False  # in what no gradient passes, nothing is a use

    def __getitem__(self, param: int) -> list[Use]:
        return self._of[param]

    def add(self, image: Image, use: Use) -> None:
        """One more use."""
        if not self.off:
            self._of[image.param].append(use)

    def settle(self, value: Value, kind: Kind, operation: str) -> None:
        """Every image ends here; one that data has met before ends as what it has been since."""
        before = {State.MULTIPLIED: Kind.MULTIPLIED, State.LOOKED_UP: Kind.LOOKED_UP}
        for image in value.images:
            if image.state is State.APPLIED:
                continue
            if image.constant_over and image.state is State.ALONE:
                self.add(image, Use(Kind.CONTRACTED, operation, image.constant_over, image.pieces | image.chosen))
            elif image.state is not State.ALONE:
                self.add(image, Use(before[image.state], image.by))
            elif image.linear or image.pieces or kind is not Kind.ADDED:  # a penalty that is added has no axes left
                self.add(image, Use(kind, operation))

    def contract(
        self, value: Value, axes: Sequence[int], operation: str, batch: Sequence[int] = (), *, outer: bool = False
    ) -> None:
        """Data meets a value that is made of parameters alone, and sums over these axes of it.

        Args:
            outer: the data is products of data with data.
        """
        over = {image: own(image.dims[axis] for axis in axes) for image in value.images}
        weights = {image.param for image, pieces in over.items() if pieces and image.linear}
        plain = {image.param for image in value.images if image.linear and not image.reduced}
        for image, pieces in over.items():
            others = (image.times | image.factors) - {image.param}
            kept = own(dim for axis, dim in enumerate(image.dims) if axis not in axes) | image.chosen
            if not pieces and (image.reduced or not image.linear) and image.param in plain:
                continue  # what a weight is normalized by is made of it, and is one number for each weight vector
            one = all(image.dims[axis].size == 1 for axis in axes)
            if image.constant_over:
                use = Use(Kind.CONTRACTED, operation, image.constant_over, image.pieces | image.chosen)
            elif not image.linear:
                use = Use(Kind.NOT_LINEAR, operation)
            elif image.factors - {image.param}:
                # W + B A: the first factor is summed over with the data, the second with the first.
                of_rank = Kind.CONTRACTED if pieces else Kind.FACTOR
                kind = of_rank if image.merged and image.low_rank else Kind.PRODUCT
                use = Use(kind, operation, pieces, kept, others=others)
            elif not pieces and not one:
                use = Use(Kind.MAGNITUDE if others & weights else Kind.MULTIPLIED, operation)
            elif pieces and others & weights:
                use = Use(Kind.PRODUCT, operation, others=others)
            else:
                dims = [image.dims[axis] for axis in axes]
                parts = any(dim.part for dim in dims) or bool({p.axis for p in pieces} & image.sliced)
                chosen = any(piece.axis not in image.sliced for piece in image.chosen)
                stacked = chosen or bool(own(image.dims[axis] for axis in batch))
                use = Use(Kind.CONTRACTED, operation, pieces, kept, stacked, parts=parts)
                if outer and len({piece.axis for piece in pieces}) > 1:
                    use = Use(Kind.TWICE, operation)
            self.add(image, use)


def verdict(uses: Sequence[Use], shape: tuple[int, ...], names: Sequence[str]) -> layouts.View:
    """How GC sees a parameter that is used so."""
    kinds = {use.kind for use in uses}
    if not uses:
        return layouts.left_alone(shape, Why(Reason.NOT_REACHED))
    if Kind.UNREAD in kinds:
        what = f"it is used by {_operations(uses, Kind.UNREAD)}"
        return layouts.left_alone(shape, Why(Reason.UNCLEAR, what=what))
    if Kind.TWICE in kinds:
        # y = Σ gₑ xᵢ W[e, i, o]: experts W[e] that are mixed, or one linear map of all gₑ xᵢ. Nobody can say.
        return layouts.left_alone(shape, Why(Reason.UNCLEAR, what="it meets data twice, as gates and experts do"))
    if Kind.NOT_LINEAR in kinds:
        return layouts.left_alone(shape, Why(Reason.NOT_LINEAR, operation=_operations(uses, Kind.NOT_LINEAR)))
    if Kind.PRODUCT in kinds:
        others = sorted({names[other] for use in uses if use.kind is Kind.PRODUCT for other in use.others})
        return layouts.left_alone(shape, Why(Reason.PARAMETERS, others=", ".join(others)))
    if Kind.CONTRACTED in kinds:
        return _weight(uses, kinds, shape)
    why = next(why for kind, why in _LEFT_ALONE.items() if kind in kinds)
    return layouts.left_alone(shape, why)


# The first that is found: what is looked up and then added is a table.
_LEFT_ALONE = {
    Kind.FACTOR: FACTOR,
    Kind.MAGNITUDE: layouts.MAGNITUDE,
    Kind.LOOKED_UP: layouts.EMBEDDING,
    Kind.MULTIPLIED: Why(Reason.SCALE),
    Kind.INPUT: Why(Reason.INPUT),
    Kind.ADDED: Why(Reason.ADDED),
}


def _weight(uses: Sequence[Use], kinds: set[Kind], shape: tuple[int, ...]) -> layouts.View:
    sums = [use for use in uses if use.kind is Kind.CONTRACTED]
    if all(use.summed for use in sums) and (Kind.MULTIPLIED in kinds or not any(use.kept for use in sums)):
        # A scale; that the model then sums its output makes no weight of it.
        return layouts.left_alone(shape, _LEFT_ALONE[Kind.MULTIPLIED])
    if len(shape) < 2:
        return layouts.left_alone(shape, Why(Reason.ONE_AXIS))
    if not any(use.over for use in sums):
        return layouts.left_alone(shape, layouts.FAN_IN_ONE)
    if any(use.parts or _in_both(use) for use in sums):
        return layouts.left_alone(shape, _IN_PARTS)
    ways = {whole(use.over, shape) for use in sums}
    if Kind.LOOKED_UP in kinds:
        return layouts.left_alone(shape, Why(Reason.TIED_TABLE))
    if len(ways) > 1 or kinds != {Kind.CONTRACTED}:
        return layouts.left_alone(shape, Why(Reason.DIFFERENT, ways=", ".join(dict.fromkeys(_ways(uses, shape)))))
    why = Why(Reason.READ, operation=_operations(uses, Kind.CONTRACTED))
    if any(use.stacked for use in sums):
        why = Why(Reason.STACKED, inner=why)
    return view(shape, sums[0].over, why) or layouts.left_alone(shape, _IN_PARTS)


_IN_PARTS = Why(Reason.UNCLEAR, what="it is summed over in parts")


def _in_both(use: Use) -> bool:
    """Whether the same piece, or an unknown one of the same axis, is both summed over and kept."""
    kept = {piece.axis for piece in use.kept if not piece.low}
    over = {piece.axis for piece in use.over if not piece.low}
    return bool(use.over & use.kept) or any(
        piece.axis in axes for pieces, axes in ((use.over, kept), (use.kept, over)) for piece in pieces
    )


def _operations(uses: Sequence[Use], kind: Kind) -> str:
    return ", ".join(dict.fromkeys(use.operation for use in uses if use.kind is kind))


def _ways(uses: Sequence[Use], shape: Sequence[int]) -> Iterator[str]:
    for use in uses:
        axes = f" along {','.join(str(axis) for axis, _ in whole(use.over, shape))}" if use.over else ""
        yield use.kind.value + axes

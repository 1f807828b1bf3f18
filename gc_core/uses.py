"""What a program does with a parameter, and what follows for GC: how a plan is read from a program."""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from gc_core import layouts
from gc_core.axes import Axes, Piece, leaves, same_vectors, view
from gc_core.layouts import View
from gc_core.reasons import Reason, Why, reason_of


class Kind(Enum):
    """Where a parameter meets the data; the value is what is said of it where several differ."""

    SUMMED = "summed over"
    ADDED = "added"
    SCALED = "multiplied"
    NORM = "in a normalization"
    TABLE = "looked up"
    INPUT = "as the data"
    FACTOR = "in a product of parameters"
    OTHER = "by another operation"
    UNCLEAR = "unclear"


class Use(NamedTuple):
    """One operation in which a parameter meets the data.

    >>> Use(Kind.ADDED, "add").summed
    ()
    """

    kind: Kind
    operation: str  # its name in the program
    summed: tuple[Piece, ...] = ()  # those of its axes that the operation sums over
    function: bool = False  # what meets the data is a function of it that is not linear
    product: bool = False  # ... is multiplied, element by element, by another parameter
    factor: bool = False  # ... is a matrix product of it and another parameter


_LEFT_ALONE = {
    Kind.ADDED: Reason.ADDED,
    Kind.SCALED: Reason.SCALE,
    Kind.NORM: Reason.NORM,
    Kind.TABLE: Reason.EMBEDDING,
    Kind.INPUT: Reason.INPUT,
    Kind.FACTOR: Reason.FACTOR,
}


def conclusion(shape: Sequence[int], axes: Axes, uses: Sequence[Use]) -> View | None:
    """How GC sees a parameter, by all its uses; None if there are none.

    Args:
        shape: as stored.
        axes: of the parameter, from `axes.of_parameter`.
        uses: of the whole program.

    >>> from gc_core.axes import of_parameter
    >>> axes = of_parameter((8, 3))
    >>> conclusion((8, 3), axes, [Use(Kind.SUMMED, "mm", axes[0])])
    View(shape=(8, 3), axes=(0,), why='read from the program: mm sums over it')
    >>> conclusion((8, 3), axes, [Use(Kind.SUMMED, "mm", axes[0]), Use(Kind.SUMMED, "mm", axes[1])]).why
    'read in different ways: summed over axis 0 and axis 1'
    """
    if not uses:
        return None
    for use in uses:
        if use.kind is Kind.UNCLEAR:
            return layouts.left_alone(shape, Why(Reason.UNCLEAR, what=use.operation))
    kinds = list(dict.fromkeys(use.kind for use in uses))
    if kinds in ([Kind.ADDED, Kind.SCALED], [Kind.SCALED, Kind.ADDED]):
        kinds = [Kind.SCALED]
    if Kind.TABLE in kinds and Kind.SUMMED in kinds:
        return layouts.left_alone(shape, Why(Reason.TIED_TABLE))
    if len(kinds) > 1:
        summed = {frozenset(leaves(use.summed)) for use in uses if use.kind is Kind.SUMMED}
        beside = {Kind.ADDED, Kind.SCALED, Kind.OTHER} >= set(kinds) - {Kind.SUMMED}  # as in a penalty on the weight
        main = view(shape, axes, set(summed.pop())) if beside and len(summed) == 1 else None
        ways = ", ".join(kind.value for kind in kinds)
        return layouts.left_alone(shape, Why(Reason.DIFFERENT, ways=ways, main=main))
    if kinds == [Kind.OTHER]:
        return layouts.left_alone(shape, Why(Reason.NOT_LINEAR, operation=uses[0].operation))
    if kinds != [Kind.SUMMED]:
        return layouts.left_alone(shape, Why(_LEFT_ALONE[kinds[0]]))
    seen = {frozenset(leaf for leaf in leaves(use.summed)) for use in uses}
    if len(seen) > 1:
        ways = " and ".join(sorted({over(shape, *view(shape, axes, set(one))) for one in seen}))
        return layouts.left_alone(shape, Why(Reason.DIFFERENT, ways=f"summed over {ways}"))
    found = view(shape, axes, set(seen.pop()))
    return _weight(tuple(shape), found, uses)


def _weight(shape: tuple[int, ...], found: tuple[tuple[int, ...], tuple[int, ...]], uses: Sequence[Use]) -> View:
    value = value_of(shape, *found)
    product, factor = any(use.product for use in uses), any(use.factor for use in uses)
    if any(use.function for use in uses):
        return View(*found, Why(Reason.FUNCTION, value=value))
    if product:
        return View(*found, Why(Reason.PRODUCT, value=value))
    operation = ", ".join(dict.fromkeys(use.operation for use in uses))
    why = Why(Reason.FACTOR_IN) if factor else Why(Reason.READ, operation=operation)
    return layouts.weight(found[0], found[1], why, stored=shape)


def over(shape: Sequence[int], seen: Sequence[int], axes: Sequence[int]) -> str:
    """Axes in words, of a view where it is not the stored shape.

    >>> over((8, 3), (8, 3), (1,)), over((8, 3), (2, 4, 3), (1,))
    ('axis 1', 'axis 1 of 2×4×3')
    """
    text = f"{'axis' if len(axes) == 1 else 'axes'} {','.join(map(str, axes))}"
    return text if tuple(seen) == tuple(shape) else f"{text} of {'×'.join(map(str, seen))}"


def value_of(shape: Sequence[int], seen: Sequence[int], axes: Sequence[int] | None) -> str:
    """What to write into `overrides` for these axes.

    >>> value_of((8, 3), (8, 3), (1,)), value_of((8, 3), (2, 4, 3), (1,))
    ('1', 'gct.View((2, 4, 3), (1,))')
    """
    if tuple(seen) != tuple(shape):
        return f"gct.View({tuple(seen)}, {axes})"
    return str(axes[0] if axes is not None and len(axes) == 1 else axes)


# Of these a layer's class is sure whatever the program does: they are no weights, or stand in for one.
_SURE = {
    Reason.EMBEDDING, Reason.SHARED_TABLE, Reason.FACTOR, Reason.ORTHOGONAL, Reason.MAGNITUDE, Reason.NORM,
    Reason.ACTIVATION, Reason.OVERRIDE,
}  # fmt: skip
# Here the program has the word.
_UNSURE = {Reason.UNKNOWN, Reason.PARAMETRIZED}


def decided(known: View, read: View | None) -> tuple[View, bool]:
    """The view of a parameter by its layer and by the program, and whether the two contradict each other.

    What is read through a function or a product, or is added or multiplied elsewhere too, is a weight only where its
    layer says the same.

    Args:
        known: what its layer says; its axes are None where it is left alone or unknown.
        read: what the program does with it, from `conclusion`; None if it does nothing.

    >>> unknown = layouts.left_alone((8, 3), layouts.UNKNOWN)
    >>> decided(unknown, View((8, 3), (0,), Why(Reason.READ, operation="mm")))[0].axes
    (0,)
    >>> linear = layouts.out_first((8, 3))
    >>> decided(linear, View((8, 3), (0,), Why(Reason.READ, operation="mm")))[1]
    True
    """
    reason = reason_of(known.why)
    if read is None or reason in _SURE:
        return known, False
    why = reason_of(read.why)
    if why is Reason.UNCLEAR:
        return (read if reason in _UNSURE else known), False
    if known.axes is None:
        if why in (Reason.FUNCTION, Reason.PRODUCT):
            return (View(known.shape, None, read.why) if reason in _UNSURE else known), False
        return (read if read.axes is not None or reason in _UNSURE else known), False
    if read.axes is not None and same_vectors(known[:2], read[:2]):  # type: ignore[arg-type]
        return known, False
    main = read.why.details.get("main") if isinstance(read.why, Why) else None
    if main is not None and same_vectors((known.shape, known.axes), main):
        return known, False
    if why in (Reason.FUNCTION, Reason.PRODUCT):
        return View(known.shape, None, read.why), True
    return read, True

"""What a table of layers says of one parameter: a `Weight`, or the reason to leave it alone."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gc_core import layouts
from gc_core.reasons import Reason, Why

Rule = Callable[[Sequence[int]], layouts.View]


class Weight(NamedTuple):
    """The weight of a linear map: the rule for one such layer, and the shape that one has (None: not known)."""

    rule: Rule
    shape: tuple[int | None, ...]


# (layer, name of its parameter) -> what it is, or why it is left alone; None: no parameter of the library's own layer
Stored = Callable[[Any, str], Weight | Why | None]
FACTOR = Why(Reason.FACTOR)


def summed_over(axes: Sequence[int]) -> Rule:
    """The rule of a weight whose layer says which axes it sums over."""
    return lambda shape: layouts.weight(shape, axes, Why(Reason.ITS_AXES))


def all_are(why: Why) -> Stored:
    """Every parameter of this layer is left alone."""
    return lambda layer, leaf: why


def has(**leaves: Callable[[Any], Weight | Why] | Why) -> Stored:
    """These parameters, and biases; any other one was added by a class of the user's own.

    >>> has()(None, "bias"), has()(None, "mine")
    ('bias', None)
    """

    def stored(layer: Any, leaf: str) -> Weight | Why | None:
        found = leaves.get(leaf, layouts.BIAS if leaf.startswith("bias") else None)
        return found if found is None or isinstance(found, Why) else found(layer)

    return stored


def ints(value: int | Sequence[int]) -> tuple[int, ...]:
    """One int, or several, as a tuple."""
    return (value,) if isinstance(value, int) else tuple(value)


def by_einsum(equation: str | None, shape: Sequence[int | None]) -> Weight | Why:
    """A weight that is the second operand of an einsum: its fan-in is what the result has lost."""
    if equation is None or "->" not in equation or equation.count(",") != 1:
        return Why(Reason.EQUATION)
    operands, result = equation.replace(" ", "").split("->")
    letters = operands.split(",")[1]
    if "." in letters:
        return Why(Reason.ELLIPSIS, equation=equation)
    axes = tuple(axis for axis, letter in enumerate(letters) if letter not in result)
    return Weight(summed_over(axes), tuple(shape) or (None,) * len(letters))

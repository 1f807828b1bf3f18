"""What is found of an optimizer with GC in front of it."""

from enum import Enum
from typing import NamedTuple


class Verdict(Enum):
    """What came of a run beside the same optimizer that was given gradients centralized by hand."""

    WORKS = "works"
    DIFFERENT = "**differs from GC by hand**"
    SPARSE = "does not: it takes sparse gradients alone"
    REFUSED = "does not: an error"


class Step(Enum):
    """What an optimizer makes of centralized gradients."""

    LINEAR = "a sum of gradients, each with one factor a tensor: it has zero mean, as they have"
    NEWTON = "a combination of gradients and earlier steps: it has zero mean, as they have"
    ORTHOGONAL = "the momentum matrix is orthogonalized by products with itself: zero mean but for their rounding"
    ELEMENTWISE = "each element is scaled by itself: GC takes the mean from what is averaged, not from the step"
    FACTORED = "rows and columns are scaled: GC takes the mean from what is averaged, not from the step"
    SIGN = "of each element the sign counts: GC changes which signs there are, and the step has a mean"
    SHRINKS = "gradients with one factor a tensor, and the weights are rescaled: their means shrink with them"
    NOISE = "noise is added, which has a mean of its own"


class Found(NamedTuple):
    """Of one optimizer.

    Args:
        name: as it is called in its library.
        verdicts: in each place that GC can stand in.
        drift: how far the means of weight vectors moved, relative to the largest move of a weight; None: not run.
        step: what kind of step it is; None: none was taken.
        error: what was raised, if anything.
    """

    name: str
    verdicts: tuple[Verdict, ...]
    drift: float | None
    step: Step | None
    error: str = ""

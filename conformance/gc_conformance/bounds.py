"""How far from the exact result an honest port may be, derived and not tuned.

Running error analysis: an `Approx` is an array of exact values, each with a bound on the error of an honest computation
of it. Every operation carries the errors of its operands on and adds its own rounding. Values and bounds are decimals
of 60 digits with an unlimited exponent, so that the analysis itself neither rounds, overflows nor underflows.

An operation whose result is x adds 3u|x| + t. u is the unit roundoff of the working precision: one u for the
operation, one for a constant that was rounded before it (a float32 port rounds lr, beta and 1 - beta first), one for
the terms of order u^2 and for another order of the same operations. For a sum, |x| is the sum of the magnitudes of its
terms: then every order of summation is covered, and every cancellation. t is the smallest normal number: results that
underflow may be gradual or flushed to zero, as IEEE and XLA differ in that.

The mean of M numbers, by whatever order of summation, has an error of at most (M - 1)u mean|x| to first order [Higham,
Accuracy and Stability of Numerical Algorithms, section 4.2]; the division adds one u. Honest ports also centralize as
a product with P = I - e e', whose row i weighs x_i by 1 - 1/M and sums M products: (M + 1)u(|x_i| + mean|x|), e being
rounded. So a centralized element is within (M + 4)u(|x_i| + mean|x|) of the exact one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from functools import wraps
from typing import Any

import numpy as np

CONTEXT = Context(prec=60, Emin=-999999, Emax=999999)
UNBOUNDED = Decimal("1e9999")  # "not judged": a quotient whose denominator may be zero
OPERATION = 3  # units of roundoff that one operation may cost


def precisely(function: Callable) -> Callable:
    """Make `function` compute with the decimals of this page, whatever the caller's decimal context."""

    @wraps(function)
    def wrapper(*args, **kwargs):
        with localcontext(CONTEXT):
            return function(*args, **kwargs)

    return wrapper


@dataclass(frozen=True)
class Precision:
    """A binary format: its unit roundoff, the magnitude below which results may underflow, its largest number."""

    name: str
    unit: Decimal
    tiny: Decimal
    largest: Decimal


@precisely
def _format(name: str, bits: int, tiny: int, largest: int) -> Precision:
    two = Decimal(2)
    return Precision(name, two**-bits, two**tiny, (1 - two**-bits) * two**largest)


# float16 is computed in float32, whose hardware conversion keeps float16's subnormals.
PRECISIONS = {
    "float16": _format("float16", 11, -24, 16),
    "bfloat16": _format("bfloat16", 8, -126, 128),
    "float32": _format("float32", 24, -126, 128),
    "float64": _format("float64", 53, -1022, 1024),
}


def working(dtype: str) -> Precision:
    """The precision in which the contract has `dtype` computed: float32 for the two half precisions."""
    return PRECISIONS["float32" if dtype in ("float16", "bfloat16") else dtype]


def decimals(array: np.ndarray | float) -> Any:
    """Every element as the decimal that it is, exactly: an array of `Decimal`."""
    values = np.asarray(array, dtype=np.float64)
    return np.array([Decimal(x) for x in values.ravel().tolist()], dtype=object).reshape(values.shape)


class Approx:
    """Exact values with a bound on the error of an honest computation of each."""

    def __init__(self, value: object, error: object, precision: Precision):
        self.value: Any = np.asarray(value, dtype=object)  # of Decimal, which the types of NumPy do not know
        self.error: Any = np.asarray(error, dtype=object)
        self.precision = precision

    @classmethod
    def exact(cls, array: np.ndarray | float, precision: Precision) -> Approx:
        value = decimals(array)
        return cls(value, np.full(value.shape, Decimal(0), dtype=object), precision)

    def _lift(self, other: Approx | float | int | Decimal) -> Approx:
        if isinstance(other, Approx):
            return other
        return Approx(Decimal(other), Decimal(0), self.precision)

    def _rounded(self, value: Any, magnitude: Any, error: Any) -> Approx:
        return Approx(value, error + OPERATION * self.precision.unit * magnitude + self.precision.tiny, self.precision)

    def __add__(self, other: Approx | float | Decimal) -> Approx:
        b = self._lift(other)
        return self._rounded(self.value + b.value, abs(self.value) + abs(b.value), self.error + b.error)

    def __mul__(self, other: Approx | float | Decimal) -> Approx:
        b = self._lift(other)
        value = self.value * b.value
        carried = abs(self.value) * b.error + self.error * abs(b.value) + self.error * b.error
        return self._rounded(value, abs(value), carried)

    def __neg__(self) -> Approx:
        return Approx(-self.value, self.error, self.precision)

    def __sub__(self, other: Approx | float | Decimal) -> Approx:
        return self + -self._lift(other)

    def __truediv__(self, other: Approx | float | Decimal) -> Approx:
        """|a/b - a'/b'| <= (|a - a'| + |a/b| |b - b'|) / |b'|, and |b'| >= |b| - |b - b'|."""
        b = self._lift(other)
        least = abs(b.value) - b.error
        judged = np.asarray(least > 0)
        safe = _where(judged, b.value, Decimal(1))
        value = self.value / safe
        carried = (self.error + abs(value) * b.error) / _where(judged, least, Decimal(1))
        return self._rounded(value, abs(value), _where(judged, carried, UNBOUNDED))

    def sqrt(self) -> Approx:
        """|sqrt(a) - sqrt(a')| <= |a - a'| / sqrt(a), and <= sqrt|a - a'| where a is small."""
        root = _sqrt(self.value)
        carried = np.minimum(_sqrt(self.error), self.error / _where(root > 0, root, UNBOUNDED))
        carried = _where(root > 0, carried, _sqrt(self.error))
        return self._rounded(root, root, carried)

    def maximum(self, other: Approx) -> Approx:
        return Approx(np.maximum(self.value, other.value), np.maximum(self.error, other.error), self.precision)

    def centralize(self, axes: Sequence[int]) -> Approx:
        """x - mean(x): the derivation stands at the head of this page."""
        axes = tuple(axes)
        count = math.prod(self.value.shape[a] for a in axes)
        if not self.value.size:
            return self
        mean, magnitude, carried = (_mean(x, axes, count) for x in (self.value, abs(self.value), self.error))
        own = (count + 4) * self.precision.unit * (abs(self.value) + magnitude) + 2 * self.precision.tiny
        return Approx(self.value - mean, self.error + carried + own, self.precision)

    def stored(self, dtype: str) -> Approx:
        """Rounded once more, to `dtype`, if that is narrower than the working precision."""
        narrow = PRECISIONS[dtype]
        if narrow.unit <= self.precision.unit:
            return self
        rounding = narrow.unit * (abs(self.value) + self.error) + narrow.tiny
        return Approx(self.value, self.error + rounding, self.precision)

    def widened(self, units: int) -> Approx:
        """With `units` more roundoffs of each value allowed."""
        return Approx(self.value, self.error + units * self.precision.unit * abs(self.value), self.precision)

    def reshape(self, shape: Sequence[int]) -> Approx:
        return Approx(self.value.reshape(shape), self.error.reshape(shape), self.precision)


def _where(condition: Any, values: Any, others: Any) -> Any:
    return np.where(condition, np.asarray(values, dtype=object), np.asarray(others, dtype=object))


def _sqrt(values: Any) -> Any:
    return np.asarray(np.sqrt(values), dtype=object)


def _mean(values: Any, axes: tuple[int, ...], count: int) -> Any:
    return values.sum(axis=axes, keepdims=True) / Decimal(count)

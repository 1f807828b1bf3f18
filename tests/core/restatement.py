"""The rules of the contract once more, straight from its text: element by element, in exact fractions, without NumPy.

Beside each exact number stands a bound on the error of any computation that follows the rule in floating point. The
bounds are running error analysis, rigorous and not tuned: with u the unit roundoff and t the smallest positive number
of the precision that is computed in,

- an operation on numbers that are off by e returns fl(x) with |fl(x) − x| ≤ u|x| + t, x being the exact result for the
  operands as they are, so that |x| is at most the exact magnitude plus the carried error;
- sums carry e1 + e2; products |a| e2 + |b| e1 + e1 e2; quotients (e1 + |a/b| e2) / (|b| − e2); roots e/√a or √e,
  whichever is smaller; a maximum the larger of both;
- a sum of M numbers, in whatever order, is off by (M − 1)u/(1 − (M − 1)u) times the sum of their magnitudes [Higham,
  Accuracy and Stability of Numerical Algorithms, section 4.2], the division by M by 2u (complex numbers: a reciprocal
  and a product);
- an option such as lr is exact in double and rounded once more where the update is computed in float32; 1 − β is
  rounded once in double;
- 1 − βᵗ = −expm1(t log β) is within 7 · 2⁻⁵³: log and expm1 two units each (a good library's bound), t·log β one, and
  as |y eʸ/(eʸ − 1)| ≤ 1 for y < 0, expm1 passes a relative error of y on at most as it is.

A result must lie between the roundings of (exact − bound) and (exact + bound) to the stored dtype: computed in the
wider precision, and rounded once. Errors are plain floats, which need no accuracy; 0.1 % is added for them at the end.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np


class Format(NamedTuple):
    """A binary floating-point format."""

    bits: int  # of the significand, the hidden one included
    low: int  # exponent of the smallest normal number

    @property
    def unit(self) -> float:
        return 2.0**-self.bits

    @property
    def tiny(self) -> float:
        return math.ldexp(1.0, max(self.low - self.bits + 1, -1074))

    def round(self, x: Fraction) -> Fraction:
        """x rounded to nearest, ties to even."""
        if x == 0:
            return x
        exponent = abs(x.numerator).bit_length() - x.denominator.bit_length()
        if abs(x) < Fraction(2) ** exponent:
            exponent -= 1
        grid = Fraction(2) ** (max(exponent, self.low) - self.bits + 1)
        return round(x / grid) * grid


LONG = np.finfo(np.longdouble)
FORMATS = {
    "float16": Format(11, -14),
    "bfloat16": Format(8, -126),
    "float32": Format(24, -126),
    "float64": Format(53, -1022),
    np.dtype(np.longdouble).name: Format(LONG.nmant + 1, int(LONG.minexp)),
}
COMPUTED_IN = {"float16": "float32", "bfloat16": "float32", "float32": "float64"}
DOUBLE = FORMATS["float64"]


def working(dtype: Any) -> Format:
    """The precision in which gc_core promises to compute an update of this dtype."""
    name = np.dtype(dtype).name
    return FORMATS[COMPUTED_IN.get(name, name)]


class Near:
    """An exact number and a bound on the error of its computation."""

    __slots__ = ("error", "format", "value")

    def __init__(self, value: Fraction, error: float, format: Format):
        self.value, self.error, self.format = value, error, format

    def _result(self, value: Fraction, carried: float, units: int = 1) -> "Near":
        own = units * self.format.unit * (abs(float(value)) + carried) + self.format.tiny
        return Near(value, carried + own, self.format)

    def __add__(self, other: "Near") -> "Near":
        return self._result(self.value + other.value, self.error + other.error)

    def __sub__(self, other: "Near") -> "Near":
        return self._result(self.value - other.value, self.error + other.error)

    def __mul__(self, other: "Near") -> "Near":
        a, b = abs(float(self.value)), abs(float(other.value))
        return self._result(self.value * other.value, a * other.error + b * self.error + self.error * other.error)

    def __truediv__(self, other: "Near") -> "Near":
        least = abs(float(other.value)) - other.error
        assert least > 0, "the test's own data: a denominator that may be zero bounds nothing"
        value = self.value / other.value
        return self._result(value, (self.error + abs(float(value)) * other.error) / least)

    def sqrt(self) -> "Near":
        # The root of a fraction to 2⁻¹²⁸, far below every unit here.
        scaled = (self.value.numerator << 512) // self.value.denominator
        root = Fraction(math.isqrt(scaled), 1 << 256)
        carried = math.sqrt(self.error)
        if root:
            carried = min(carried, self.error / float(root))
        return self._result(root, carried)

    def maximum(self, other: "Near") -> "Near":
        return Near(max(self.value, other.value), max(self.error, other.error), self.format)


def numbers(array: np.ndarray, format: Format) -> list[Near]:
    """Every element, in C order, as the fraction that it is."""
    return [Near(Fraction(*_ratio(x)), 0.0, format) for x in array.flatten()]


def _ratio(x: Any) -> tuple[int, int]:
    return x.as_integer_ratio() if hasattr(x, "as_integer_ratio") else float(x).as_integer_ratio()


def option(x: float, format: Format) -> Near:
    """An option: exact in double."""
    return Near(Fraction(x), 0.0 if format.bits >= 53 else format.unit * abs(x), format)


def one_minus(x: float, format: Format) -> Near:
    """1 − x, computed in double."""
    value = 1 - Fraction(x)
    unit = DOUBLE.unit + (0.0 if format.bits >= 53 else format.unit)
    return Near(value, 1.01 * unit * abs(float(value)), format)


def bias_correction(beta: float, step: int, format: Format) -> Near:
    """1 − βᵗ."""
    value = 1 - Fraction(beta) ** step
    unit = 7 * DOUBLE.unit + (0.0 if format.bits >= 53 else format.unit)
    return Near(value, 1.01 * unit * float(value), format)


def weight_vectors(shape: Sequence[int], axis: int | Sequence[int]) -> list[list[int]]:
    """The C-order positions of each weight vector's elements."""
    axes = {a % len(shape) for a in ([axis] if isinstance(axis, int) else axis)}
    vectors: dict[tuple[int, ...], list[int]] = {}
    for position, index in enumerate(itertools.product(*map(range, shape))):
        unit = tuple(i for a, i in enumerate(index) if a not in axes)
        vectors.setdefault(unit, []).append(position)
    return list(vectors.values())


def phi(g: list[Near], shape: Sequence[int], axis: int | Sequence[int] | None) -> list[Near]:
    """Φ(g): each element less the mean of its weight vector; axis None: g."""
    if axis is None:
        return g
    result = list(g)
    for vector in weight_vectors(shape, axis):
        m = mean([g[i] for i in vector])
        for i in vector:
            result[i] = g[i] - m
    return result


def mean(values: list[Near]) -> Near:
    """(1/M) Σ_j x_j."""
    count, format = len(values), values[0].format
    orders = (count - 1) * format.unit
    carried = sum(x.error for x in values)
    carried += orders / (1 - orders) * sum(abs(float(x.value)) + x.error for x in values)
    return values[0]._result(sum(x.value for x in values) / Fraction(count), carried / count, units=2)


def centralize(grad: np.ndarray, axis: int | Sequence[int] | None) -> list[Near]:
    """g − mean(g), for each weight vector."""
    return phi(numbers(grad, working(grad.dtype)), grad.shape, axis)


def sgdm(
    w: np.ndarray,
    grad: np.ndarray,
    momentum_buffer: np.ndarray,
    *,
    lr: float,
    axis: int | Sequence[int] | None,
    momentum: float = 0.9,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    gc_on: str = "gradient",
) -> tuple[list[Near], list[Near]]:
    """One step of SGDM: the new weight and momentum buffer."""
    shape, format = w.shape, working(w.dtype)
    weights, g, m = (numbers(x, format) for x in (w, grad, momentum_buffer))
    eta, mu, decay = (option(x, format) for x in (lr, momentum, weight_decay))
    if weight_decay and not decoupled:
        g = [a + decay * b for a, b in zip(g, weights, strict=True)]
    if gc_on == "gradient":
        g = phi(g, shape, axis)
    m = [mu * a + one_minus(dampening, format) * b for a, b in zip(m, g, strict=True)]
    d = [a + mu * b for a, b in zip(g, m, strict=True)] if nesterov else m
    return applied(weights, d, shape, axis, eta, decay if decoupled and weight_decay else None, gc_on), m


def adam(
    w: np.ndarray,
    grad: np.ndarray,
    state: Any,
    *,
    lr: float = 1e-3,
    axis: int | Sequence[int] | None,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    amsgrad: bool = False,
    gc_on: str = "gradient",
) -> tuple[list[Near], list[Near], list[Near], list[Near] | None]:
    """One step of Adam: the new weight, m, v and, with amsgrad, the largest v."""
    shape, format, step = w.shape, working(w.dtype), state.step + 1
    weights, g, m, v = (numbers(x, format) for x in (w, grad, state.exp_avg, state.exp_avg_sq))
    eta, epsilon, decay = (option(x, format) for x in (lr, eps, weight_decay))
    b1, b2 = (option(x, format) for x in betas)
    rest1, rest2 = (one_minus(x, format) for x in betas)
    if weight_decay and not decoupled:
        g = [a + decay * b for a, b in zip(g, weights, strict=True)]
    if gc_on == "gradient":
        g = phi(g, shape, axis)
    m = [b1 * a + rest1 * b for a, b in zip(m, g, strict=True)]
    v = [b2 * a + rest2 * b * b for a, b in zip(v, g, strict=True)]
    largest = None
    if amsgrad:
        largest = [a.maximum(b) for a, b in zip(numbers(state.max_exp_avg_sq, format), v, strict=True)]
    first, second = (bias_correction(beta, step, format) for beta in betas)
    d = [(a / first) / (b.sqrt() / second.sqrt() + epsilon) for a, b in zip(m, largest if amsgrad else v, strict=True)]
    weights = applied(weights, d, shape, axis, eta, decay if decoupled and weight_decay else None, gc_on)
    return weights, m, v, largest


def applied(
    w: list[Near],
    d: list[Near],
    shape: Sequence[int],
    axis: int | Sequence[int] | None,
    lr: Near,
    decay: Near | None,
    gc_on: str,
) -> list[Near]:
    """d ← d + λ w if decoupled; d ← Φ(d) if GC is on the update; w ← w − η d."""
    if decay is not None:
        d = [a + decay * b for a, b in zip(d, w, strict=True)]
    if gc_on == "update":
        d = phi(d, shape, axis)
    return [a - lr * b for a, b in zip(w, d, strict=True)]


def assert_near(got: np.ndarray, expected: Iterable[Near], like: np.ndarray, what: str = "result") -> None:
    """`got` has the shape and dtype of `like`, and each element lies where its bound, rounded once, allows."""
    assert isinstance(got, np.ndarray), f"{what} is no array but {type(got)}"
    assert got.shape == like.shape and got.dtype == like.dtype, f"{what}: {got.shape} {got.dtype}"
    stored = FORMATS[like.dtype.name]
    for position, (x, near) in enumerate(zip(got.flatten(), expected, strict=True)):
        slack = Fraction(1.001 * near.error)
        low, high = stored.round(near.value - slack), stored.round(near.value + slack)
        assert np.isfinite(x), f"{what}[{position}] is {x}; expected {float(near.value)}"
        assert low <= Fraction(*_ratio(x)) <= high, (
            f"{what}[{position}] is {x!r}; expected {float(near.value)!r} within {near.error:.3g}, "
            f"rounded to {like.dtype.name}"
        )

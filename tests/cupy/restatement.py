"""The update rules once more, in extended precision and with the rounding errors of a kernel carried along.

Every quantity is a value and a bound on how far the kernel's own can be from it. Each operation adds what its operands
bring and one rounding of its own; nothing here comes from gc_core or from the kernels.
"""

import numpy as np

WIDE = np.longdouble
assert np.finfo(WIDE).eps < 2.0**-60, "double precision kernels need wider numbers to be compared with"

UNITS = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 2.0**-1074}


class Rounded:
    """What a kernel that computes in `precision` makes of a quantity: it is within `error` of `value`."""

    def __init__(self, value, error, precision):
        self.value, self.error, self.precision = value, error, precision

    @classmethod
    def stored(cls, array, precision):
        """Memory that is read: exact."""
        value = np.asarray(array).astype(WIDE)
        return cls(value, np.zeros_like(value), precision)

    def _constant(self, number):
        """A hyperparameter: computed in double precision, then rounded."""
        return Rounded(WIDE(number), (UNITS[self.precision] + 2.0**-52) * abs(WIDE(number)), self.precision)

    def _made(self, value, error):
        """One more operation, rounded."""
        smallest = WIDE(SMALLEST[self.precision])
        return Rounded(value, error + UNITS[self.precision] * (abs(value) + error) + smallest, self.precision)

    def _other(self, other):
        return other if isinstance(other, Rounded) else self._constant(other)

    def __add__(self, other):
        other = self._other(other)
        return self._made(self.value + other.value, self.error + other.error)

    def __sub__(self, other):
        other = self._other(other)
        return self._made(self.value - other.value, self.error + other.error)

    def __mul__(self, other):
        other = self._other(other)
        error = abs(self.value) * other.error + abs(other.value) * self.error + self.error * other.error
        return self._made(self.value * other.value, error)

    __rmul__ = __mul__

    def __truediv__(self, other):
        least = abs(other.value) - other.error
        with np.errstate(all="ignore"):
            value = self.value / other.value
            error = np.where(least > 0, (self.error + abs(value) * other.error) / least, np.inf)
        return self._made(value, error)

    def sqrt(self):
        value = np.sqrt(self.value)
        # √(a + e) − √a <= √e, and <= e / √a
        with np.errstate(all="ignore"):
            error = np.where(value > 0, np.minimum(np.sqrt(self.error), self.error / value), np.sqrt(self.error))
        return self._made(value, error)

    def maximum(self, other):
        return Rounded(np.maximum(self.value, other.value), np.maximum(self.error, other.error), self.precision)

    def centered(self, lanes):
        """Minus the mean along axis 1, added up by so many lanes and then pairwise."""
        fan_in = self.value.shape[1]
        depth = -(-fan_in // lanes) + int(lanes).bit_length() + 2
        growth = depth * UNITS[self.precision] / (1 - depth * UNITS[self.precision])
        reach = np.mean(abs(self.value) + self.error, axis=1, keepdims=True)
        mean = Rounded(
            np.mean(self.value, axis=1, keepdims=True),
            np.mean(self.error, axis=1, keepdims=True) + growth * reach,
            self.precision,
        )
        return self - mean


def centralize(grad, *, lanes, precision):
    x = Rounded.stored(grad, precision)
    return {"grad": x.centered(lanes) if lanes else x}


def sgdm(
    w, grad, m, *, lr, momentum, dampening, nesterov, weight_decay, decoupled, gc_on, lanes, precision
):  # fmt: skip
    w, g, m = (Rounded.stored(array, precision) for array in (w, grad, m))
    if weight_decay and not decoupled:
        g = g + weight_decay * w
    if lanes and gc_on == "gradient":
        g = g.centered(lanes)
    m = momentum * m + (1 - dampening) * g
    d = g + momentum * m if nesterov else m
    if weight_decay and decoupled:
        d = d + weight_decay * w
    if lanes and gc_on == "update":
        d = d.centered(lanes)
    return {"w": w - lr * d, "momentum_buffer": m}


def adam(
    w, grad, m, v, v_max, *, step, lr, betas, eps, weight_decay, decoupled, amsgrad, gc_on, lanes, precision
):  # fmt: skip
    w, g, m, v = (Rounded.stored(array, precision) for array in (w, grad, m, v))
    if weight_decay and not decoupled:
        g = g + weight_decay * w
    if lanes and gc_on == "gradient":
        g = g.centered(lanes)
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + ((1 - betas[1]) * g) * g
    results = {"exp_avg": m, "exp_avg_sq": v}
    if amsgrad:
        v = results["max_exp_avg_sq"] = v.maximum(Rounded.stored(v_max, precision))
    correction1, correction2 = (1 / (1 - WIDE(beta) ** (step + 1)) for beta in betas)
    d = (m * correction1) / (v.sqrt() * np.sqrt(correction2) + eps)
    if weight_decay and decoupled:
        d = d + weight_decay * w
    if lanes and gc_on == "update":
        d = d.centered(lanes)
    return {"w": w - lr * d, **results}


def assert_within(got, want, dtype, what):
    """`got`, stored in `dtype`, is what a kernel may make of `want`."""
    once = 0 if dtype == want.precision else UNITS[dtype] * (abs(want.value) + want.error) + WIDE(SMALLEST[dtype]) / 2
    bound = want.error + once
    assert np.all(np.isfinite(bound)), f"{what}: the bound is infinite: nothing would be tested"
    off = abs(got.astype(WIDE) - want.value)
    if not np.all(off <= bound):
        ratio = np.where(np.isnan(off), np.inf, off / np.where(bound > 0, bound, SMALLEST[dtype]))
        worst = np.unravel_index(np.argmax(ratio), off.shape)
        raise AssertionError(
            f"{what} at {tuple(map(int, worst))}: {got[worst]} is {float(off[worst]):.3g} from "
            f"{float(np.broadcast_to(want.value, off.shape)[worst])!r}; {float(bound[worst]):.3g} is allowed"
        )

"""What every rule must return, by a route of its own: the formulas of the contract over decimals of 60 digits.

Each function takes arrays (`Approx`, or NumPy arrays, which are then exact) and returns `Approx`: the exact result with
the error that an honest port of that dtype may have. Nothing here is shared with any port.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from .bounds import PRECISIONS, Approx, Precision, precisely, working

Axis = int | Sequence[int] | None


def axes_of(axis: Axis, ndim: int) -> tuple[int, ...] | None:
    """`axis` as a tuple of axes in 0..ndim-1, or None."""
    if axis is None:
        return None
    return tuple(a % ndim for a in ((axis,) if isinstance(axis, int) else axis))


def fan_in_axes(shape: Sequence[int], layout: str) -> tuple[int, ...] | None:
    """All axes but the output axis; None below two dimensions and for a fan-in of 1."""
    if len(shape) < 2:
        return None
    axes = tuple(range(1, len(shape))) if layout == "out_first" else tuple(range(len(shape) - 1))
    return None if math.prod(shape[a] for a in axes) == 1 else axes


@precisely
def lift(array: Approx | np.ndarray, dtype: str) -> Approx:
    return array if isinstance(array, Approx) else Approx.exact(array, working(dtype))


def _center(x: Approx, axis: Axis) -> Approx:
    axes = axes_of(axis, x.value.ndim)
    return x if axes is None else x.centralize(axes)


@precisely
def centralize(grad: Approx | np.ndarray, axis: Axis, dtype: str) -> Approx:
    """g - mean(g)."""
    return _center(lift(grad, dtype), axis).stored(dtype)


@precisely
def centralize_large(grad: np.ndarray, axis: Axis) -> tuple[np.ndarray, np.ndarray]:
    """(g - mean(g), bound) in float64 by `math.fsum`, for arrays too large for decimals; float16, 32 and 64.

    The exact sum is rounded once, so the reference itself is within 3 * 2^-53 (|g| + mean|g|): less than the M + 4
    roundoffs of the bound allow a float64 port, and added to them.
    """
    precision = working(grad.dtype.name)
    wide = grad.astype(np.float64)
    axes = axes_of(axis, grad.ndim)
    assert axes is not None
    rest = [a for a in range(grad.ndim) if a not in axes]
    count = math.prod(grad.shape[a] for a in axes)
    shape = [1 if a in axes else n for a, n in enumerate(grad.shape)]
    flat = wide.transpose(*rest, *axes).reshape(-1, count)
    mean = np.array([math.fsum(row) / count for row in flat]).reshape(shape)
    magnitude = np.array([math.fsum(abs(row)) / count for row in flat]).reshape(shape)
    unit = (count + 4) * float(precision.unit) + 3 * 2.0**-53
    return wide - mean, unit * (abs(wide) + magnitude) + 2 * float(precision.tiny)


@precisely
def sgdm(
    w: Approx | np.ndarray,
    grad: Approx | np.ndarray,
    momentum_buffer: Approx | np.ndarray | None,
    dtype: str,
    *,
    lr: float,
    axis: Axis,
    momentum: float = 0.9,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    gc_on: str = "gradient",
) -> tuple[Approx, Approx]:
    """One step of SGDM: (w, momentum_buffer). A buffer of None is PyTorch's first step, m <- g."""
    x, g = lift(w, dtype), lift(grad, dtype)
    if weight_decay and not decoupled:
        g = g + x * weight_decay
    if gc_on == "gradient":
        g = _center(g, axis)
    m = g if momentum_buffer is None else lift(momentum_buffer, dtype) * momentum + g * (1 - Decimal(dampening))
    d = g + m * momentum if nesterov else m
    return _apply(x, d, lr, axis, weight_decay if decoupled else 0.0, gc_on).stored(dtype), m.stored(dtype)


@precisely
def adam(
    w: Approx | np.ndarray,
    grad: Approx | np.ndarray,
    step: int,
    exp_avg: Approx | np.ndarray,
    exp_avg_sq: Approx | np.ndarray,
    max_exp_avg_sq: Approx | np.ndarray | None,
    dtype: str,
    *,
    lr: float = 1e-3,
    axis: Axis,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    gc_on: str = "gradient",
) -> tuple[Approx, Approx, Approx, Approx | None]:
    """The step after `step` steps of Adam: (w, exp_avg, exp_avg_sq, max_exp_avg_sq). AMSGrad if given a maximum."""
    x, g = lift(w, dtype), lift(grad, dtype)
    if weight_decay and not decoupled:
        g = g + x * weight_decay
    if gc_on == "gradient":
        g = _center(g, axis)
    (beta1, rest1), (beta2, rest2) = (beta_and_rest(beta, x.precision) for beta in betas)
    m = _blend(lift(exp_avg, dtype), beta1, g, rest1)
    v = _blend(lift(exp_avg_sq, dtype), beta2, g * g, rest2)
    largest = None if max_exp_avg_sq is None else lift(max_exp_avg_sq, dtype).maximum(v)
    d = adam_direction(m, v if largest is None else largest, step + 1, betas, eps)
    x = _apply(x, d, lr, axis, weight_decay if decoupled else 0.0, gc_on)
    return x.stored(dtype), m.stored(dtype), v.stored(dtype), None if largest is None else largest.stored(dtype)


def _blend(old: Approx, beta: Approx, new: Approx, rest: Approx) -> Approx:
    """beta old + (1 - beta) new. As old + (1 - beta)(new - old) it costs two roundoffs of old, whatever beta is."""
    blend = old * beta + new * rest
    return Approx(blend.value, blend.error + old.widened(2).error, blend.precision)


def beta_and_rest(beta: float, precision: Precision) -> tuple[Approx, Approx]:
    """beta and 1 - beta, both off by what rounding beta to the working precision loses: nothing, where it fits.

    A port in float32 may round 0.999 before it computes 1 - 0.999, which is then off by 1e-5 of itself.
    """
    exact = Decimal(beta)
    lost = abs(exact - Decimal(float(np.float32(beta)))) if precision.name == "float32" else Decimal(0)
    return Approx(exact, lost, precision), Approx(1 - exact, lost, precision)


@precisely
def adam_direction(m: Approx, v: Approx, step: int, betas: tuple[float, float], eps: float) -> Approx:
    """(m / (1 - beta1^t)) / (sqrt(v) / sqrt(1 - beta2^t) + eps) at t = step.

    A bias correction -expm1(t log beta) is itself within 5u in the working precision: log beta, t log beta and expm1
    cost one or two each, and expm1 does not amplify a relative error. 1 - beta^t costs u / (1 - beta^t) instead.
    A beta that was rounded before carries t times its error on.
    """
    correction1, correction2 = (
        Approx(1 - rounded.value**step, step * rounded.error, m.precision).widened(5)
        for rounded, _ in (beta_and_rest(beta, m.precision) for beta in betas)
    )
    return (m / correction1) / (v.sqrt() / correction2.sqrt() + eps)


def _apply(w: Approx, d: Approx, lr: float, axis: Axis, decay: float, gc_on: str) -> Approx:
    """w - lr (d + decay w), centralized if GC is on the update. Decay may also come as w (1 - lr decay): one w more."""
    if decay:
        d = d + w * decay
        w = w.widened(2)
    if gc_on == "update":
        d = _center(d, axis)
    return w - d * lr


def storing(value: np.ndarray, bound: np.ndarray, dtype: str) -> np.ndarray:
    """What rounding `value` once more to `dtype` may add to `bound`, as `Approx.stored` has it; in float64."""
    narrow = PRECISIONS[dtype]
    if narrow.unit <= working(dtype).unit:
        return np.zeros_like(bound)
    return float(narrow.unit) * (abs(value) + bound) + float(narrow.tiny)


def sgdm_run(
    w: np.ndarray, grads: Sequence[np.ndarray], dtype: str, *, undamped: bool = False, **options
) -> list[Approx]:
    """The weights after each step of SGDM from a fresh state; the error bounds grow from step to step."""
    weights, m, path = lift(w, dtype), None if undamped else lift(np.zeros(w.shape), dtype), []
    for grad in grads:
        weights, m = sgdm(weights, grad, m, dtype, **options)
        path.append(weights)
    return path


def adam_run(
    w: np.ndarray, grads: Sequence[np.ndarray], dtype: str, *, amsgrad: bool = False, **options
) -> list[Approx]:
    """The weights after each step of Adam from a fresh state; the error bounds grow from step to step."""
    zero = lift(np.zeros(w.shape), dtype)
    weights, m, v, largest, path = lift(w, dtype), zero, zero, zero if amsgrad else None, []
    for step, grad in enumerate(grads):
        weights, m, v, largest = adam(weights, grad, step, m, v, largest, dtype, **options)
        path.append(weights)
    return path

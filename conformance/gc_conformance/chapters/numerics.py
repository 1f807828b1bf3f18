"""Numbers: how exact a result must be, for data that is hard to average, and where NaN and infinity go.

The bounds are those of `bounds.py`: unit roundoff, fan-in and magnitude, for any order of summation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from .. import oracle
from ..bounds import Approx
from ..judge import agree, centralized, claimed, require
from ..port import Port
from ..registry import property
from ..strategies import SEEDS, Array, Gradient, Steps, gradients, normal, pick, steps
from .adam import check_steps as check_adam
from .sgdm import check_steps as check_sgdm


def _check(port: Port, case: Gradient) -> None:
    want = oracle.centralize(case.grad.value, case.axis, case.grad.dtype)
    agree(centralized(port, case), want, "centralize(grad, axis)")


@property("numerics.large_mean", needs="centralize", cases=gradients(kinds=("large mean",)))
def large_mean(port: Port, case: Gradient) -> None:
    """A mean a thousand times the spread is taken away to the last roundoff."""
    _check(port, case)


@property("numerics.nearly_constant", needs="centralize", cases=gradients(kinds=("nearly constant",)))
def nearly_constant(port: Port, case: Gradient) -> None:
    """Rows that differ in their last bits only keep nothing but rounding and those bits."""
    _check(port, case)


@property("numerics.cancelling", needs="centralize", cases=gradients(kinds=("cancelling",)))
def cancelling(port: Port, case: Gradient) -> None:
    """Large numbers that nearly cancel leave a mean that is still subtracted."""
    _check(port, case)


@property("numerics.uneven", needs="centralize", cases=gradients(kinds=("uneven",)))
def uneven(port: Port, case: Gradient) -> None:
    """Magnitudes that differ by many powers of ten stand in one weight vector."""
    _check(port, case)


@property("numerics.huge", needs="centralize", cases=gradients(kinds=("huge",)))
def huge(port: Port, case: Gradient) -> None:
    """Numbers near the largest of the dtype do not overflow, as long as their sum does not."""
    _check(port, case)


@property("numerics.tiny", needs="centralize", cases=gradients(kinds=("tiny",)))
def tiny(port: Port, case: Gradient) -> None:
    """Numbers near the smallest normal one of the dtype are not lost."""
    _check(port, case)


@property("numerics.subnormal", needs="centralize", cases=gradients(kinds=("subnormal",)))
def subnormal(port: Port, case: Gradient) -> None:
    """Subnormal numbers are kept or flushed to zero, and nothing else happens to them."""
    _check(port, case)


@st.composite
def _long(draw, port: Port) -> Gradient:
    dtype = pick(draw, [d for d in port.real_dtypes if d != "bfloat16"] or list(port.real_dtypes))
    shape, axis = pick(draw, (((3, 100_000), 1), ((1000, 5), 0), ((2, 500, 3, 3), (1, 2, 3)), ((70_001, 1), 0)))
    formula = pick(draw, ("1 + x", "x", "100 + x"))
    return Gradient(normal(shape, dtype, draw(SEEDS), formula), axis)


@property("numerics.large_fan_in", needs="centralize", cases=_long, share=0.1)
def large_fan_in(port: Port, case: Gradient) -> None:
    """A fan-in of a hundred thousand is averaged as exactly as its number of roundings allows."""
    got = centralized(port, case).astype(np.float64)
    want, bound = oracle.centralize_large(case.grad.value, case.axis)
    bound = bound + oracle.storing(want, bound, case.grad.dtype)
    require(got.shape == want.shape, f"its shape is {got.shape}, and must be {want.shape}")
    wrong = np.argwhere(~(abs(got - want) <= bound))
    if len(wrong):
        at = tuple(map(int, wrong[0]))
        require(
            False,
            f"element {at} is {float(got[at])!r}, and must be {float(want[at])!r} within {bound[at]:.1e}",
            f"centralize(grad, axis)[{', '.join(map(str, at))}]",
        )


@property(
    "numerics.float64_is_float64",
    needs="centralize",
    cases=gradients(dtypes=("float64",), kinds=("normal", "large mean")),
)
def float64_is_float64(port: Port, case: Gradient) -> None:
    """float64 is computed in float64, not in float32."""
    claimed(case, "float64")
    _check(port, case)


@property(
    "numerics.half_means_in_float32",
    needs="centralize",
    cases=gradients(dtypes=("float16", "bfloat16"), kinds=("large mean", "nearly constant", "normal")),
)
def half_means_in_float32(port: Port, case: Gradient) -> None:
    """float16 and bfloat16 are computed in float32 and rounded once: a mean rounded to half leaves much of itself."""
    claimed(case, "float16 or bfloat16")
    _check(port, case)


@st.composite
def _long_half(draw, port: Port) -> Gradient | None:
    dtypes = [d for d in port.real_dtypes if d in ("float16", "bfloat16")]
    if not dtypes:
        return None
    formula = pick(draw, ("1 + x", "100 + x"))
    return Gradient(normal((2, 3000), pick(draw, dtypes), draw(SEEDS), formula), 1)


@property("numerics.half_sums_in_float32", needs="centralize", cases=_long_half, share=0.1)
def half_sums_in_float32(port: Port, case: Gradient) -> None:
    """A sum of thousands of half-precision numbers neither overflows nor gets stuck."""
    claimed(case, "float16 or bfloat16")
    large_fan_in(port, case)


HALF = ("float16", "bfloat16")
# Numbers that fill a significand: small whole ones are never rounded.
_FULL: dict[str, Any] = dict(dtypes=HALF, kinds=("uneven", "large mean"), lr=0.5)


def _half_steps(port: Port) -> SearchStrategy:
    """Plain steps as often as steps with options."""
    varied = steps("sgdm", vary=("momentum", "weight_decay", "decoupled", "gc_on"), **_FULL)
    return st.one_of(steps("sgdm", **_FULL)(port), varied(port))


@property("numerics.half_sgdm", needs=("sgdm_init", "sgdm_update"), cases=_half_steps, share=3)
def half_sgdm(port: Port, case: Steps) -> None:
    """A whole step of SGDM in float16 or bfloat16 is computed in float32, and each result rounded once."""
    claimed(case, "float16 or bfloat16")
    check_sgdm(port, case)


@property(
    "numerics.half_adam",
    needs=("adam_init", "adam_update"),
    cases=steps(
        "adam",
        dtypes=("float16", "bfloat16"),
        vary=("weight_decay", "decoupled", "gc_on"),
        kinds=("normal", "large mean"),
    ),
    share=3,
)
def half_adam(port: Port, case: Steps) -> None:
    """A whole step of Adam in float16 or bfloat16 is computed in float32, and each result rounded once."""
    claimed(case, "float16 or bfloat16")
    check_adam(port, case)


@st.composite
def _spoiled(draw, port: Port, bad: tuple[str, ...]) -> Gradient:
    case = draw(
        gradients(
            shapes=((3, 4), (5, 3), (3, 2, 4), (4, 3, 1, 2)),
            kinds=("normal",),
            choose=lambda shape, over: 0 in over or len(shape) - 1 in over,
        )(port)
    )
    shape, over = case.grad.shape, oracle.axes_of(case.axis, len(case.grad.shape)) or ()
    if len(over) == len(shape):  # leave another weight vector to be spoiled
        over = over[1:]
    at = tuple(pick(draw, range(n)) for n in shape)
    mask = f"np.arange({case.grad.value.size}).reshape({shape}) == {int(np.ravel_multi_index(at, shape))}"
    value = pick(draw, bad)
    dtype = case.grad.dtype
    return Gradient(
        Array(f"np.where({mask}, np.array({value}, {dtype!r}), {case.grad.expression}).astype({dtype!r})"), over
    )


def _own(case: Gradient) -> np.ndarray:
    """Which elements share a weight vector with a non-finite one."""
    bad = ~np.isfinite(case.grad.value.astype(np.float64))
    over = oracle.axes_of(case.axis, len(case.grad.shape))
    return np.broadcast_to(bad.any(axis=over, keepdims=True), bad.shape)


def _without(own: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Zeros there; of its own dtype, for NumPy 1 has none in common for bfloat16 and a plain number."""
    return np.where(own, np.zeros_like(x), x)


def _others(port: Port, case: Gradient) -> tuple[np.ndarray, np.ndarray, Approx]:
    with port.may_refuse("NaN and infinity"):
        got, own = centralized(port, case), _own(case)
    return got, own, oracle.centralize(_without(own, case.grad.value), case.axis, case.grad.dtype)


@property(
    "numerics.non_finite_stays_in_its_row",
    needs="centralize",
    cases=lambda port: _spoiled(port, ("np.nan", "np.inf", "-np.inf")),
)
def non_finite_stays_in_its_row(port: Port, case: Gradient) -> None:
    """NaN or infinity in one weight vector does not reach any other."""
    got, own, want = _others(port, case)
    require(got.shape == own.shape, f"its shape is {got.shape}, and must be {own.shape}")
    agree(
        _without(own, got),
        Approx(_without(own, want.value), want.error, want.precision),
        "centralize(grad, axis), in the finite weight vectors,",
    )


def _spoils(port: Port, case: Gradient) -> None:
    with port.may_refuse("NaN and infinity"):
        got, own = centralized(port, case).astype(np.float64), _own(case)
    require(got.shape == own.shape, f"its shape is {got.shape}, and must be {own.shape}")
    require(not np.isfinite(got[own]).any(), "a weight vector with a non-finite element comes back with finite ones")


@property("numerics.nan_is_not_hidden", needs="centralize", cases=lambda port: _spoiled(port, ("np.nan",)))
def nan_is_not_hidden(port: Port, case: Gradient) -> None:
    """NaN spoils its whole weight vector: it is neither skipped nor replaced."""
    _spoils(port, case)


@property(
    "numerics.infinity_is_not_hidden", needs="centralize", cases=lambda port: _spoiled(port, ("np.inf", "-np.inf"))
)
def infinity_is_not_hidden(port: Port, case: Gradient) -> None:
    """Infinity spoils its whole weight vector: it is neither clipped nor replaced."""
    _spoils(port, case)

"""The comparisons of the properties: each raises `Violation` with what was found and what must be."""

from __future__ import annotations

from typing import Any

import numpy as np

from .bounds import PRECISIONS, Approx, decimals
from .port import NotProvided, Port
from .result import Violation


def claimed(case: Any, what: str) -> None:
    """Nothing to judge when the port claims no dtype that the property is about."""
    if case is None:
        raise NotProvided(f"{what} is not among its dtypes")


def require(truth: bool, message: str, show: str | None = None) -> None:
    if not truth:
        raise Violation(message, show)


def agree(got: np.ndarray, want: Approx, what: str = "the result", show: str | None = None) -> None:
    """Every element of `got` is within its bound of the exact one. One that may overflow is not judged."""
    require(got.shape == want.value.shape, f"{what} has shape {got.shape}, and must have {want.value.shape}", show)
    require(got.dtype.name in PRECISIONS, f"{what} has dtype {got.dtype.name}, which is not real floating point", show)
    wide = got.astype(np.float64)
    finite = np.isfinite(wide)
    distance = abs(decimals(np.where(finite, wide, 0)) - want.value)
    largest = PRECISIONS[got.dtype.name].largest
    judged = np.asarray(abs(want.value) + want.error < largest, dtype=bool)
    wrong = judged & (np.asarray(distance > want.error, dtype=bool) | ~finite)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        must, error = float(want.value[at]), float(want.error[at])
        raise Violation(
            f"{what}{list(at) if at else ''} is {float(got[at])!r}, and must be {must!r} within {error:.1e}", show
        )


def same(got: np.ndarray, want: np.ndarray, what: str, show: str | None = None) -> None:
    """The same numbers: no bit differs, but for the sign of zero and the kind of NaN."""
    alike = got.shape == want.shape and got.dtype == want.dtype
    if not (alike and bool(np.all((got == want) | ((got != got) & (want != want))))):
        raise Violation(f"{what}: it is {_short(got)}, and must be {_short(want)}", show)


def _short(array: np.ndarray) -> str:
    return " ".join(np.array2string(array, threshold=20, precision=9).split()) + f" ({array.dtype.name})"


def centralized(port: Port, case: Any) -> np.ndarray:
    """The port's `centralize` of a `Gradient`, as NumPy."""
    return port.numpy(port.call("centralize", port.array(case.grad.fresh()), case.axis))

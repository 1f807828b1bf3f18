"""What gc_core knows of NumPy's arrays: which are floating point, and in what precision an update is computed."""

from typing import Any

import numpy as np

from gc_core import checks

# Half precision is computed in float32, single in double; everything else in itself. bfloat16 comes from `ml_dtypes`,
# which gc_core does not import: NumPy knows the dtype by its name.
_COMPUTED_IN = {"float16": "float32", "bfloat16": "float32", "float32": "float64", "complex64": "complex128"}

quietly: np.errstate = np.errstate(all="ignore")
"""NaN and infinities go where IEEE says, without a warning."""


def _kind(array: np.ndarray) -> str:
    if array.dtype.kind == "c":
        return "complex"
    if array.dtype.name == "bfloat16" or (array.dtype.kind == "f" and array.dtype.itemsize > 1):
        return "real"
    return f"an array of {array.dtype.name}"


def _is_array(value: Any) -> bool:
    # A masked array's mean skips elements, which is another operation.
    return isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray)


NUMPY = checks.Framework("a NumPy array", _is_array, _kind)


def widen(array: np.ndarray) -> np.ndarray:
    """The array in the precision that its update is computed in."""
    return np.asarray(array).astype(_COMPUTED_IN.get(array.dtype.name, array.dtype.newbyteorder("=")), copy=False)


def rounded(value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A new array: the value rounded once to the dtype it is stored in."""
    return np.array(value, dtype=dtype)


def from_numpy(array: np.ndarray) -> np.ndarray:
    """A NumPy array as an array of this package: itself.

    >>> import numpy as np
    >>> from_numpy(np.ones(2))
    array([1., 1.])
    """
    return array


def to_numpy(array: np.ndarray) -> np.ndarray:
    """An array of this package as a NumPy array: itself.

    >>> import numpy as np
    >>> to_numpy(np.ones(2))
    array([1., 1.])
    """
    return array

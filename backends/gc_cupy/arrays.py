"""What gc_cupy knows of CuPy's arrays: which are floating point, which device holds them, how they come and go."""

import cupy
import numpy as np

from gc_core import checks
from gc_cupy import compat

_REAL = ("float16", "bfloat16", "float32", "float64")  # bfloat16 is that of `ml_dtypes`
_COMPLEX = ("complex64", "complex128")
DTYPES = (*_REAL, *_COMPLEX)


def _kind(array: cupy.ndarray) -> str:
    name = array.dtype.name
    if name in _COMPLEX:
        return "complex"
    return "real" if name in _REAL else f"an array of {name}"


CUPY = checks.Framework(
    "a CuPy array", lambda value: isinstance(value, cupy.ndarray), _kind, lambda array: array.device
)


def on_device_of(array: cupy.ndarray) -> cupy.cuda.Device:
    """A context in which CuPy allocates and launches where this array lies."""
    return cupy.cuda.Device(array.device)


def empty_like(array: cupy.ndarray) -> cupy.ndarray:
    """A new array, in C order whatever the order of the other."""
    with on_device_of(array):
        return cupy.empty(array.shape, array.dtype)


def zeros_like(array: cupy.ndarray) -> cupy.ndarray:
    """New zeros, in C order whatever the order of the other."""
    with on_device_of(array):
        return cupy.zeros(array.shape, array.dtype)


def from_numpy(array: np.ndarray) -> cupy.ndarray:
    """A NumPy array as a CuPy array of the same shape and dtype, on the current device.

    Raises:
        TypeError: it is not a NumPy array.
        RuntimeError: there is no GPU, or no driver for it.

    >>> import numpy as np
    >>> from_numpy(np.ones(2))
    array([1., 1.])
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"array must be a NumPy array; got {type(array).__qualname__}")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:
        mixture = f". {said}" if (said := compat.mixture()) else ""
        raise RuntimeError(
            f"gc_cupy needs an NVIDIA GPU and its driver, and CuPy finds none: {error}{mixture}"
        ) from None
    return cupy.array(array)


def to_numpy(array: cupy.ndarray) -> np.ndarray:
    """A CuPy array as a new NumPy array of the same shape and dtype.

    Raises:
        TypeError: it is not a CuPy array.

    >>> import cupy as cp
    >>> to_numpy(cp.ones(2))
    array([1., 1.])
    """
    if not CUPY.is_array(array):
        raise TypeError(f"array must be {CUPY.noun}; got {type(array).__qualname__}")
    return cupy.asnumpy(array)

"""What gc_jax knows of JAX's arrays: which are floating point, and in what precision an update is computed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gc_core import checks

_REAL = ("float16", "bfloat16", "float32", "float64")
_COMPLEX = ("complex64", "complex128")


def _kind(array: jax.Array) -> str:
    name = str(array.dtype)
    if name in _COMPLEX:
        return "complex"
    return "real" if name in _REAL else f"an array of {name}"


JAX = checks.Framework("a JAX array", lambda value: isinstance(value, jax.Array), _kind)  # a tracer is one, too


def dtypes() -> tuple[str, ...]:
    """The dtypes that arrays can have now: the wide ones exist only with jax_enable_x64."""
    names = (*_REAL, *_COMPLEX)
    return tuple(name for name in names if jax.dtypes.canonicalize_dtype(name) == name)


def widen(array: jax.Array) -> jax.Array:
    """The array in the precision that its update is computed in: float32 for half precision, else its own."""
    return array.astype(jnp.float32) if str(array.dtype) in ("float16", "bfloat16") else array


def scalar(value: Any, like: jax.Array) -> Any:
    """A hyperparameter that widens nothing: a traced one in the real dtype of `like`, a Python float as it is."""
    return value if isinstance(value, float) else value.astype(jnp.finfo(like.dtype).dtype)


def static(**options: Any) -> None:
    """Refuse options that are traced: they decide which program is compiled."""
    for name, value in options.items():
        if any(isinstance(one, Tracer) for one in (value if isinstance(value, tuple) else (value,))):
            raise TypeError(
                f"{name} is traced, and must be a plain Python value: bind it outside of the transformed function, "
                "or name it in jit's static_argnames"
            )


def from_numpy(array: np.ndarray) -> jax.Array:
    """A NumPy array as a JAX array of the same shape and dtype, on the default device.

    Raises:
        TypeError: it is not a NumPy array, or JAX has no such dtype now. Without `jax_enable_x64` there is no
            float64, and rounding to float32 without a word would be another array.

    >>> import numpy as np
    >>> from_numpy(np.ones(2, np.float32))
    Array([1., 1.], dtype=float32)
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"array must be a NumPy array; got {type(array).__qualname__}")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if jax.dtypes.canonicalize_dtype(native.dtype) != native.dtype:
        raise TypeError(
            f"array is {array.dtype}, which JAX does not have now: "
            'jax.config.update("jax_enable_x64", True), or convert it to a narrower dtype first'
        )
    try:  # a copy: on the CPU JAX may otherwise look at NumPy's memory, which can change
        return jnp.array(native, copy=True)
    except TypeError:
        raise TypeError(
            f"array is {array.dtype}, which JAX does not have: it must be one of jax.numpy's dtypes"
        ) from None


def to_numpy(array: jax.Array) -> np.ndarray:
    """A JAX array as a new NumPy array of the same shape and dtype (bfloat16 is that of `ml_dtypes`).

    Raises:
        TypeError: it is not a JAX array, or is traced.

    >>> import jax.numpy as jnp
    >>> to_numpy(jnp.ones(2))
    array([1., 1.], dtype=float32)
    """
    if not isinstance(array, jax.Array) or isinstance(array, Tracer):
        raise TypeError(f"array must be a JAX array with values; got {type(array).__qualname__}")
    return np.array(array)

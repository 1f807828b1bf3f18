"""The GC operator: from the gradient of each weight vector, subtract its mean."""

import jax
import jax.numpy as jnp

from gc_core import checks
from gc_jax.arrays import JAX, static, widen


def center(g: jax.Array, axis: tuple[int, ...] | None) -> jax.Array:
    """Φ(g) = g − mean(g), as the updates use it: no checks, in the precision of g."""
    if axis is None or g.size == 0:  # the mean of nothing would be NaN
        return g
    return g - g.mean(axis, keepdims=True)


def centralize(grad: jax.Array, axis: int | tuple[int, ...] | None) -> jax.Array:
    """Φ(g) = g − mean(g): the gradient with the mean of each weight vector removed.

    Formula, with M the fan-in and e = (1/√M)·1, for each weight vector g of M elements::

        Φ(g) = g − (1/M) Σ_j g_j = P g,    P = I − e eᵀ

    Args:
        grad: the gradient of a weight, any shape; float16, bfloat16, float32, float64 or complex.
        axis: the fan-in axes, an int or a tuple of ints (negative ones count from the end); every other axis
            indexes output units. None: not a weight, the result is a copy of grad. Static under `jit`.

    Returns:
        A new array of the same shape and dtype, computed in at least float32 and rounded once.

    Raises:
        TypeError: grad is not a floating-point JAX array, or axis not an int, a tuple of ints or None, or traced.
        ValueError: an axis is out of range or repeated, or the tuple is empty.

    >>> import jax.numpy as jnp
    >>> grad = jnp.array([[1.0, 0.0], [2.0, 0.0], [6.0, 3.0]])  # the gradient of a Dense kernel, stored (in, out)
    >>> centralize(grad, axis=0)
    Array([[-2., -1.],
           [-1., -1.],
           [ 3.,  2.]], dtype=float32)

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), equation 1.
    """
    static(axis=axis)
    checks.array(JAX, "grad", grad)
    axis = checks.axis(axis, grad.shape)
    # A copy also where nothing is computed: whoever donates the result keeps the gradient.
    return jnp.array(center(widen(grad), axis), dtype=grad.dtype, copy=axis is None or grad.size == 0)

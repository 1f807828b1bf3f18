"""The GC operator: from the gradient of each weight vector, subtract its mean."""

import cupy

from gc_core import checks
from gc_cupy import kernels
from gc_cupy.arrays import CUPY, empty_like


def centralize(grad: cupy.ndarray, axis: int | tuple[int, ...] | None) -> cupy.ndarray:
    """Φ(g) = g − mean(g): the gradient with the mean of each weight vector removed.

    Formula, with M the fan-in, for each weight vector g of M elements::

        Φ(g) = g − (1/M) Σ_j g_j

    Args:
        grad: the gradient of a weight, any shape; float16, bfloat16, float32, float64 or complex.
        axis: the fan-in axes, an int or a tuple of ints (negative ones count from the end); every other axis
            indexes output units. None: not a weight, the result is a copy of grad.

    Returns:
        A new array of the same shape and dtype, computed in at least float32 and rounded once.

    Raises:
        TypeError: grad is not a floating-point CuPy array, or axis not an int, a tuple of ints or None.
        ValueError: an axis is out of range or repeated, or the tuple is empty.

    >>> import cupy as cp
    >>> grad = cp.array([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])  # stored (out, in)
    >>> centralize(grad, axis=1)
    array([[-2., -1.,  3.],
           [-1., -1.,  2.]])

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), equation 1.
    """
    checks.array(CUPY, "grad", grad)
    axis = checks.axis(axis, grad.shape)
    out = empty_like(grad)
    kernels.run([kernels.prepare("centralize", axis, (grad,), (out,), (), ())])
    return out

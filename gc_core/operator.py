"""The GC operator: from the gradient of each weight vector, subtract its mean."""

import numpy as np

from gc_core import checks
from gc_core.arrays import NUMPY, quietly, rounded, widen


def center(g: np.ndarray, axis: tuple[int, ...] | None) -> np.ndarray:
    """Φ(g) = g − mean(g), as the updates use it: no checks, in the precision of g."""
    if axis is None or g.size == 0:  # the mean of nothing would be NaN, with a warning
        return g
    return g - g.mean(axis, keepdims=True)


@quietly
def centralize(grad: np.ndarray, axis: int | tuple[int, ...] | None) -> np.ndarray:
    """Φ(g) = g − mean(g): the gradient with the mean of each weight vector removed.

    Formula, with M the fan-in and e = (1/√M)·1, for each weight vector g of M elements::

        Φ(g) = g − (1/M) Σ_j g_j = P g,    P = I − e eᵀ

    Args:
        grad: the gradient of a weight, any shape; float16, bfloat16, float32, float64 or complex.
        axis: the fan-in axes, an int or a tuple of ints (negative ones count from the end); every other axis
            indexes output units. None: not a weight, the result is a copy of grad.

    Returns:
        A new array of the same shape and dtype, computed in at least float32 and rounded once.

    Raises:
        TypeError: grad is not a floating-point NumPy array, or axis not an int, a tuple of ints or None.
        ValueError: an axis is out of range or repeated, or the tuple is empty.

    >>> import numpy as np
    >>> grad = np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])  # Linear.weight.grad, stored (out, in)
    >>> centralize(grad, axis=1)
    array([[-2., -1.,  3.],
           [-1., -1.,  2.]])

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), equation 1.
    """
    checks.array(NUMPY, "grad", grad)
    axis = checks.axis(axis, grad.shape)
    return rounded(center(widen(grad), axis), grad.dtype)


def projection_matrix(n: int) -> np.ndarray:
    """P = I − e eᵀ: the matrix that GC multiplies each weight vector's gradient with.

    Formula, with e = (1/√n)·1 of n elements::

        P = I − e eᵀ,    P² = P = Pᵀ,    P e = 0

    Args:
        n: the fan-in, an int >= 1.

    Returns:
        float64 array of shape (n, n).

    Raises:
        TypeError: n is not an int.
        ValueError: n < 1.

    >>> import numpy as np
    >>> projection_matrix(2)
    array([[ 0.5, -0.5],
           [-0.5,  0.5]])
    >>> grad = np.array([[1.0, 4.0], [2.0, 4.0], [6.0, 7.0]])  # the paper's ∇W, stored (fan-in, out)
    >>> np.allclose(projection_matrix(3) @ grad, centralize(grad, axis=0))
    True

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), equation 2.
    """
    n = checks.count("n", n, low=1)
    # e eᵀ has 1/n everywhere: written so, it is exact for every n whose inverse is.
    return np.eye(n) - np.full((n, n), 1.0 / n)

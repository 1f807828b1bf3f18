"""The GC operator: from the gradient of each weight vector, subtract its mean."""

from torch import Tensor

from gc_core import checks
from gc_torch.arrays import TORCH, rounded, widen


def center(g: Tensor, axis: tuple[int, ...] | None) -> Tensor:
    """Φ(g) = g − mean(g), as the updates use it: no checks, in the precision of g."""
    if axis is None:
        return g
    return g - g.mean(axis, keepdim=True)


def centralize(grad: Tensor, axis: int | tuple[int, ...] | None) -> Tensor:
    """Φ(g) = g − mean(g): the gradient with the mean of each weight vector removed.

    Formula, with M the fan-in, for each weight vector g of M elements::

        Φ(g) = g − (1/M) Σ_j g_j

    Args:
        grad: the gradient of a weight, any shape, on any device; float16, bfloat16, float32, float64 or complex.
        axis: the fan-in axes, an int or a tuple of ints (negative ones count from the end); every other axis
            indexes output units. None: not a weight, the result is a copy of grad.

    Returns:
        A new tensor of the same shape, dtype and device, computed in at least float32 and rounded once;
        differentiable.

    Raises:
        TypeError: grad is not a dense floating-point tensor, or axis not an int, a tuple of ints or None.
        ValueError: an axis is out of range or repeated, or the tuple is empty.

    >>> import torch
    >>> grad = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])  # Linear.weight.grad, stored (out, in)
    >>> centralize(grad, axis=1)
    tensor([[-2., -1.,  3.],
            [-1., -1.,  2.]])

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), equation 1.
    """
    checks.array(TORCH, "grad", grad)
    axis = checks.axis(axis, grad.shape)
    if axis is None:
        return grad.clone()
    return rounded(center(widen(grad), axis), grad.dtype)

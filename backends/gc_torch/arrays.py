"""What gc_torch knows of PyTorch's tensors: which are floating point, and in what precision an update is computed."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gc_core import checks

_KINDS = {
    torch.float16: "real",
    torch.bfloat16: "real",
    torch.float32: "real",
    torch.float64: "real",
    torch.complex64: "complex",
    torch.complex128: "complex",
}


def _kind(tensor: Tensor) -> str:
    if tensor.layout != torch.strided:
        return f"a sparse tensor ({tensor.layout})"
    return _KINDS.get(tensor.dtype, f"a tensor of {tensor.dtype}")


TORCH = checks.Framework("a torch.Tensor", lambda value: isinstance(value, Tensor), _kind, lambda tensor: tensor.device)


def is_half(tensor: Tensor) -> bool:
    """Whether updates of this tensor are computed in float32."""
    return tensor.dtype in (torch.float16, torch.bfloat16)


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill their memory without gaps, in whatever order."""
    return tensor.is_contiguous() or bool(torch.ops.aten.is_non_overlapping_and_dense(tensor))


def widen(tensor: Tensor) -> Tensor:
    """The tensor in the precision that its update is computed in."""
    return tensor.float() if is_half(tensor) else tensor


def rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The value rounded once to the dtype it is stored in."""
    return value.to(dtype)


def scalar(number: Any, like: Tensor) -> Any:
    """A hyperparameter in the precision of the update: a tensor in the real dtype of `like`, a float as it is."""
    return number.to(like.real.dtype if like.is_complex() else like.dtype) if isinstance(number, Tensor) else number


def as_scalar(number: Any) -> Any:
    """A tensor of one element as a 0-d tensor, anything else as it is."""
    return number.reshape(()) if isinstance(number, Tensor) and number.numel() == 1 else number


def given(number: Any) -> bool:
    """Whether a hyperparameter may differ from zero. A tensor may: reading it would wait for the device."""
    return isinstance(number, Tensor) or number != 0


def from_numpy(array: np.ndarray) -> Tensor:
    """A copy of a NumPy array as a tensor on the CPU, same shape and dtype (bfloat16 from `ml_dtypes` too).

    Args:
        array: of a dtype that PyTorch has.

    Raises:
        TypeError: it is not a NumPy array, or PyTorch has no such dtype.

    >>> import numpy as np
    >>> from_numpy(np.ones(2))
    tensor([1., 1.], dtype=torch.float64)
    """
    if not isinstance(array, (np.ndarray, np.generic)):
        raise TypeError(f"array must be a NumPy array; got {type(array).__qualname__}")
    # torch.from_numpy would refuse a foreign byte order and negative strides, and warn of a read-only array.
    array = np.array(array, dtype=array.dtype.newbyteorder("="), order="K", copy=True)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_numpy(array: Tensor) -> np.ndarray:
    """A tensor of any device as a NumPy array; one on the CPU shares its memory. bfloat16 needs `ml_dtypes`.

    Raises:
        TypeError: it is not a tensor.
        ImportError: a bfloat16 tensor, and `ml_dtypes` is not installed.

    >>> to_numpy(torch.ones(2))
    array([1., 1.], dtype=float32)
    """
    if not isinstance(array, Tensor):
        raise TypeError(f"array must be a torch.Tensor; got {type(array).__qualname__}")
    if array.dtype is torch.bfloat16:
        try:
            import ml_dtypes
        except ImportError:
            raise ImportError("bfloat16 as a NumPy array needs ml_dtypes: pip install ml_dtypes") from None
        return array.detach().view(torch.uint16).numpy(force=True).view(ml_dtypes.bfloat16)
    return array.numpy(force=True)

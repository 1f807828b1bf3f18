"""Where a kernel may read and write: only memory that is known to belong to the tensor. And what was written."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gc_torch import compat
from gc_torch.arrays import is_dense

PLAIN = (Tensor, nn.Parameter, nn.Buffer)  # a subclass may have no memory of its own


def outside(x: Tensor) -> str:
    """What an access to the elements of a tensor would miss in its storage, for people; empty: all of them lie in it.

    PyTorch itself does not ask: a step on a tensor whose storage was resized or freed reads and writes wild memory.

    >>> x = torch.ones(4)
    >>> outside(x)
    ''
    >>> _ = x.untyped_storage().resize_(8)
    >>> outside(x)
    'its storage has 8 bytes, and its elements reach to byte 16'
    """
    if type(x) not in PLAIN or x.layout != torch.strided or x.is_meta or not x.numel():
        return ""
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    reach, there = (x.storage_offset() + last + 1) * x.itemsize, x.untyped_storage().nbytes()
    return "" if reach <= there else f"its storage has {there} bytes, and its elements reach to byte {reach}"


def is_addressable(x: Tensor) -> bool:
    """Whether the address of a tensor, and of as many elements after it as it has, is memory of its own.

    It is not for subclasses, tensors that are fake, on the meta device, negated or zero without memory, wrapped by a
    function transform, with gaps or overlaps, or with a storage that is too small.
    """
    return (
        type(x) in PLAIN
        and x.layout == torch.strided
        and not x.is_meta
        and not _is_wrapped(x)
        and not (x.is_neg() or x.is_conj())
        and is_dense(x)
        and not outside(x)
        and (x.data_ptr() != 0 or not x.numel())
    )


def _is_wrapped(x: Tensor) -> bool:
    """Whether a function transform (vmap, grad) is at work on it: then it has no memory."""
    try:
        x.data_ptr()
    except RuntimeError:
        return True
    return False


def is_watched() -> bool:
    """Whether something wants to see every operation: a mode of `__torch_dispatch__`, as for fake tensors."""
    return compat.is_watched()


def say_written(tensors: Iterable[Tensor]) -> None:
    """Give tensors that were written through their address a new version, as PyTorch's operations in place do.

    Then backward through an older one raises, where it would silently compute something else.
    """
    tensors = list(tensors)
    if not tensors or torch.compiler.is_compiling():
        return
    try:
        torch.autograd.graph.increment_version(tensors)
    except RuntimeError:  # tensors made in inference mode have no version
        torch.autograd.graph.increment_version([x for x in tensors if not x.is_inference()])

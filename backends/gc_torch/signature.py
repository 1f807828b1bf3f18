"""What a step has prepared may be used in a later one only if everything it was made from is the same.

What it is made from: the options of the group, the row of the plan of each parameter, which of them have a gradient,
and of each parameter, gradient and state the class, dtype, device, shape, strides, and where it lies in how much
storage, so that what was proven of its memory (page `memory`) is so still. Addresses are read anew in every step.

Nothing else is remembered from step to step, and nothing here keeps a tensor alive.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from gc_core.plan import Row

OPTIONS = ("gc_on", "fused", "foreach", "capturable", "differentiable", "amsgrad")  # that decide about paths

Looks = tuple[list[Any], ...]


class Signature(NamedTuple):
    """Of one group in one step."""

    options: tuple[Any, ...]
    rows: tuple[Row, ...]
    with_grad: list[bool]


def looks(column: Sequence[Tensor]) -> Looks:
    """What tensors are like, at little cost for each of thousands.

    Raises:
        RuntimeError: a tensor has no strides, or no storage.

    >>> import torch
    >>> x = torch.ones(2, 3)
    >>> looks([x]) == looks([torch.zeros(2, 3)]), looks([x]) == looks([torch.zeros(3, 2).t()])
    (True, False)
    """
    return (
        list(map(type, column)),
        list(map(_dtype, column)),
        list(map(_device, column)),
        list(map(_shape, column)),
        list(map(Tensor.stride, column)),
        list(map(Tensor.storage_offset, column)),
        [x.untyped_storage().nbytes() for x in column],
        list(map(Tensor.is_neg, column)),
    )


_dtype = Tensor.dtype.__get__  # type: ignore[attr-defined]
_device = Tensor.device.__get__  # type: ignore[attr-defined]
_shape = Tensor.shape.__get__  # type: ignore[attr-defined]

"""What a step has prepared may be used in a later one only if everything it was made from is the same.

What it is made from: the options of the group, the row of the plan of each parameter, which of them have a gradient,
and of each parameter, gradient and state the class, dtype, device, shape, strides, and where it lies in how much
storage, so that what was checked of its memory (module `memory`) is so still. Addresses are read anew in every step.

Nothing else is remembered from step to step, and nothing here keeps a tensor alive.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, UntypedStorage

from gc_core.plan import Row
from gc_torch import compat, memory, path
from gc_torch.arrays import given

# The options of a group that decide what is done with its parameters; of these only whether there is one.
OPTIONS = ("gc_on", "low_precision", "seed", "fused", "foreach", "capturable", "differentiable", "amsgrad", "maximize")
WHETHER = ("momentum", "weight_decay")


class Signature(NamedTuple):
    """Of one group in one step."""

    options: tuple[Any, ...]
    watched: bool
    rows: tuple[Row, ...]
    with_grad: list[bool]


def signature(options: tuple[Any, ...], rows: tuple[Row, ...], grads: Sequence[Tensor | None]) -> Signature:
    """What a group and its parameters are like now, but for the tensors."""
    return Signature(options, memory.is_watched(), rows, [grad is not None for grad in grads])


def deciding(group: dict[str, Any]) -> tuple[Any, ...]:
    """What the options of a group decide about."""
    return (
        path.sees_numbers(group),
        isinstance(group["lr"], Tensor),
        *[group.get(name) for name in OPTIONS],
        *[given(group.get(name, 0)) for name in WHETHER],
    )


class Looks:
    """What tensors were like, to say of others whether they are like them, at little cost for each of thousands.

    Raises:
        RuntimeError, TypeError: one is no tensor, or has no strides or storage.

    >>> import torch
    >>> looks = Looks([torch.ones(2, 3)])
    >>> looks.are_of([torch.zeros(2, 3)]), looks.are_of([torch.zeros(3, 2).t()])
    (True, False)
    """

    def __init__(self, tensors: Sequence[Tensor]):
        self._check = compat.tensor_check(tensors)
        self._described = None if self._check is not None else _described(tensors)
        self._lies = _lies(tensors)

    def are_of(self, tensors: Sequence[Tensor]) -> bool:
        """Whether class, dtype, device, shape, strides, place in the storage and its size are the same."""
        alike = self._check(*tensors) if self._check is not None else _described(tensors) == self._described
        return alike and _lies(tensors) == self._lies


def _lies(tensors: Sequence[Tensor]) -> tuple[list[int], list[Any]]:
    storages = map(Tensor.untyped_storage, tensors)
    return list(map(UntypedStorage.nbytes, storages)), list(map(Tensor.storage_offset, tensors))


def _described(tensors: Sequence[Tensor]) -> list[tuple[Any, ...]]:
    return [
        (type(x), x.dtype, x.device, x.shape, x.stride(), x.is_neg(), x.is_conj(), x.is_inference()) for x in tensors
    ]

"""Φ of many gradients, written where they are: small ones together, large ones in parts that stay in a cache.

What is done to which gradient is found once. It serves later steps as long as the rows of the plan are the same, and
parameters and gradients are alike: class, dtype, device, shape and strides. Nothing here keeps a tensor alive.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gc_core.plan import Row
from gc_torch import compat, sharded
from gc_torch.arrays import rounded, widen
from gc_torch.operator import center

_SMALL = 1 << 15  # elements, at most, of a gradient that is copied beside others
# Elements that are centralized at a time: on a CPU for its cache, elsewhere enough to keep kernels few.
_AT_A_TIME = {"cpu": 1 << 17}
_AT_A_TIME_ELSEWHERE = 1 << 24
_PART = {"cpu": 1 << 20}  # elements of a part of a large one; each part is work for all threads
_RUN = 64  # elements, at least, that lie side by side in a part of a large one


class Together(NamedTuple):
    """Gradients that become one tensor, along an axis which indexes output units."""

    places: list[int]
    along: int
    sizes: list[int]
    axes: tuple[int, ...]


class Prepared:
    """What is done to each of some gradients.

    Args:
        grads: dense, each what this device holds of it.
        rows: how GC sees each, with axes.
    """

    def __init__(self, grads: Sequence[Tensor], rows: Sequence[Row]):
        self._replaced: list[tuple[int, Row]] = []
        self._together: list[Together] = []
        self._alone: list[tuple[int, Row]] = []
        self._in_inference_mode = torch.is_inference_mode_enabled()
        alike: dict[Any, list[int]] = {}
        for i, (grad, row) in enumerate(zip(grads, rows, strict=True)):
            if not _is_writable(grad):
                self._replaced.append((i, row))
                continue
            along = None if grad.numel() > _SMALL or type(grad) is not Tensor else _along(row)
            if along is None:
                self._alone.append((i, row))
                continue
            across = row.shape[:along] + row.shape[along + 1 :]
            alike.setdefault((along, across, row.axes, grad.dtype, grad.device), []).append(i)
        for (along, _, axes, _, device), places in alike.items():
            if len(places) == 1:
                self._alone.append((places[0], rows[places[0]]))
                continue
            limit, some, size = _AT_A_TIME.get(device.type, _AT_A_TIME_ELSEWHERE), [], 0
            for i in places:
                if some and size + grads[i].numel() > limit:
                    self._add(some, along, axes, grads)
                    some, size = [], 0
                some.append(i)
                size += grads[i].numel()
            self._add(some, along, axes, grads)

    def _add(self, places: list[int], along: int, axes: tuple[int, ...], grads: Sequence[Tensor]) -> None:
        self._together.append(Together(places, along, [grads[i].shape[along] for i in places], axes))

    def centralize_(self, params: Sequence[Any], grads: Sequence[Tensor]) -> None:
        """Φ of these gradients, in at least float32 and rounded once. One that cannot be written to is replaced."""
        for i, row in self._replaced:
            params[i].grad = sharded.sharded_like(params[i], phi(grads[i], row))
        for i, row in self._alone:
            for part in _parts(grads[i], row):
                _phi_(part, row)
        for places, along, sizes, axes in self._together:
            some = [grads[i] for i in places]
            x = widen(torch.cat(some, along))
            x.sub_(x.mean(axes, keepdim=True))
            compat.copy_(some, x.split(sizes, along))

    def serves_now(self) -> bool:
        """Whether what may be written to is what it was."""
        return self._in_inference_mode == torch.is_inference_mode_enabled()


class Kept:
    """What was prepared for the parameters of an optimizer, for later steps that are alike."""

    def __init__(self) -> None:
        self._rows: list[Any] | None = None

    def keep(self, rows: list[Any], params: list[Tensor], found: list[int], prepared: Prepared) -> None:
        """Keep it, if all are plain tensors, which can be compared at little cost.

        Args:
            rows: of each group.
            params: all of them.
            found: places of those that were prepared.
            prepared: what is kept.
        """
        self._rows = None
        grads = [p.grad for p in params]
        there = [grad for grad in grads if grad is not None]
        if torch.compiler.is_compiling() or not {type(x) for x in (*params, *there)} <= {Tensor, nn.Parameter}:
            return
        check = compat.tensor_check([*params, *there])
        if check is not None and None not in rows:
            self._rows, self._found, self._prepared, self._check = rows, found, prepared, check
            self._with_grad = [grad is not None for grad in grads]

    def centralize_(self, rows: list[Any], params: list[Tensor]) -> bool:
        """Φ of their gradients, if what is kept was made for such; else nothing is done, and False."""
        if self._rows is None or torch.compiler.is_compiling() or rows != self._rows:  # the same tuples, mostly
            return False
        grads = [p.grad for p in params]
        there = [grad for grad in grads if grad is not None]
        if [grad is not None for grad in grads] != self._with_grad or not self._check(*params, *there):
            return False
        if not self._prepared.serves_now():
            return False
        self._prepared.centralize_([params[i] for i in self._found], [grads[i] for i in self._found])  # type: ignore[misc]
        return True


def phi(grad: Tensor, row: Row) -> Tensor:
    """Φ of a gradient, in at least float32, and rounded once."""
    return rounded(center(widen(grad).reshape(row.view), row.axes).reshape(row.shape), grad.dtype)


def _phi_(grad: Tensor, row: Row) -> None:
    """The same in place, of a gradient or of a part of its output units."""
    wide = widen(grad)
    if row.view != row.shape:
        grad.copy_(phi(grad, row))
    elif wide is grad:
        grad.sub_(grad.mean(row.axes, keepdim=True))
    else:
        grad.copy_(wide.sub_(wide.mean(row.axes, keepdim=True)))


def _along(row: Row) -> int | None:
    """The axis along which gradients can be put side by side: the first of output units."""
    if row.view != row.shape:
        return None
    return next((axis for axis in range(len(row.shape)) if axis not in (row.axes or ())), None)


def _parts(grad: Tensor, row: Row) -> Sequence[Tensor]:
    """A large gradient in parts that are read once from memory; each has whole weight vectors."""
    limit = _PART.get(grad.device.type)
    if limit is None or grad.numel() <= limit or row.view != row.shape:
        return (grad,)
    outputs = [axis for axis in range(grad.ndim) if axis not in (row.axes or ()) and grad.shape[axis] > 1]
    if not outputs:
        return (grad,)
    axis = max(outputs, key=grad.stride)
    n = -(-grad.shape[axis] // -(-grad.numel() // limit))
    return grad.split(n, axis) if n * grad.stride(axis) >= _RUN else (grad,)


def _is_writable(grad: Tensor) -> bool:
    """Whether each element has its own place in memory, and writing is not refused outside of inference mode."""
    if grad.is_inference() and not torch.is_inference_mode_enabled():
        return False
    return all(stride > 0 for size, stride in zip(grad.shape, grad.stride(), strict=True) if size > 1)

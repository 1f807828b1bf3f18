"""Parameters that are split over devices (DTensor: FSDP2, tensor parallelism).

A step is elementwise but for the mean, so it runs on the shard that each device holds, as on any tensor. Where weight
vectors are whole on a device, so is the mean. Where they are split, sums of the shards are added up across devices.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from gc_core.plan import Row


class Split(NamedTuple):
    """The row of a parameter whose weight vectors lie on several devices."""

    name: str
    shape: tuple[int, ...]  # of the shard
    view: tuple[int, ...]  # of the shard, or of the whole where no view of the shard shows its vectors
    axes: tuple[int, ...]
    fan_in: int  # of the whole vectors
    groups: tuple[Any, ...]  # the process groups to sum over
    units: Tensor | None  # in that case the output unit of each number


def is_sharded(x: Any) -> bool:
    """Whether x is a DTensor, whose module is not imported for it."""
    return hasattr(x, "device_mesh") and hasattr(x, "placements")


def local(x: Any) -> Any:
    """What this device holds of a DTensor; anything else as it is."""
    return x.to_local() if is_sharded(x) else x


def local_grad(p: Tensor, grad: Any) -> Tensor:
    """What this device holds of the gradient, laid out like its parameter: backward may leave sums to be added up."""
    if not is_sharded(grad):
        return grad
    if grad.placements != p.placements:  # type: ignore[attr-defined]
        grad = grad.redistribute(placements=p.placements)  # type: ignore[attr-defined]
    return grad.to_local()


def first_of_shard(p: Any) -> list[int]:
    """Where, along each axis of a DTensor, the shard of this device begins; of another tensor zeros."""
    first = [0] * p.ndim
    if is_sharded(p):
        left = list(p.shape)
        for mesh_dim, size, axis in _shards(p):
            each, mine = -(-left[axis] // size), p.device_mesh.get_local_rank(mesh_dim)
            first[axis] += min(each * mine, left[axis])
            left[axis] = max(0, min(each, left[axis] - each * mine))
    return first


def sharded_like(p: Any, shard: Tensor) -> Tensor:
    """A shard as part of a tensor that is split as p is."""
    if not is_sharded(p):
        return shard
    return type(p).from_local(shard, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride())


def numel(p: Any) -> int:
    """Numbers that a device holds, the same on all of them even where shards are uneven."""
    return -(-p.numel() // math.prod(size for _, size, _ in _shards(p))) if is_sharded(p) else p.numel()


def check_like(p: Any, name: str, value: Any) -> None:
    """Raise unless value is split over devices just as the parameter is."""
    if is_sharded(p) != is_sharded(value):
        must, was = ("a DTensor", "a plain tensor") if is_sharded(p) else ("a plain tensor", "a DTensor")
        raise TypeError(
            f"{name} must be {must} like its parameter; it is {was} "
            "(load the state of sharded parameters with torch.distributed.checkpoint.state_dict)"
        )
    if is_sharded(p) and name != "the gradient" and value.placements != p.placements:
        raise ValueError(f"{name} must be split as its parameter is, {p.placements}; it is {value.placements}")


def row_of_shard(p: Any, row: Row) -> Row | Split:
    """The row of what this device holds of a parameter."""
    if not is_sharded(p) or row.axes is None:
        return row
    shape = tuple(p.to_local().shape)
    blocks = _blocks(row.shape, row.view)
    view, one_to_one, groups = list(row.view), True, []
    for mesh_dim, _, dim in _shards(p):
        stored, seen = next(block for block in blocks if dim in block[0])
        if stored == [dim] and len(seen) == 1:
            view[seen[0]] = shape[dim]
        else:
            one_to_one = False
        if any(axis in row.axes for axis in seen):
            groups.append(p.device_mesh.get_group(mesh_dim))
    if one_to_one and not groups:
        return row._replace(shape=shape, view=tuple(view))
    units = None if one_to_one else _units(p, row)
    view = tuple(view) if one_to_one else row.view
    return Split(row.name, shape, view, row.axes, row.fan_in or 0, tuple(groups), units)


def means(xs: Sequence[Tensor], rows: Sequence[Row | Split]) -> dict[int, Tensor]:
    """The means of those weight vectors that are split, by place in the list: one sum across devices for all of them.

    Every device must come here with the same rows in the same order.
    """
    sums: dict[int, Tensor] = {}
    together: dict[Any, list[int]] = {}
    for i, (x, row) in enumerate(zip(xs, rows, strict=True)):
        if isinstance(row, Split):
            sums[i] = _sums(x, row)
            together.setdefault((row.groups, x.dtype, x.device), []).append(i)
    for (groups, _, _), indices in together.items():
        flat = torch.cat([sums[i].reshape(-1) for i in indices])
        for group in groups:
            dist.all_reduce(flat, group=group)
        for i, part in zip(indices, flat.split([sums[i].numel() for i in indices]), strict=True):
            sums[i] = part.view(sums[i].shape)
    return {i: _spread(total / rows[i].fan_in, rows[i]) for i, total in sums.items()}  # type: ignore[arg-type]


def _sums(x: Tensor, row: Split) -> Tensor:
    if row.units is None:
        return x.reshape(row.view).sum(row.axes, keepdim=True)
    units = math.prod(n for axis, n in enumerate(row.view) if axis not in row.axes)
    return x.new_zeros(units).index_add_(0, row.units.reshape(-1), x.reshape(-1))


def _spread(mean: Tensor, row: Split) -> Tensor:
    """The means, so that they can be subtracted from the shard as it is stored."""
    if row.units is not None:
        return mean[row.units]
    return mean if row.view == row.shape else mean.expand(row.view).reshape(row.shape)


def _shards(p: Any) -> list[tuple[int, int, int]]:
    """(axis of the mesh, its size, axis of the parameter that is split along it)"""
    return [
        (mesh_dim, p.device_mesh.size(mesh_dim), placement.dim % p.ndim)
        for mesh_dim, placement in enumerate(p.placements)
        if hasattr(placement, "dim") and p.device_mesh.size(mesh_dim) > 1
    ]


def _blocks(shape: tuple[int, ...], view: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Which axes of the stored shape become which axes of the view."""
    blocks, i, j = [], 0, 0
    while i < len(shape) or j < len(view):
        stored, seen = ([i] if i < len(shape) else []), ([j] if j < len(view) else [])
        i, j = i + len(stored), j + len(seen)
        while (a := math.prod(shape[k] for k in stored)) != (b := math.prod(view[k] for k in seen)):
            if a < b:
                stored.append(i)
                i += 1
            else:
                seen.append(j)
                j += 1
        blocks.append((stored, seen))
    return blocks


def _units(p: Any, row: Row) -> Tensor:
    """For each number of the shard, which weight vector it belongs to."""
    from torch.distributed.tensor import distribute_tensor

    outputs = [1 if axis in row.axes else n for axis, n in enumerate(row.view)]  # type: ignore[operator]
    units = torch.arange(math.prod(outputs), device=p.device).reshape(outputs).expand(row.view).reshape(row.shape)
    return distribute_tensor(units, p.device_mesh, p.placements, src_data_rank=None).to_local()

"""Operations that move the numbers of a parameter about and change none: shapes, slices, look-ups, concatenation."""

from collections.abc import Callable, Sequence
from typing import Any

from gc_jax.program_dims import Dim, new, resized, sliced
from gc_jax.program_uses import Kind, Uses
from gc_jax.program_values import Image, Source, State, Value, of

Rule = Callable[[Any, Sequence[Value], Uses], list[Value]]


def moved(move: Callable[[Any, Image, Sequence[Value]], Image]) -> Rule:
    """The first operand, seen otherwise; what else there is are numbers and places."""

    def rule(eqn, values, uses):
        value = values[0]
        return [value._replace(images=tuple(move(eqn, image, values) for image in value.images))]

    return rule


def by_dims(dims: Callable[[Any, tuple[Dim, ...]], Sequence[Dim]]) -> Rule:
    return moved(lambda eqn, image, values: image._replace(dims=tuple(dims(eqn, image.dims))))


def shape_of(eqn: Any) -> tuple[int, ...]:
    return eqn.outvars[0].aval.shape


def broadcast_in_dim(eqn: Any, dims: tuple[Dim, ...]) -> list[Dim]:
    shape = shape_of(eqn)
    seen = [new(size) for size in shape]
    for dim, axis in zip(dims, eqn.params["broadcast_dimensions"], strict=True):
        seen[axis] = dim if dim.size == shape[axis] else new(shape[axis])
    return seen


def slice_(eqn: Any, image: Image, values: Sequence[Value]) -> Image:
    params = eqn.params
    strides = params["strides"] or (1,) * len(image.dims)
    return cut(image, params["start_indices"], shape_of(eqn), strides)


def dynamic_slice(eqn: Any, image: Image, values: Sequence[Value]) -> Image:
    return cut(image, (None,) * len(image.dims), eqn.params["slice_sizes"])


def cut(image: Image, starts: Sequence[int | None], sizes: Sequence[int], strides: Sequence[int] = ()) -> Image:
    """A slice of what a value holds of a parameter."""
    dims, chosen, slices = [], set(image.chosen), set(image.sliced)
    for axis, (dim, start, size) in enumerate(zip(image.dims, starts, sizes, strict=True)):
        seen, at = sliced(dim, start, size, strides[axis] if strides else 1)
        dims.append(seen)
        chosen |= {piece for piece in at if piece.axis >= 0}
        if size > 1 and at:  # a part that fits by its size: whether it is one of several layers, nobody has said
            slices |= {piece.axis for piece in at}
    return image._replace(dims=tuple(dims), chosen=frozenset(chosen), sliced=frozenset(slices - {-1}))


def split(eqn: Any, values: Sequence[Value], uses: Uses) -> list[Value]:
    (value,), axis, found, start = values, eqn.params["axis"], [], 0
    for out, size in zip(eqn.outvars, eqn.params["sizes"], strict=True):
        starts = [0] * len(out.aval.shape)
        starts[axis] = start
        images = tuple(cut(image, starts, out.aval.shape) for image in value.images)
        found.append(value._replace(images=images))
        start += int(size)
    return found


def concatenate(eqn: Any, values: Sequence[Value], uses: Uses) -> list[Value]:
    if of(*values) is Source.DATA:
        for value in values:
            uses.settle(value, Kind.INPUT, eqn.primitive.name)
        return [Value(Source.DATA)]
    axis, size = eqn.params["dimension"], shape_of(eqn)[eqn.params["dimension"]]

    def longer(image: Image) -> Image:
        dims = list(image.dims)
        dims[axis] = resized(dims[axis], size)
        return image._replace(dims=tuple(dims))

    return [Value(of(*values), tuple(longer(image) for value in values for image in value.images))]


def as_large(eqn: Any, values: Sequence[Value], uses: Uses) -> list[Value]:
    """The same axes, with other numbers of places: padding, and what devices send each other."""
    found = []
    for value, out in zip(values, eqn.outvars, strict=False):
        images = tuple(
            image._replace(dims=tuple(map(resized, image.dims, out.aval.shape)))
            for image in value.images
            if len(image.dims) == len(out.aval.shape)
        )
        found.append(value._replace(images=images))
    return found


def gather(eqn: Any, values: Sequence[Value], uses: Uses) -> list[Value]:
    value, indices = values[:2]
    numbers, sizes, rank = eqn.params["dimension_numbers"], eqn.params["slice_sizes"], len(shape_of(eqn))
    batched = len(numbers.offset_dims) < rank
    if any(image.state is not State.ALONE for image in value.images):
        uses.settle(value, Kind.LOOKED_UP, eqn.primitive.name)
        return [Value(Source.DATA)]
    state, images = State.LOOKED_UP if batched else State.ALONE, []
    for image in value.images:
        part = cut(image, (None,) * len(sizes), sizes)
        gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
        kept = [dim for axis, dim in enumerate(part.dims) if axis not in gone]
        dims = [new(size) for size in shape_of(eqn)]
        for axis, dim in zip(numbers.offset_dims, kept, strict=True):
            dims[axis] = dim
        images.append(part._replace(dims=tuple(dims), state=state, by=eqn.primitive.name))
    return [Value(Source.DATA if batched and images else of(value, indices if not images else value), tuple(images))]

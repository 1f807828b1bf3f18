"""Operations that multiply and sum: where the weights of linear maps are found."""

from collections.abc import Sequence
from typing import Any

from gc_jax.program_dims import Dim, new, own
from gc_jax.program_uses import Kind, Use, Uses
from gc_jax.program_values import Image, Source, State, Value, of


def dot_general(eqn: Any, values: Sequence[Value], uses: Uses) -> list[Value]:
    """Sums over the contracted axes of both operands; the result has the batch axes, and then the rest of each."""
    (lhs_over, rhs_over), (lhs_batch, rhs_batch) = eqn.params["dimension_numbers"]
    a = _Side(values[0], eqn.invars[0].aval.shape, tuple(lhs_over), tuple(lhs_batch))
    b = _Side(values[1], eqn.invars[1].aval.shape, tuple(rhs_over), tuple(rhs_batch))
    return [_product(a, b, eqn.primitive.name, uses)]


def ragged_dot_general(eqn: Any, values: Sequence[Value], uses: Uses) -> list[Value]:
    """Matrices of groups: (m, k) and (groups, k, n) to (m, n), each row by the matrix of its group."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (_, over), (_, batch) = numbers.dot_dimension_numbers
    lhs, rhs = values[:2]
    uses.settle(lhs, Kind.INPUT, eqn.primitive.name)
    if rhs.alone:
        uses.contract(rhs, tuple(over), eqn.primitive.name, (*batch, *numbers.rhs_group_dimensions))
    else:
        uses.settle(rhs, Kind.INPUT, eqn.primitive.name)
    return [Value(Source.DATA)]


class _Side:
    """One operand of a product."""

    def __init__(self, value: Value, shape: Sequence[int], over: tuple[int, ...], batch: tuple[int, ...]):
        self.value, self.shape, self.over, self.batch = value, shape, over, batch
        self.free = tuple(axis for axis in range(len(shape)) if axis not in (*over, *batch))

    def result(self, dims: Sequence[Dim], other: "_Side", first: bool) -> tuple[Dim, ...]:
        """The axes of the product, as this operand's."""
        mine = [dims[axis] for axis in self.free]
        theirs = [new(other.shape[axis]) for axis in other.free]
        return (*(dims[axis] for axis in self.batch), *(mine if first else theirs), *(theirs if first else mine))

    @property
    def like_input(self) -> bool:
        """Whether it is a parameter that stands in place of data: broadcast over a batch, or changed on the way."""
        axes = (*self.batch, *self.free)
        images = self.value.images
        spread = all(any(p.axis < 0 for p in i.dims[x].pieces) for i in images for x in axes[:1])
        return self.value.alone and (
            all(not image.linear for image in images)
            or (bool(axes) and spread and not any(image.factors or image.times for image in images))
        )


def _product(a: _Side, b: _Side, name: str, uses: Uses) -> Value:
    if a.value.alone and b.value.alone and not a.value.params & b.value.params:
        for side in [side for side in (a, b) if side.like_input]:
            uses.settle(side.value, Kind.INPUT, name)
            side.value = Value(Source.DATA)
    if a.value.alone and b.value.alone:
        return Value(of(a.value, b.value), (*_factors(a, b, True), *_factors(b, a, False)))
    images = []
    # First what data has met: it may say what the other is.
    for side, other in sorted(((a, b), (b, a)), key=lambda pair: pair[0].value.alone):
        if not side.value.images:
            continue
        if not side.value.alone:
            images += _met_data_before(side, other, name, uses)
        elif other.value.source is not Source.DATA:
            return Value(side.value.source, tuple(_with_constant(side, other, side is a)))
        elif other.value.one_hot and len(side.over) == 1:
            images += [
                image._replace(
                    dims=side.result(image.dims, other, side is a),
                    state=State.LOOKED_UP,
                    by=name,
                    chosen=image.chosen | own(image.dims[axis] for axis in side.over),
                )
                for image in side.value.images
            ]
        else:
            uses.contract(side.value, side.over, name, side.batch, outer=other.value.outer)
            images += _applied(side, other, side is a)
    return Value(of(a.value, b.value), tuple(images))


def _factors(side: _Side, other: _Side, first: bool) -> list[Image]:
    """A product of parameters, as one of them."""
    rank = _places(side, side.over)
    low = rank < _places(side, side.free) and rank < _places(other, other.free)
    found = []
    for image in side.value.images:
        linear = image.linear and image.param not in other.value.params and all(i.linear for i in other.value.images)
        found.append(
            image._replace(
                dims=side.result(image.dims, other, first),
                linear=linear,
                factors=image.factors | other.value.params,
                low_rank=low and not image.factors,
            )
        )
    return found


def _with_constant(side: _Side, other: _Side, first: bool) -> list[Image]:
    found = []
    for image in side.value.images:
        over = own(image.dims[axis] for axis in side.over)
        dims = side.result(image.dims, other, first)
        found.append(image._replace(dims=dims, reduced=True, constant_over=image.constant_over | over))
    return found


def _applied(side: _Side, other: _Side, first: bool) -> list[Image]:
    """The outputs of a linear map with one weight, for the second factor of a low-rank one."""
    if len(side.value.images) != 1 or other.value.one_hot:
        return []
    (image,) = side.value.images
    fan_in = _places(side, side.over)
    if not image.linear or image.factors or not own(image.dims[axis] for axis in side.over):
        return []
    dims = side.result(image.dims, other, first)
    stack = [new(dim.size) for dim in dims[: len(side.batch)]]  # each has data of its own
    return [image._replace(dims=(*stack, *dims[len(stack) :]), state=State.APPLIED, fan_in=fan_in)]


def _met_data_before(side: _Side, other: _Side, name: str, uses: Uses) -> list[Image]:
    """An operand that holds parameters which data has met already."""
    for image in side.value.images:
        over = own(image.dims[axis] for axis in side.over)
        kept = own(image.dims[axis] for axis in side.free)
        several = _places(other, other.free) > 1
        if image.state is State.LOOKED_UP and over and kept and not other.value.alone:
            # Of a stack of matrices each input has chosen one: experts.
            uses.add(image, Use(Kind.CONTRACTED, name, over, kept | image.chosen, stacked=True))
        elif image.state is State.APPLIED and over and kept and several and not other.value.alone:
            # With data it has made the weight of a product with more data: experts that are mixed by gates.
            uses.add(image, Use(Kind.TWICE, name))
        elif image.state is State.APPLIED:
            # (x A) B, with nothing in between and over all of A's outputs: B is the second factor.
            rank = _places(side, side.over)
            small = rank < image.fan_in and rank < _places(other, other.free)
            if over and not kept and other.value.alone and small:
                other.value = Value(Source.DATA, _as_factors(other, name, image.param, uses))
        else:
            kind = Kind.MULTIPLIED if image.state is State.MULTIPLIED else Kind.LOOKED_UP
            uses.add(image, Use(kind, image.by))
    return []


def _as_factors(side: _Side, name: str, first: int, uses: Uses) -> tuple[Image, ...]:
    for image in side.value.images:
        kind = Kind.FACTOR if image.linear and not image.factors else Kind.NOT_LINEAR
        uses.add(image, Use(kind, name, others=frozenset({first})))
    return ()


def _places(side: _Side, axes: Sequence[int]) -> int:
    count = 1
    for axis in axes:
        count *= side.shape[axis]
    return count


def conv_general_dilated(eqn: Any, values: Sequence[Value], uses: Uses) -> list[Value]:
    """Sums over the input channels of a group and over the places of the kernel; its outputs are along one axis."""
    lhs, rhs = values
    name, spec = eqn.primitive.name, eqn.params["dimension_numbers"]
    out, *over = spec.rhs_spec
    if rhs.alone and lhs.alone and not lhs.params & rhs.params:  # a constant that is learned: the input
        uses.settle(lhs, Kind.INPUT, name)
        lhs = Value(Source.DATA)
    for image in rhs.images:
        if image.state is State.APPLIED and own(image.dims[i] for i in over) and own([image.dims[out]]):
            uses.add(image, Use(Kind.TWICE, name))
    if not rhs.alone or lhs.alone or eqn.params["batch_group_count"] != 1:
        for value in (lhs, rhs):
            uses.settle(value, Kind.UNREAD if value.alone else Kind.INPUT, name)
        return [Value(Source.DATA)]
    if lhs.source is not Source.DATA and not lhs.images:
        lhs = Value(Source.DATA)  # a constant input
    one_place = all(eqn.invars[1].aval.shape[axis] == 1 for axis in spec.rhs_spec[2:])
    shape = eqn.invars[1].aval.shape
    channels = spec.lhs_spec[1]
    for image in lhs.images:
        if image.state is State.APPLIED:
            mine = own(dim for axis, dim in enumerate(image.dims) if axis != channels)
            small = shape[spec.rhs_spec[1]] < min(image.fan_in, shape[out])
            if own([image.dims[channels]]) and not mine and one_place and small and len(rhs.images) == 1:
                uses.add(rhs.images[0], Use(Kind.FACTOR, name, others=frozenset({image.param})))
                return [Value(Source.DATA)]
        else:
            uses.settle(Value(lhs.source, (image,)), Kind.INPUT, name)
    uses.contract(rhs, over, name)
    images = []
    if len(rhs.images) == 1 and rhs.images[0].linear and eqn.params["feature_group_count"] == 1:
        dims = [new(size) for size in eqn.outvars[0].aval.shape]
        dims[spec.out_spec[1]] = rhs.images[0].dims[out]
        fan_in = 1
        for axis in over:
            fan_in *= shape[axis]
        images = [rhs.images[0]._replace(dims=tuple(dims), state=State.APPLIED, fan_in=fan_in)]
    return [Value(Source.DATA, tuple(images))]

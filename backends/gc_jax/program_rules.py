"""What each operation of a program does with the parameters in its operands: one rule for each kind of primitive.

A rule takes the equation, the values of its operands, and the record of uses, and gives the values of its results.
"""

from collections.abc import Sequence
from typing import Any

from gc_jax.program_dims import Dim, new, own, reshaped
from gc_jax.program_moves import (
    Rule,
    as_large,
    broadcast_in_dim,
    by_dims,
    concatenate,
    dynamic_slice,
    gather,
    moved,
    shape_of,
    slice_,
    split,
)
from gc_jax.program_products import conv_general_dilated, dot_general, ragged_dot_general
from gc_jax.program_uses import Kind, Use, Uses
from gc_jax.program_values import Image, Source, State, Value, of


def rule_of(primitive: str) -> Rule:
    """The rule of a primitive; one that nobody has written down is not read."""
    return RULES.get(primitive, _unread)


def passes_gradients(primitive: str) -> bool:
    """Whether what comes out of a primitive has a gradient with respect to what goes in."""
    return RULES.get(primitive) is not _without_gradient


def _unread(eqn: Any, values: Sequence[Value], uses: Uses) -> list[Value]:
    for value in values:
        uses.settle(value, Kind.UNREAD, eqn.primitive.name)
    met = any(value.images for value in values)
    return [Value(Source.DATA if met else of(*values))] * len(eqn.outvars)


# ---- Numbers that are changed one by one


def _one_by_one(rule: Rule) -> Rule:
    """The rule for operands of one shape: a number, or an axis with one place, is repeated as the others need it."""

    def repeated(dims: tuple[Dim, ...], shape: tuple[int, ...]) -> tuple[Dim, ...]:
        dims = dims or (Dim((), 1),) * len(shape)
        return tuple(new(size) if dim.size == 1 else dim for dim, size in zip(dims, shape, strict=True))

    def rule_of_one_shape(eqn, values, uses):
        shape = shape_of(eqn)
        found = [
            value._replace(images=tuple(image._replace(dims=repeated(image.dims, shape)) for image in value.images))
            for value in values
        ]
        return rule(eqn, found, uses)

    return rule_of_one_shape


def _added(eqn: Any, values: Sequence[Value], uses: Uses) -> list[Value]:
    source = of(*values)
    if source is not Source.DATA:
        # W + B A: a product of parameters beside one that is none, or beside a constant, which W is where it is frozen.
        plain = any(_is_plain(image) for value in values for image in value.images) or any(
            not value.images and getattr(var, "aval", None) is not None and var.aval.shape == shape_of(eqn) != ()
            for value, var in zip(values, eqn.invars, strict=True)
        )
        images = tuple(
            image._replace(merged=image.merged or (plain and bool(image.factors)))
            for value in values
            for image in value.images
        )
        return [Value(source, images)]
    name = eqn.primitive.name
    others = [[v for v in values if v is not value] for value in values]
    for value, rest in zip(values, others, strict=True):
        if value.source is Source.DATA and all(not v.images and v.source is not Source.DATA for v in rest):
            return [value._replace(one_hot=False)]  # data and a number
        uses.settle(value, Kind.ADDED, name)
    return [Value(Source.DATA)]


def _is_plain(image: Image) -> bool:
    """Whether this is a parameter of the full shape that was multiplied with no other."""
    return not (image.factors or image.times) and all(dim.size == 1 or own([dim]) for dim in image.dims)


def _multiplied(eqn: Any, values: Sequence[Value], uses: Uses) -> list[Value]:
    name = eqn.primitive.name
    a, b = values
    if name == "div" and b.images:
        if b.source is Source.DATA or a.source is Source.DATA:  # x / scale
            uses.settle(b, Kind.MULTIPLIED, name)
            b = Value(Source.DATA)
        else:
            b = b._replace(images=tuple(image._replace(linear=False) for image in b.images))
    if of(a, b) is not Source.DATA:
        return [Value(of(a, b), (*_with(a, b), *_with(b, a)))]
    images = []
    for value, other in ((a, b), (b, a)):
        for image in value.images:
            if image.state is State.ALONE:
                if image.linear:
                    images.append(image._replace(state=State.MULTIPLIED, by=name))
                else:
                    uses.add(image, Use(Kind.MULTIPLIED, name))
            elif image.state is State.MULTIPLIED or other.source is not Source.DATA:
                images.append(image)
            elif image.state is State.LOOKED_UP:
                uses.add(image, Use(Kind.LOOKED_UP, image.by))
    return [Value(Source.DATA, tuple(images), a.one_hot or b.one_hot)]


def _with(value: Value, other: Value) -> list[Image]:
    """What a value holds, multiplied number by number with one that is made of parameters and constants."""
    found = []
    for image in value.images:
        # Noise that is scaled by a parameter makes a weight of the noise.
        linear = image.linear and other.source is not Source.RANDOM
        mine = [one for one in other.images if one.param == image.param and not one.reduced]
        linear = linear and not any(one.pieces >= image.pieces and image.pieces for one in mine)
        # One that was summed over is a norm: one number for each weight vector, whatever it is made of.
        times = {one.param for one in other.images if not one.reduced}
        found.append(image._replace(linear=linear, times=image.times | times))
    return found


def _changed(eqn: Any, values: Sequence[Value], uses: Uses) -> list[Value]:
    """A function of each number that is not linear."""
    name = eqn.primitive.name
    met = of(*values) is Source.DATA
    images = []
    for value in values:
        if met:
            uses.settle(value, Kind.NOT_LINEAR, name)
        else:
            images += [image._replace(linear=False) for image in value.images]
    return [Value(of(*values), tuple(images))] * len(eqn.outvars)


def _without_gradient(eqn: Any, values: Sequence[Value], uses: Uses) -> list[Value]:
    """What no gradient passes: comparisons, rounding, `stop_gradient`. What became of the parameter is no use of it."""
    compared = eqn.primitive.name == "eq" and any(value.places for value in values)
    return [Value(of(*values), one_hot=compared and of(*values) is Source.DATA)] * len(eqn.outvars)


def _select(eqn: Any, values: Sequence[Value], uses: Uses) -> list[Value]:
    which, *cases = values
    if of(*cases) is Source.DATA and sum(bool(case.images) or case.source is Source.DATA for case in cases) > 1:
        for case in cases:
            uses.settle(case, Kind.INPUT, eqn.primitive.name)
        return [Value(Source.DATA)]
    images = tuple(image for case in cases for image in case.images)
    if which.source is Source.DATA and of(*cases) is not Source.DATA:
        images = tuple(i._replace(state=State.MULTIPLIED, by=eqn.primitive.name) if i.linear else i for i in images)
        return [Value(Source.DATA, images)]
    return [Value(of(*cases), images)]


# ---- Sums


def _reduce_sum(eqn: Any, values: Sequence[Value], uses: Uses) -> list[Value]:
    (value,), axes, images = values, eqn.params["axes"], []
    for image in value.images:
        rest = tuple(dim for axis, dim in enumerate(image.dims) if axis not in axes)
        over = own(image.dims[axis] for axis in axes)
        if over and image.state is State.MULTIPLIED:
            kept = own(rest) | image.chosen
            use = Use(Kind.CONTRACTED, f"{image.by} and reduce_sum", over, kept, bool(image.chosen), summed=True)
            uses.add(image, use._replace(parts=any(image.dims[axis].part for axis in axes)))
            images.append(image._replace(dims=rest, state=State.APPLIED))
        elif over and image.state is State.LOOKED_UP:
            uses.add(image, Use(Kind.LOOKED_UP, image.by))
        elif not over or image.state is State.ALONE:
            images.append(image._replace(dims=rest, reduced=image.reduced or _several(image, axes)))
    return [value._replace(images=tuple(images), one_hot=False)]


def _several(image: Image, axes: Sequence[int]) -> bool:
    return any(image.dims[axis].size > 1 for axis in axes)


def _reduced(eqn: Any, values: Sequence[Value], uses: Uses) -> list[Value]:
    """A reduction that is no sum."""
    (value,), axes = values, eqn.params["axes"]
    if not value.alone:
        uses.settle(value, Kind.NOT_LINEAR, eqn.primitive.name)
        return [Value(value.source)] * len(eqn.outvars)
    images = tuple(
        image._replace(
            dims=tuple(dim for axis, dim in enumerate(image.dims) if axis not in axes),
            linear=False,
            reduced=image.reduced or _several(image, axes),
        )
        for image in value.images
    )
    return [value._replace(images=images)]


# ---- Values that come from nowhere


def _places(eqn: Any, values: Sequence[Value], uses: Uses) -> list[Value]:
    return [Value(places=True)]


def _random(eqn: Any, values: Sequence[Value], uses: Uses) -> list[Value]:
    return [Value(Source.RANDOM)] * len(eqn.outvars)


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    "dot_general": dot_general,
    "ragged_dot_general": ragged_dot_general,
    "conv_general_dilated": conv_general_dilated,
    "reshape": by_dims(lambda eqn, dims: reshaped(dims, shape_of(eqn))),
    "transpose": by_dims(lambda eqn, dims: [dims[axis] for axis in eqn.params["permutation"]]),
    "squeeze": by_dims(lambda eqn, dims: [d for axis, d in enumerate(dims) if axis not in eqn.params["dimensions"]]),
    "broadcast_in_dim": by_dims(broadcast_in_dim),
    "slice": moved(slice_),
    "dynamic_slice": moved(dynamic_slice),
    "split": split,
    "concatenate": concatenate,
    "gather": gather,
    "select_n": _one_by_one(_select),
    "reduce_sum": _reduce_sum,
    "iota": _places,
    **_table(by_dims(lambda eqn, dims: dims), "convert_element_type copy copy_p rev neg real reduce_precision name"),
    **_table(as_large, "pad optimization_barrier device_put sharding_constraint mesh_cast reshard layout_constraint"),
    **_table(as_large, "all_gather all_gather_invariant all_gather_reduced psum psum_invariant psum2 pvary pcast"),
    **_table(as_large, "pbroadcast ppermute psum_scatter reduce_scatter unreduced_psum"),
    **_table(_one_by_one(_added), "add sub add_any"),
    **_table(_one_by_one(_multiplied), "mul div"),
    **_table(
        _one_by_one(_changed),
        "exp exp2 expm1 log log1p logistic tanh tan sin cos asin acos atan sinh cosh asinh acosh atanh",
    ),
    **_table(
        _one_by_one(_changed),
        "sqrt rsqrt cbrt square integer_pow pow abs erf erfc erf_inv lgamma digamma max min clamp rem",
    ),
    **_table(_one_by_one(_changed), "atan2 nextafter cumsum cumprod cumlogsumexp cummax cummin imag conj complex"),
    **_table(_without_gradient, "eq ne lt le gt ge is_finite sign floor ceil round stop_gradient not and or xor"),
    **_table(_without_gradient, "argmax argmin reduce_and reduce_or shift_left shift_right_logical population_count"),
    **_table(_reduced, "reduce_max reduce_min reduce_prod"),
    **_table(_random, "random_bits random_seed random_wrap random_unwrap random_split random_fold_in threefry2x32"),
    **_table(_random, "rng_bit_generator random_gamma rng_uniform random_clone"),
}

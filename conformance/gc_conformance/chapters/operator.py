"""The operator: centralize(grad, axis) subtracts from the gradient of each weight vector its mean, and no more."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from .. import oracle
from ..bounds import Approx, decimals, working
from ..judge import agree, centralized, claimed, require, same
from ..port import MEMORY, NotProvided, Port
from ..registry import property
from ..result import Violation
from ..strategies import (
    LAYOUTS,
    MATRICES,
    SHAPES,
    TENSORS,
    Array,
    Gradient,
    drawn_axes,
    gradients,
    pick,
    subsets,
    written,
)


def expected(case: Gradient) -> Approx:
    return oracle.centralize(case.grad.value, case.axis, case.grad.dtype)


@property("operator.definition", basic=True, needs="centralize", cases=gradients())
def definition(port: Port, case: Gradient) -> None:
    """centralize(g) = g - mean(g), the mean taken over the fan-in axes."""
    agree(centralized(port, case), expected(case), "centralize(grad, axis)")


@property("operator.mean_is_zero", needs="centralize", cases=gradients())
def mean_is_zero(port: Port, case: Gradient) -> None:
    """What is left of every weight vector's gradient sums to zero: e' P = 0."""
    got, over = centralized(port, case), oracle.axes_of(case.axis, len(case.grad.shape))
    total, allowed = decimals(got).sum(over), expected(case).error.sum(over)
    require(bool(np.all(abs(total) <= allowed)), "a weight vector's centralized gradient does not sum to zero")


@property("operator.idempotent", needs="centralize", cases=gradients())
def idempotent(port: Port, case: Gradient) -> None:
    """Centralizing twice changes nothing more: P P = P."""
    once = centralized(port, case)
    twice = port.numpy(port.call("centralize", port.array(once.copy()), case.axis))
    left = expected(case).error.max(oracle.axes_of(case.axis, once.ndim), keepdims=True)
    allowed = oracle.centralize(once, case.axis, case.grad.dtype).error + left  # the mean that rounding has left
    agree(
        twice,
        Approx(decimals(once), allowed, working(case.grad.dtype)),
        "centralize of a centralized gradient",
        "centralize(centralize(grad, axis), axis)",
    )


@property("operator.linear", needs="centralize", cases=gradients(pair=True, dtypes=("float32", "float64")))
def linear(port: Port, case: Gradient) -> None:
    """centralize(2 g - h) = 2 centralize(g) - centralize(h): so it commutes with averaging and loss scaling."""
    claimed(case, "float32 or float64")
    assert case.other
    mix = 2 * case.grad.value - case.other.value
    left = port.numpy(port.call("centralize", port.array(mix.copy()), case.axis))
    g, h = (port.numpy(port.call("centralize", port.array(a.fresh()), case.axis)) for a in (case.grad, case.other))
    parts = [oracle.centralize(a, case.axis, case.grad.dtype) for a in (case.grad.value, case.other.value, mix)]
    allowed = 2 * parts[0].error + parts[1].error + parts[2].error
    unit = working(case.grad.dtype).unit  # of the one rounding in `mix`, carried through P
    allowed = allowed + 2 * unit * oracle.centralize(abs(mix), None, case.grad.dtype).value.max()
    agree(
        left,
        Approx(2 * decimals(g) - decimals(h), allowed, parts[0].precision),
        "centralize(2 grad - h)",
        "centralize(2 * grad - h, axis), 2 * centralize(grad, axis) - centralize(h, axis)",
    )


@property("operator.symmetric", needs="centralize", cases=gradients(pair=True))
def symmetric(port: Port, case: Gradient) -> None:
    """<centralize(g), h> = <g, centralize(h)>: P = P', an orthogonal projection."""
    assert case.other
    g, h = case.grad, case.other
    pg, ph = (port.numpy(port.call("centralize", port.array(a.fresh()), case.axis)) for a in (g, h))
    left, right = (decimals(pg) * decimals(h.value)).sum(), (decimals(g.value) * decimals(ph)).sum()
    bound_g, bound_h = (oracle.centralize(a.value, case.axis, a.dtype).error for a in (g, h))
    allowed = (bound_g * abs(decimals(h.value)) + bound_h * abs(decimals(g.value))).sum()
    require(
        abs(left - right) <= allowed,
        f"<centralize(g), h> is {float(left)!r}, <g, centralize(h)> is {float(right)!r}",
        "(centralize(grad, axis) * h).sum(), (grad * centralize(h, axis)).sum()",
    )


@property("operator.deviations_unchanged", needs="centralize", cases=gradients())
def deviations_unchanged(port: Port, case: Gradient) -> None:
    """Differences within a weight vector stay as they are: only the mean goes, nothing is rescaled."""
    got, over = decimals(centralized(port, case)), oracle.axes_of(case.axis, len(case.grad.shape))
    assert over is not None
    first = tuple(slice(0, 1) if a in over else slice(None) for a in range(got.ndim))
    g, bound = decimals(case.grad.value), expected(case).error
    away = abs((got - got[first]) - (g - g[first]))
    require(
        bool(np.all(away <= bound + bound[first])),
        "two elements of a weight vector differ by another amount than before",
    )


@property(
    "operator.outputs_stay_apart",
    needs="centralize",
    cases=gradients(
        pair=True,
        shapes=MATRICES[:2] + MATRICES[4:] + TENSORS,
        choose=lambda shape, over: math.prod(n for a, n in enumerate(shape) if a not in over) > 1,
    ),
)
def outputs_stay_apart(port: Port, case: Gradient) -> None:
    """The gradient of one output unit does not depend on that of another."""
    assert case.other
    over = oracle.axes_of(case.axis, len(case.grad.shape))
    assert over is not None
    shape = case.grad.shape
    outputs = [a for a in range(len(shape)) if a not in over]
    one = tuple(slice(None) if a in over else slice(0, 1) for a in range(len(shape)))
    first = f"~np.indices({shape})[{outputs}].any(0)"
    mixed = Array(f"np.where({first}, {case.grad.expression}, {case.other.expression})")
    got = port.numpy(port.call("centralize", port.array(mixed.fresh()), case.axis))
    want = expected(case)
    agree(
        got[one],
        Approx(want.value[one], want.error[one], want.precision),
        "the first output unit's gradient, beside the others of h, at ",
        f"centralize({port.spell_array(mixed.expression)}, axis)",
    )


@property(
    "operator.none_leaves_alone",
    basic=True,
    needs="centralize",
    cases=lambda port: gradients()(port).map(lambda case: Gradient(case.grad, None)),
)
def none_leaves_alone(port: Port, case: Gradient) -> None:
    """axis=None is not a weight: the gradient comes back as it is."""
    same(centralized(port, case), case.grad.value, "centralize(grad, None)")


@property("operator.several_axes", needs="centralize", cases=gradients(shapes=TENSORS, least=2))
def several_axes(port: Port, case: Gradient) -> None:
    """Several fan-in axes are one weight vector: one mean over all of them."""
    agree(centralized(port, case), expected(case), "centralize(grad, axis)")


@property(
    "operator.one_axis_of_many",
    needs="centralize",
    cases=gradients(shapes=TENSORS, choose=lambda shape, over: len(over) == 1 and shape[over[0]] > 1),
)
def one_axis_of_many(port: Port, case: Gradient) -> None:
    """With one fan-in axis every other axis indexes output units, whatever the rank."""
    agree(centralized(port, case), expected(case), "centralize(grad, axis)")


@property(
    "operator.last_axis_is_output",
    needs="centralize",
    cases=gradients(choose=lambda shape, over: over == tuple(range(len(shape) - 1))),
)
def last_axis_is_output(port: Port, case: Gradient) -> None:
    """With the output last (Flax, Keras) the mean is over all axes but the last."""
    agree(centralized(port, case), expected(case), "centralize(grad, axis)")


@property(
    "operator.first_axis_is_output",
    needs="centralize",
    cases=gradients(choose=lambda shape, over: over == tuple(range(1, len(shape)))),
)
def first_axis_is_output(port: Port, case: Gradient) -> None:
    """With the output first (PyTorch) the mean is over all axes but the first."""
    agree(centralized(port, case), expected(case), "centralize(grad, axis)")


@st.composite
def _negative(draw, port: Port) -> Gradient:
    case = draw(gradients()(port))
    over = oracle.axes_of(case.axis, len(case.grad.shape)) or ()
    return Gradient(case.grad, tuple(a - len(case.grad.shape) for a in over))


@property("operator.negative_axes", needs="centralize", cases=_negative)
def negative_axes(port: Port, case: Gradient) -> None:
    """Negative axes count from the end."""
    agree(centralized(port, case), expected(case), "centralize(grad, axis)")


@st.composite
def _int_axis(draw, port: Port) -> Gradient:
    case = draw(gradients()(port))
    return Gradient(case.grad, pick(draw, range(-len(case.grad.shape), len(case.grad.shape))))


@property("operator.int_axis", needs="centralize", cases=_int_axis, share=2)
def int_axis(port: Port, case: Gradient) -> None:
    """An int is one axis."""
    agree(centralized(port, case), expected(case), "centralize(grad, axis)")


@st.composite
def _unordered(draw, port: Port) -> Gradient:
    case = draw(gradients(shapes=TENSORS, least=2)(port))
    over = oracle.axes_of(case.axis, len(case.grad.shape)) or ()
    return Gradient(case.grad, tuple(sorted(over, reverse=True)))


@property("operator.axes_in_any_order", needs="centralize", cases=_unordered)
def axes_in_any_order(port: Port, case: Gradient) -> None:
    """The order in which the axes are named means nothing."""
    agree(centralized(port, case), expected(case), "centralize(grad, axis)")


RANKS = ((5,), (2, 3), (2, 3, 4), (2, 3, 1, 2), (2, 1, 3, 2, 2), (2, 1, 2, 1, 3, 2))


@property("operator.every_rank", needs="centralize", cases=gradients(shapes=RANKS))
def every_rank(port: Port, case: Gradient) -> None:
    """Any number of axes will do, from one to six, when the fan-in axes are given."""
    agree(centralized(port, case), expected(case), "centralize(grad, axis)")


@st.composite
def _sizes(draw, port: Port) -> Gradient:
    dtype = pick(draw, port.real_dtypes)
    small, large = st.sampled_from(range(2, 34)), st.sampled_from((48, 63, 64, 65, 127, 128, 129, 257))
    fan_in, rank = draw(st.one_of(small, large)), pick(draw, (2, 4))
    shape = (3, fan_in) if rank == 2 else (2, fan_in, 1, 2)
    values = np.arange(math.prod(shape)).reshape(shape) % 7
    return Gradient(written(values, dtype), tuple(range(1, rank)))


@property("operator.every_size", needs="centralize", cases=_sizes, share=2)
def every_size(port: Port, case: Gradient) -> None:
    """Any fan-in will do: small, odd, prime, a power of two or next to one."""
    agree(centralized(port, case), expected(case), "centralize(grad, axis)")


@st.composite
def _few_outputs(draw, port: Port) -> Gradient:
    dtype, outputs = pick(draw, port.real_dtypes), pick(draw, range(1, 41))
    values = np.arange(outputs * 3).reshape(outputs, 3) % 5
    return Gradient(written(values, dtype), 1)


@property("operator.every_number_of_outputs", needs="centralize", cases=_few_outputs)
def every_number_of_outputs(port: Port, case: Gradient) -> None:
    """Any number of output units will do, one included."""
    agree(centralized(port, case), expected(case), "centralize(grad, axis)")


@property(
    "operator.fan_in_one_given",
    needs="centralize",
    cases=gradients(
        shapes=((4, 1), (1, 3), (4, 1, 3), (3, 1, 1)), choose=lambda shape, over: math.prod(shape[a] for a in over) == 1
    ),
)
def fan_in_one_given(port: Port, case: Gradient) -> None:
    """Given an axis of length one, every weight vector is its own mean: zero is left."""
    agree(centralized(port, case), expected(case), "centralize(grad, axis)")


@st.composite
def _whole(draw, port: Port) -> Gradient:
    case = draw(gradients(shapes=((5,), *SHAPES))(port))
    return Gradient(case.grad, tuple(range(len(case.grad.shape))))


@property("operator.all_axes", needs="centralize", cases=_whole)
def all_axes(port: Port, case: Gradient) -> None:
    """With all axes named the whole array is one weight vector."""
    agree(centralized(port, case), expected(case), "centralize(grad, axis)")


@st.composite
def _scalars(draw, port: Port) -> Gradient:
    dtype = pick(draw, port.real_dtypes)
    return Gradient(pick(draw, (written(np.array(2.5), dtype), written([1.0, -2.0, 4.0], dtype))), None)


@property("operator.scalars_and_vectors", needs="centralize", cases=_scalars)
def scalars_and_vectors(port: Port, case: Gradient) -> None:
    """A 0-d or 1-d gradient without axes comes back as it is."""
    same(centralized(port, case), case.grad.value, "centralize(grad, None)")


EMPTY = ((0, 3), (3, 0), (2, 0, 3), (0, 2, 3), (2, 3, 0))


@st.composite
def _empty(draw, port: Port) -> Gradient:
    shape, dtype = pick(draw, EMPTY), pick(draw, port.real_dtypes)
    return Gradient(Array(f"np.zeros({shape}, {dtype!r})"), drawn_axes(draw, len(shape), subsets(len(shape))))


@property("operator.empty", needs="centralize", cases=_empty)
def empty(port: Port, case: Gradient) -> None:
    """An empty gradient comes back empty, of the same shape and dtype."""
    with port.may_refuse("empty arrays"):
        same(centralized(port, case), case.grad.value, "centralize(grad, axis)")


# Every size, layout and choice of axes, None included: what a port does to its inputs may hang on any of them.
_ANY: dict[str, Any] = dict(
    shapes=(*MATRICES[:2], *TENSORS[:3], (5,), (12, 17), (3, 400), (2, 5, 4, 4)), layouts=tuple(LAYOUTS), none=True
)


@property("operator.input_unchanged", needs=("centralize", MEMORY), cases=gradients(**_ANY), share=3)
def input_unchanged(port: Port, case: Gradient) -> None:
    """The gradient given is not changed."""
    grad = port.array(case.grad.fresh())
    port.call("centralize", grad, case.axis)
    show = "centralize(grad, axis), 'grad is now', grad"
    same(port.numpy(grad), case.grad.value, "grad after centralize(grad, axis)", show)
    # What it is a part of stays, too.
    require("centralize" not in port.changed, port.changed.get("centralize", ""), show)


@property(
    "operator.read_only_input",
    needs=("centralize", MEMORY),
    cases=gradients(shapes=(*SHAPES, (12, 17), (5,)), layouts=("read-only",), none=True),
)
def read_only_input(port: Port, case: Gradient) -> None:
    """A gradient that may not be written to can be centralized."""
    agree(centralized(port, case), expected(case), "centralize(grad, axis)")


@property("operator.result_is_its_own", needs=("centralize", MEMORY), cases=gradients(**_ANY), share=3)
def result_is_its_own(port: Port, case: Gradient) -> None:
    """The result is a new array: a second call, or another gradient, does not change it."""
    grad = port.array(case.grad.fresh())
    result = port.call("centralize", grad, case.axis)
    before = port.numpy(result)
    port.call("centralize", port.array(-2 * case.grad.fresh()), case.axis)
    same(
        port.numpy(result),
        before,
        "an earlier result, after another call",
        "[centralize(grad, axis), centralize(-2 * grad, axis)]",
    )


@property("operator.no_memory", needs="centralize", cases=gradients(pair=True, **_ANY))
def no_memory(port: Port, case: Gradient) -> None:
    """A call depends on its own arguments, not on the calls before it."""
    assert case.other
    port.call("centralize", port.array(case.other.fresh()), case.axis)
    agree(
        centralized(port, case),
        expected(case),
        "centralize(grad, axis) after centralize(h, axis)",
        "[centralize(h, axis), centralize(grad, axis)][1]",
    )


@property("operator.keeps_shape", needs="centralize", cases=gradients(shapes=(*SHAPES, (1, 1), (1, 2, 1))))
def keeps_shape(port: Port, case: Gradient) -> None:
    """The result has the gradient's shape, axes of length one included."""
    got = centralized(port, case)
    require(
        got.shape == case.grad.shape,
        f"its shape is {got.shape}, and must be {case.grad.shape}",
        "centralize(grad, axis).shape",
    )


@property("operator.keeps_dtype", needs="centralize", cases=gradients())
def keeps_dtype(port: Port, case: Gradient) -> None:
    """The result has the gradient's dtype."""
    got = centralized(port, case).dtype.name
    require(
        got == case.grad.dtype, f"its dtype is {got}, and must be {case.grad.dtype}", "centralize(grad, axis).dtype"
    )


@property("operator.keeps_kind_and_device", needs=("centralize", MEMORY), cases=gradients())
def keeps_kind_and_device(port: Port, case: Gradient) -> None:
    """The result is the same kind of array as the gradient, on the same device."""
    grad = port.array(case.grad.fresh())
    result = port.call("centralize", grad, case.axis)
    require(
        isinstance(result, type(grad)),
        f"it is a {type(result).__name__}, and must be a {type(grad).__name__}",
        "type(centralize(grad, axis))",
    )
    was, now = (str(getattr(a, "device", "")) for a in (grad, result))
    require(was == now, f"it is on device {now}, and must be on {was}", "centralize(grad, axis).device")


@property(
    "operator.fortran_order", needs=("centralize", MEMORY), cases=gradients(layouts=("Fortran order", "axes swapped"))
)
def fortran_order(port: Port, case: Gradient) -> None:
    """The order of the axes in memory does not matter."""
    agree(centralized(port, case), expected(case), "centralize(grad, axis)")


@property(
    "operator.strided",
    needs=("centralize", MEMORY),
    cases=gradients(
        layouts=("every second of the first axis", "every second of the last axis", "part of a larger array")
    ),
)
def strided(port: Port, case: Gradient) -> None:
    """Gaps in memory do not matter."""
    agree(centralized(port, case), expected(case), "centralize(grad, axis)")


@property(
    "operator.negative_strides",
    needs=("centralize", MEMORY),
    cases=gradients(layouts=("reversed first axis", "reversed last axis")),
)
def negative_strides(port: Port, case: Gradient) -> None:
    """The direction in memory does not matter."""
    agree(centralized(port, case), expected(case), "centralize(grad, axis)")


@st.composite
def _complex(draw, port: Port) -> Gradient:
    dtype = pick(draw, [d for d in port.dtypes if d.startswith("complex")] or ["complex64"])
    shape = pick(draw, MATRICES[:2] + TENSORS[:3])
    numbers = st.sampled_from((1, 1j, 2 - 1j, 0, -3 + 4j, 10 + 1j))
    values = draw(st.lists(numbers, min_size=math.prod(shape), max_size=math.prod(shape)))
    array = Array(f"np.array({np.reshape(np.array(values, complex), shape).tolist()}, {dtype!r})")
    return Gradient(array, drawn_axes(draw, len(shape), subsets(len(shape))[:2]))


@property("operator.complex", needs="centralize", cases=_complex)
def complex_numbers(port: Port, case: Gradient) -> None:
    """Complex numbers have complex means; a port that does not claim them may refuse them."""
    try:
        got = centralized(port, case)
    except Violation as refusal:
        if case.grad.dtype in port.dtypes:
            raise
        raise NotProvided(f"complex numbers: {refusal}") from refusal
    part = "float32" if case.grad.dtype == "complex64" else "float64"
    require(np.iscomplexobj(got), f"a complex gradient comes back as {got.dtype.name}")
    for name in ("real", "imag"):
        want = oracle.centralize(getattr(case.grad.value, name), case.axis, part)
        agree(getattr(got, name), want, f"the {name} part of centralize(grad, axis)")

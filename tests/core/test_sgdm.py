"""sgdm_update against the restatement of the contract's rule, for every option."""

import itertools

import numpy as np
import pytest

import gc_core as gc

from . import restatement
from .cases import COMPLEX, EMPTY, MEMORY, REAL, SHAPES_AND_AXES, frozen, random

MOMENTA = [
    {"momentum": 0.0},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "dampening": 0.9},
    {"momentum": 1.5, "dampening": -0.5},
]
DECAYS = [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled": True}]
PLACES = [{"gc_on": "gradient"}, {"gc_on": "update"}]
OPTIONS = [{**a, **b, **c} for a, b, c in itertools.product(MOMENTA, DECAYS, PLACES)]


def name(options):
    return " ".join(f"{key}={value}" for key, value in options.items()) or "defaults"


def example(shape, dtype=np.float64):
    """A weight, a gradient, and a state after one plain step, so that nothing in it is zero."""
    w, grad = random(shape, dtype, 1, loc=1.0), random(shape, dtype, 2)
    return w, grad, gc.SGDMState(random(shape, dtype, 3))


def check_sgdm(update, w, grad, state, *, steps=1, **options):
    """Each step of a port against the restatement, from that port's own last state; its arguments stay."""
    options = {"lr": 0.1, **options}
    for _ in range(steps):
        before = frozen(w, grad, state.momentum_buffer)
        new_w, new_state = update(w, grad, state, **options)
        assert type(new_state) is gc.SGDMState
        weights, buffer = restatement.sgdm(w, grad, state.momentum_buffer, **options)
        restatement.assert_near(new_w, weights, w, "w")
        restatement.assert_near(new_state.momentum_buffer, buffer, w, "momentum_buffer")
        assert frozen(w, grad, state.momentum_buffer) == before
        old = (w, grad, state.momentum_buffer)
        new = (new_w, new_state.momentum_buffer)
        assert not any(np.shares_memory(a, b) for a in new for b in old) and not np.shares_memory(*new)
        w, state = new_w, new_state


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("axis", [(1, 2), None])
@pytest.mark.parametrize("options", OPTIONS, ids=name)
def test_every_option(options, axis, dtype):
    check_sgdm(gc.sgdm_update, *example((2, 3, 2), dtype), steps=2, axis=axis, **options)


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("place", ["gradient", "update"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES)
def test_every_shape_and_axis(shape, axis, place, dtype):
    check_sgdm(gc.sgdm_update, *example(shape, dtype), axis=axis, weight_decay=0.1, gc_on=place)


@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES)
def test_every_option_on_every_shape(shape, axis):
    for i, options in enumerate(OPTIONS):
        memory = MEMORY[(i + i // len(MEMORY)) % len(MEMORY)]  # each option meets several kinds
        w, grad, state = example(shape)
        if shape:  # 0-d arrays have no order in memory
            w, grad, state = memory(w), memory(grad), gc.SGDMState(memory(state.momentum_buffer))
        check_sgdm(gc.sgdm_update, w, grad, state, axis=axis, **options)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("dtype", REAL[:4], ids=str)
def test_every_kind_of_memory(memory, dtype):
    w, grad, state = example((3, 4, 2), dtype)
    state = gc.SGDMState(memory(state.momentum_buffer))
    check_sgdm(gc.sgdm_update, memory(w), memory(grad), state, axis=(1, 2), weight_decay=0.1, nesterov=True)


@pytest.mark.parametrize("dtype", COMPLEX, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=name)
def test_complex_is_updated_as_complex(options, dtype):
    """The options are real, so that the rule acts on real and imaginary parts alike."""
    w, grad, state = example((2, 3, 2), dtype)
    options = {"lr": 0.1, "axis": (1, 2), **options}
    new_w, new_state = gc.sgdm_update(w, grad, state, **options)
    assert new_w.dtype == new_state.momentum_buffer.dtype == dtype
    for part in ("real", "imag"):
        a, b, c = (getattr(x, part) for x in (w, grad, state.momentum_buffer))
        weights, buffer = restatement.sgdm(a, b, c, **options)
        restatement.assert_near(getattr(new_w, part), weights, a, f"w.{part}")
        restatement.assert_near(getattr(new_state.momentum_buffer, part), buffer, a, f"momentum_buffer.{part}")


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8"])
def test_big_endian(dtype):
    native = example((3, 4), dtype[1:])
    w, grad, buffer = (x.astype(dtype) for x in (native[0], native[1], native[2].momentum_buffer))
    new_w, new_state = gc.sgdm_update(w, grad, gc.SGDMState(buffer), lr=0.1, axis=1)
    wanted, wanted_state = gc.sgdm_update(*native, lr=0.1, axis=1)
    assert new_w.dtype.str == new_state.momentum_buffer.dtype.str == dtype
    assert np.array_equal(new_w, wanted)
    assert np.array_equal(new_state.momentum_buffer, wanted_state.momentum_buffer)


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize("place", ["gradient", "update"])
@pytest.mark.parametrize(("shape", "axis"), EMPTY)
def test_empty_comes_back_empty(shape, axis, place, dtype):
    w = np.zeros(shape, dtype)
    new_w, state = gc.sgdm_update(w, w, gc.sgdm_init(w), lr=0.1, axis=axis, weight_decay=0.1, gc_on=place)
    assert new_w.shape == state.momentum_buffer.shape == shape
    assert new_w.dtype == state.momentum_buffer.dtype == dtype


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
def test_init_is_zeros_like_w(dtype):
    w = random((2, 3), dtype)
    buffer = gc.sgdm_init(w).momentum_buffer
    assert buffer.shape == w.shape and buffer.dtype == dtype and not buffer.any()


def test_options_of_any_scalar_type_leave_the_dtype_alone():
    w, grad, state = example((2, 3), np.float32)
    plain = gc.sgdm_update(w, grad, state, lr=0.5, axis=1, momentum=0.5)
    for one in (np.float64(0.5), np.float32(0.5), np.array(0.5), np.longdouble(0.5)):
        new_w, new_state = gc.sgdm_update(w, grad, state, lr=one, axis=1, momentum=one)
        assert frozen(new_w, new_state.momentum_buffer) == frozen(plain[0], plain[1].momentum_buffer)


@pytest.mark.parametrize("place", ["gradient", "update"])
@pytest.mark.parametrize("where", ["w", "grad", "momentum_buffer"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_what_is_not_finite_spoils_its_own_weight_vector(dtype, bad, where, place):
    w, grad, state = example((3, 4), dtype)
    options = {"lr": 0.1, "axis": 1, "weight_decay": 0.1, "gc_on": place}
    clean, clean_state = gc.sgdm_update(w, grad, state, **options)
    {"w": w, "grad": grad, "momentum_buffer": state.momentum_buffer}[where][1, 2] = bad
    new_w, new_state = gc.sgdm_update(w, grad, state, **options)
    for row in (0, 2):
        assert np.array_equal(new_w[row], clean[row])
        assert np.array_equal(new_state.momentum_buffer[row], clean_state.momentum_buffer[row])
    assert not np.isfinite(new_w[1, 2])


# ---- The checks above can fail


def decay_outside(w, grad, state, *, axis, weight_decay, **options):
    return gc.sgdm_update(w, gc.centralize(grad, axis) + weight_decay * w, state, axis=None, **options)


def decay_twice(w, grad, state, *, weight_decay, **options):
    return gc.sgdm_update(w, grad, state, weight_decay=2 * weight_decay, **options)


def paper_form(w, grad, state, *, momentum, **options):
    return gc.sgdm_update(w, grad, state, **{**options, "momentum": momentum, "dampening": momentum})


def torch_first_step(w, grad, state, **options):
    """PyTorch's buffer begins with the gradient itself, whatever the state says."""
    return gc.sgdm_update(w, grad, gc.sgdm_init(w), **options)


def lr_inside_momentum(w, grad, state, *, lr, **options):
    new, moved = gc.sgdm_update(w, lr * grad, state, lr=1.0, **options)
    return new, moved


def with_changed(**changes):
    return lambda w, grad, state, **options: gc.sgdm_update(w, grad, state, **{**options, **changes})


def in_place(w, grad, state, **options):
    new_w, new_state = gc.sgdm_update(w, grad, state, **options)
    w[...] = new_w
    return w, new_state


WRONG = {
    "no GC": with_changed(axis=None),
    "the wrong axis": with_changed(axis=0),
    "one axis of two": with_changed(axis=1),
    "all axes": with_changed(axis=(0, 1, 2)),
    "decay outside the projection": decay_outside,
    "decay forgotten": with_changed(weight_decay=0.0),
    "decay twice": decay_twice,
    "decay decoupled": with_changed(decoupled=True),
    "GC on the update": with_changed(gc_on="update"),
    "nesterov forgotten": with_changed(nesterov=False),
    "dampened": paper_form,
    "momentum forgotten": torch_first_step,
    "lr inside the momentum": lr_inside_momentum,
    "in place": in_place,
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_port_is_found(wrong):
    options = {"axis": (1, 2), "momentum": 0.9, "weight_decay": 0.1, "nesterov": wrong is not paper_form}
    check_sgdm(gc.sgdm_update, *example((2, 3, 2)), **options)
    with pytest.raises(AssertionError):
        check_sgdm(wrong, *example((2, 3, 2)), **options)


@pytest.mark.parametrize("dtype", REAL[:2], ids=str)
def test_an_update_computed_in_half_precision_is_found(dtype):
    def in_half(w, grad, state, *, lr, axis, momentum=0.9):
        g = gc.centralize(grad, axis)
        m = (momentum * state.momentum_buffer.astype(np.float32)).astype(dtype) + g
        return w - (lr * m.astype(np.float32)).astype(dtype), gc.SGDMState(m)

    with pytest.raises(AssertionError, match="expected"):
        check_sgdm(in_half, *example((4, 8), dtype), axis=1)

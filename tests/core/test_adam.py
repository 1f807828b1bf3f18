"""adam_update against the restatement of the contract's rule, for every option."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

import gc_core as gc
from gc_core.adam import bias_correction

from . import restatement
from .cases import COMPLEX, EMPTY, MEMORY, REAL, SHAPES_AND_AXES, frozen, random

DECAYS = [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled": True}]
PLACES = [{"gc_on": "gradient"}, {"gc_on": "update"}]
REST = [{}, {"amsgrad": True}, {"betas": (0.0, 0.99), "eps": 1e-3}, {"betas": (0.5, 0.0), "eps": 0.01, "amsgrad": True}]
OPTIONS = [{**a, **b, **c} for a, b, c in itertools.product(REST, DECAYS, PLACES)]
BUFFERS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def name(options):
    return " ".join(f"{key}={value}" for key, value in options.items()) or "defaults"


def example(shape, dtype=np.float64, *, step=3, amsgrad=False):
    """A weight, a gradient, and a state from the middle of a run; half of the running maxima are the larger."""
    w, grad = random(shape, dtype, 1, loc=1.0), random(shape, dtype, 2)
    v = abs(random(shape, dtype, 4)) + np.asarray(0.1, dtype)
    largest = np.asarray(v * np.where(random(shape, seed=5) > 0.5, 0.5, 2.0).astype(dtype), dtype)
    return w, grad, gc.AdamState(step, random(shape, dtype, 3), np.asarray(v, dtype), largest if amsgrad else None)


def arrays_of(state):
    return [getattr(state, buffer) for buffer in BUFFERS if getattr(state, buffer) is not None]


def check_adam(update, w, grad, state, *, steps=1, **options):
    """Each step of a port against the restatement, from that port's own last state; its arguments stay."""
    for _ in range(steps):
        before, count = frozen(w, grad, *arrays_of(state)), state.step
        new_w, new_state = update(w, grad, state, **options)
        assert type(new_state) is gc.AdamState and type(new_state.step) is int and new_state.step == count + 1
        weights, *buffers = restatement.adam(w, grad, state, **options)
        restatement.assert_near(new_w, weights, w, "w")
        for buffer, expected in zip(BUFFERS, buffers, strict=True):
            if expected is not None:
                restatement.assert_near(getattr(new_state, buffer), expected, w, buffer)
        assert frozen(w, grad, *arrays_of(state)) == before and state.step == count
        new = [new_w, *arrays_of(new_state)]
        assert not any(np.shares_memory(a, b) for a in new for b in (w, grad, *arrays_of(state)))
        assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(new, 2))
        w, state = new_w, new_state


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("axis", [(1, 2), None])
@pytest.mark.parametrize("options", OPTIONS, ids=name)
def test_every_option(options, axis, dtype):
    example_of = example((2, 3, 2), dtype, amsgrad=options.get("amsgrad", False))
    check_adam(gc.adam_update, *example_of, steps=2, lr=0.1, axis=axis, **options)


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=name)
def test_from_the_first_step(options, dtype):
    w, grad, _ = example((2, 3), dtype)
    state = gc.adam_init(w, amsgrad=options.get("amsgrad", False))
    check_adam(gc.adam_update, w, grad, state, steps=2, axis=1, **options)


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("place", ["gradient", "update"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES)
def test_every_shape_and_axis(shape, axis, place, dtype):
    check_adam(gc.adam_update, *example(shape, dtype), axis=axis, weight_decay=0.1, gc_on=place)


@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES)
def test_every_option_on_every_shape(shape, axis):
    for i, options in enumerate(OPTIONS):
        memory = MEMORY[(i + i // len(MEMORY)) % len(MEMORY)]  # each option meets several kinds
        w, grad, state = example(shape, amsgrad=options.get("amsgrad", False))
        if shape:  # 0-d arrays have no order in memory
            w, grad = memory(w), memory(grad)
            state = gc.AdamState(state.step, *(None if x is None else memory(x) for x in state[1:]))
        check_adam(gc.adam_update, w, grad, state, axis=axis, **options)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("dtype", REAL[:4], ids=str)
def test_every_kind_of_memory(memory, dtype):
    w, grad, state = example((3, 4, 2), dtype, amsgrad=True)
    state = gc.AdamState(state.step, *(memory(x) for x in state[1:]))
    check_adam(gc.adam_update, memory(w), memory(grad), state, axis=(1, 2), weight_decay=0.1, amsgrad=True)


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8"])
def test_big_endian(dtype):
    w, grad, state = example((3, 4), dtype[1:])
    wanted, wanted_state = gc.adam_update(w, grad, state, axis=1)
    swapped = gc.AdamState(state.step, state.exp_avg.astype(dtype), state.exp_avg_sq.astype(dtype))
    new_w, new_state = gc.adam_update(w.astype(dtype), grad.astype(dtype), swapped, axis=1)
    assert new_w.dtype.str == new_state.exp_avg.dtype.str == new_state.exp_avg_sq.dtype.str == dtype
    assert np.array_equal(new_w, wanted) and np.array_equal(new_state.exp_avg_sq, wanted_state.exp_avg_sq)


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("place", ["gradient", "update"])
@pytest.mark.parametrize(("shape", "axis"), EMPTY)
def test_empty_comes_back_empty(shape, axis, place, dtype):
    w = np.zeros(shape, dtype)
    new_w, state = gc.adam_update(w, w, gc.adam_init(w, amsgrad=True), axis=axis, amsgrad=True, gc_on=place)
    for array in (new_w, *arrays_of(state)):
        assert array.shape == shape and array.dtype == dtype


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_init_is_zeros_like_w(dtype):
    w = random((2, 3), dtype)
    assert gc.adam_init(w).max_exp_avg_sq is None
    state = gc.adam_init(w, amsgrad=True)
    assert state.step == 0
    for buffer in arrays_of(state):
        assert buffer.shape == w.shape and buffer.dtype == dtype and not buffer.any()
    assert not np.shares_memory(state.exp_avg_sq, state.max_exp_avg_sq)


@pytest.mark.parametrize("dtype", COMPLEX, ids=str)
def test_complex_is_refused(dtype):
    w = random((2, 3), dtype)
    with pytest.raises(TypeError, match="w is complex"):
        gc.adam_init(w)
    with pytest.raises(TypeError, match="w is complex"):
        gc.adam_update(w, w, gc.AdamState(0, w, w), axis=1)


def test_a_running_maximum_outlives_updates_without_amsgrad():
    w, grad, state = example((2, 3), amsgrad=True)
    _, new = gc.adam_update(w, grad, state, axis=1)
    assert np.array_equal(new.max_exp_avg_sq, state.max_exp_avg_sq)
    assert not np.shares_memory(new.max_exp_avg_sq, state.max_exp_avg_sq)


@pytest.mark.parametrize("beta", [0.0, 1e-300, 0.5, 0.9, 0.999, 0.999999, math.nextafter(1.0, 0.0)])
@pytest.mark.parametrize("step", [1, 2, 10, 1000])
def test_bias_correction(beta, step):
    exact = restatement.bias_correction(beta, step, restatement.DOUBLE)
    assert abs(Fraction(bias_correction(beta, step)) - exact.value) <= exact.error


def test_bias_correction_in_float32_is_found():
    """1 − β2 in float32 is off by 1e-5 of itself, which the bounds on w show."""

    def naive(w, grad, state, *, lr, **options):
        _, new = gc.adam_update(w, grad, state, lr=lr, **options)
        one = np.float32(1)
        d = (new.exp_avg / (one - np.float32(0.9))) / (np.sqrt(new.exp_avg_sq) / np.sqrt(one - np.float32(0.999)))
        return (w - lr * d).astype(np.float32), new

    w, grad, _ = example((2, 3), np.float32)
    with pytest.raises(AssertionError, match=r"w\[0\]"):
        check_adam(naive, w, grad, gc.adam_init(w), lr=0.1, axis=None)


@pytest.mark.parametrize("place", ["gradient", "update"])
@pytest.mark.parametrize("where", ["w", "grad", *BUFFERS])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_what_is_not_finite_spoils_its_own_weight_vector(dtype, bad, where, place):
    w, grad, state = example((3, 4), dtype, amsgrad=True)
    options = {"lr": 0.1, "axis": 1, "weight_decay": 0.1, "gc_on": place, "amsgrad": True}
    clean, clean_state = gc.adam_update(w, grad, state, **options)
    {"w": w, "grad": grad, **state._asdict()}[where][1, 2] = bad
    new_w, new_state = gc.adam_update(w, grad, state, **options)
    for row in (0, 2):
        for new, old in zip([new_w, *new_state[1:]], [clean, *clean_state[1:]], strict=True):
            assert np.array_equal(new[row], old[row])


def test_a_gradient_of_zero_without_eps_is_no_number_and_no_warning():
    w = np.ones((2, 3))
    assert np.isnan(gc.adam_update(w, 0 * w, gc.adam_init(w), axis=1, eps=0.0)[0]).all()


# ---- The checks above can fail


def with_changed(**changes):
    return lambda w, grad, state, **options: gc.adam_update(w, grad, state, **{**options, **changes})


def decay_outside(w, grad, state, *, axis, weight_decay, **options):
    return gc.adam_update(w, gc.centralize(grad, axis) + weight_decay * w, state, axis=None, **options)


def moments(w, grad, state, *, axis, betas=(0.9, 0.999), weight_decay=0.0, **_):
    g = gc.centralize(grad + weight_decay * w, axis)
    m = betas[0] * state.exp_avg + (1 - betas[0]) * g
    return m, betas[1] * state.exp_avg_sq + (1 - betas[1]) * g * g


def eps_inside_the_root(w, grad, state, **options):
    m, v = moments(w, grad, state, **options)
    t = state.step + 1
    d = m / (1 - 0.9**t) / np.sqrt(v / (1 - 0.999**t) + 1e-8)
    return w - options["lr"] * d, gc.AdamState(t, m, v)


def eps_before_the_correction(w, grad, state, **options):
    m, v = moments(w, grad, state, **options)
    t = state.step + 1
    d = m / (1 - 0.9**t) * np.sqrt(1 - 0.999**t) / (np.sqrt(v) + 1e-8)
    return w - options["lr"] * d, gc.AdamState(t, m, v)


def no_bias_correction(w, grad, state, **options):
    m, v = moments(w, grad, state, **options)
    return w - options["lr"] * m / (np.sqrt(v) + 1e-8), gc.AdamState(state.step + 1, m, v)


def step_not_counted(w, grad, state, **options):
    new_w, new_state = gc.adam_update(w, grad, state._replace(step=0), **options)
    return new_w, new_state._replace(step=state.step + 1)


def second_moment_of_the_raw_gradient(w, grad, state, *, axis, **options):
    _, raw = gc.adam_update(w, grad, state, axis=None, **options)
    new_w, new = gc.adam_update(w, grad, state, axis=axis, **options)
    return new_w, new._replace(exp_avg_sq=raw.exp_avg_sq)


def moments_centralized(w, grad, state, *, axis, **options):
    new_w, new = gc.adam_update(w, grad, state, axis=axis, **options)
    return new_w, new._replace(exp_avg=gc.centralize(new.exp_avg, axis))


WRONG = {
    "no GC": with_changed(axis=None),
    "the wrong axis": with_changed(axis=0),
    "one axis of two": with_changed(axis=2),
    "decay outside the projection": decay_outside,
    "decay forgotten": with_changed(weight_decay=0.0),
    "decay decoupled": with_changed(decoupled=True),
    "GC on the update": with_changed(gc_on="update"),
    "betas swapped": with_changed(betas=(0.999, 0.9)),
    "another eps": with_changed(eps=1e-7),
    "eps inside the root": eps_inside_the_root,
    "eps before the correction": eps_before_the_correction,
    "no bias correction": no_bias_correction,
    "step not counted": step_not_counted,
    "second moment of the raw gradient": second_moment_of_the_raw_gradient,
    "moments centralized": moments_centralized,
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_port_is_found(wrong):
    options = {"lr": 0.1, "axis": (1, 2), "weight_decay": 0.1}
    check_adam(gc.adam_update, *example((2, 3, 2)), **options)
    with pytest.raises(AssertionError):
        check_adam(wrong, *example((2, 3, 2)), **options)


@pytest.mark.parametrize("wrong", [with_changed(gc_on="gradient"), with_changed(decoupled=False)])
def test_a_wrong_place_or_decay_is_found(wrong):
    options = {"lr": 0.1, "axis": (1, 2), "weight_decay": 0.1, "decoupled": True, "gc_on": "update"}
    check_adam(gc.adam_update, *example((2, 3, 2)), **options)
    with pytest.raises(AssertionError):
        check_adam(wrong, *example((2, 3, 2)), **options)


def test_amsgrad_with_the_last_v_is_found():
    def forgets(w, grad, state, **options):
        new_w, new = gc.adam_update(w, grad, state, **{**options, "amsgrad": False})
        return new_w, new._replace(max_exp_avg_sq=np.maximum(state.max_exp_avg_sq, new.exp_avg_sq))

    with pytest.raises(AssertionError, match=r"w\["):
        check_adam(forgets, *example((2, 3, 2), amsgrad=True), lr=0.1, axis=(1, 2), amsgrad=True)

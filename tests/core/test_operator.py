"""centralize and projection_matrix against the restatement of equation 1."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gc_core as gc

from . import restatement
from .cases import COMPLEX, EMPTY, HALF, MEMORY, REAL, SHAPES_AND_AXES, frozen, random


def check_centralize(centralize, grad, axis):
    """A port against the restatement, and that it leaves its argument alone."""
    before = frozen(grad)
    result = centralize(grad, axis)
    restatement.assert_near(result, restatement.centralize(grad, axis), grad)
    assert frozen(grad) == before
    assert not np.shares_memory(result, grad) and result.flags.writeable


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES)
def test_every_shape_and_axis(shape, axis, dtype):
    check_centralize(gc.centralize, random(shape, dtype), axis)


@pytest.mark.parametrize("dtype", COMPLEX, ids=str)
@pytest.mark.parametrize(("shape", "axis"), SHAPES_AND_AXES)
def test_complex_is_centralized_as_complex(shape, axis, dtype):
    grad = random(shape, dtype)
    result = gc.centralize(grad, axis)
    assert result.dtype == dtype
    for part in ("real", "imag"):
        given = getattr(grad, part)
        restatement.assert_near(getattr(result, part), restatement.centralize(given, axis), given, part)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, *HALF[1:]])
@pytest.mark.parametrize(("shape", "axis"), [((3, 4), 1), ((3, 4), 0), ((4, 3, 2, 2), (1, 2, 3)), ((6,), 0)])
def test_every_kind_of_memory(shape, axis, dtype, memory):
    grad = memory(random(shape, dtype))
    check_centralize(gc.centralize, grad, axis)


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8", ">c16"])
def test_big_endian_comes_back_big_endian(dtype):
    grad = random((3, 4), dtype[1:]).astype(dtype)
    result = gc.centralize(grad, 1)
    assert result.dtype.str == dtype
    assert np.array_equal(result, gc.centralize(grad.astype(dtype[1:]), 1))


def test_broadcast_gradient():
    check_centralize(gc.centralize, np.broadcast_to(random((4,)), (3, 4)), 1)


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize(("shape", "axis"), EMPTY)
def test_empty_comes_back_empty(shape, axis, dtype):
    result = gc.centralize(np.zeros(shape, dtype), axis)
    assert result.shape == shape and result.dtype == dtype


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
def test_axis_none_is_a_copy(dtype):
    grad = random((3, 4), dtype)
    result = gc.centralize(grad, None)
    assert frozen(result) == frozen(grad) and not np.shares_memory(result, grad)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_fan_in_of_many_thousands(dtype, axis):
    """The fractions' bound grows with the fan-in; `math.fsum` gives the mean, rounded once."""
    shape = (50_000, 2) if axis == 0 else (2, 50_000)
    grad = random(shape, dtype, loc=10.0)
    result = gc.centralize(grad, axis)
    count, format = 50_000, restatement.working(dtype)
    stored = restatement.FORMATS[np.dtype(dtype).name]
    for g, got in zip(np.moveaxis(grad, axis, -1), np.moveaxis(result, axis, -1), strict=True):
        values = [float(x) for x in g]
        mean = math.fsum(values) / count
        sizes = math.fsum(map(abs, values)) / count
        for x, y in zip(values[::997], got[::997], strict=True):
            bound = (count + 4) * format.unit * (abs(x) + sizes)
            low, high = (float(stored.round(Fraction(x - mean + sign * bound))) for sign in (-1, 1))
            assert low <= float(y) <= high


axes_of_a_shape = st.lists(st.integers(1, 3), min_size=1, max_size=5).flatmap(
    lambda shape: st.tuples(
        st.just(tuple(shape)),
        st.sets(st.integers(0, len(shape) - 1), min_size=1).flatmap(
            lambda axes: st.permutations([a - len(shape) if a % 2 else a for a in axes])
        ),
    )
)


@given(axes_of_a_shape, st.sampled_from(REAL[:4]), st.data())
def test_any_numbers(shape_and_axes, dtype, data):
    shape, axes = shape_and_axes
    size = math.prod(shape)
    # Magnitudes whose sums and differences stay finite in every dtype.
    numbers = st.floats(-1e3, 1e3, width=16 if dtype.itemsize == 2 else 32)
    grad = np.array(data.draw(st.lists(numbers, min_size=size, max_size=size))).reshape(shape).astype(dtype)
    check_centralize(gc.centralize, grad, tuple(axes))


# ---- Half precision: computed in float32, rounded once


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_where_the_mean_is_far_larger_than_the_spread(dtype):
    grad = random((4, 256), dtype, loc=100.0, scale=2.0)
    check_centralize(gc.centralize, grad, 1)

    def mean_in_the_gradients_own_dtype(grad, axis):
        mean = grad.astype(np.float32).mean(axis, keepdims=True).astype(dtype)
        return grad - mean

    with pytest.raises(AssertionError, match="expected"):
        check_centralize(mean_in_the_gradients_own_dtype, grad, 1)


def test_half_precision_sums_do_not_overflow():
    grad = np.full((2, 100), 60000, np.float16)
    grad[1, ::2] = -60000
    result = gc.centralize(grad, 1)
    assert not result[0].any()
    assert np.array_equal(result[1], grad[1])


# ---- What is not finite


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("shape", "axis"), [((3, 4), 1), ((3, 4), 0), ((3, 2, 2, 2), (1, 2, 3)), ((2, 3, 4), (0, 2))])
def test_what_is_not_finite_spoils_its_own_weight_vector(shape, axis, bad, dtype):
    grad = random(shape, dtype)
    clean = gc.centralize(grad, axis)
    position = math.prod(shape) // 2
    grad.flat[position] = bad
    result = gc.centralize(grad, axis).flatten()  # warnings are errors here
    for vector in restatement.weight_vectors(shape, axis):
        own = position in vector
        for i in vector:
            if not own:
                assert result[i] == clean.flat[i]
            elif np.isnan(bad) or i == position:  # ∞ − ∞ is no number
                assert np.isnan(result[i])
            else:
                assert result[i] == -bad


def test_opposite_infinities_give_nan_without_a_warning():
    assert np.isnan(gc.centralize(np.array([[np.inf, -np.inf, 1.0]]), 1)).all()


def test_a_result_beyond_the_dtype_is_infinite_without_a_warning():
    grad = np.array([[65504, -65504, -65504]], np.float16)
    assert np.array_equal(gc.centralize(grad, 1)[0, 0], np.float16(np.inf))


# ---- The matrix form


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64])
def test_projection_matrix_element_by_element(n):
    p = gc.projection_matrix(n)
    assert p.shape == (n, n) and p.dtype == np.float64
    for i, j in itertools.product(range(n), repeat=2):
        exact = Fraction(int(i == j)) - Fraction(1, n)
        assert abs(Fraction(float(p[i, j])) - exact) <= 2 * Fraction(2) ** -53


def test_conversions_are_identities():
    a = np.ones(2)
    assert gc.from_numpy(a) is a and gc.to_numpy(a) is a


# ---- The checks above can fail

WRONG = {
    "nothing is subtracted": lambda g, axis: g.copy(),
    "the mean of the whole tensor": lambda g, axis: g - g.mean(),
    "the mean over the output axis": lambda g, axis: g - g.mean(0, keepdims=True),
    "the mean over all but the last axis": lambda g, axis: g - g.mean(tuple(range(g.ndim - 1)), keepdims=True),
    "the deviation is divided out": lambda g, axis: (g - g.mean(axis, keepdims=True)) / g.std(axis, keepdims=True),
    "the sum for the mean": lambda g, axis: g - g.sum(axis, keepdims=True),
    "the mean is added": lambda g, axis: g + g.mean(axis, keepdims=True),
    "a mean of M − 1": lambda g, axis: g - g.sum(axis, keepdims=True) / (g[0].size - 1),
    "kernel axes only": lambda g, axis: g - g.mean((2, 3), keepdims=True),
    "computed in float32": lambda g, axis: gc.centralize(g.astype(np.float32), axis).astype(g.dtype),
    "another dtype": lambda g, axis: gc.centralize(g, axis).astype(np.float32),
    "another shape": lambda g, axis: gc.centralize(g, axis)[None],
    "the argument is changed": lambda g, axis: np.subtract(g, g.mean(axis, keepdims=True), out=g),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_port_is_found(wrong):
    with pytest.raises(AssertionError):
        check_centralize(wrong, random((4, 3, 2, 2)), (1, 2, 3))


def test_the_restatement_rounds_as_the_hardware_does():
    values = np.concatenate([random((500,), scale=s) for s in (1e-8, 1e-6, 1.0, 1e3)])
    for dtype in ("float16", "float32", "bfloat16"):
        rounded = values.astype(np.dtype(dtype) if dtype != "bfloat16" else HALF[1])
        for x, y in zip(values, rounded, strict=True):
            assert restatement.FORMATS[dtype].round(Fraction(float(x))) == Fraction(float(y))

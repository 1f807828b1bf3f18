"""What rounding to 16 bits cuts off: kept, or decided by chance; held against exact fractions."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gc_core
from gc_core import low_precision as low

DTYPES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
DIGITS = {"float16": 11, "bfloat16": 8}
SMALLEST = {"float16": Fraction(2) ** -24, "bfloat16": Fraction(2) ** -133}  # the distance between subnormal numbers
singles = st.floats(width=32, min_value=-60000, max_value=60000)


def unit_of(value, dtype):
    """The distance between the neighbours of a number, exactly."""
    size, unit = abs(Fraction(float(value))), SMALLEST[dtype.name]
    while size >= unit * 2 ** DIGITS[dtype.name]:
        unit *= 2
    return unit


@given(value=singles, dtype=st.sampled_from(DTYPES))
@settings(max_examples=60)
def test_two_numbers_hold_what_one_loses(value, dtype):
    w, c = low.split(np.float32(value), dtype)
    u = Fraction(2) ** -DIGITS[dtype.name]
    assert w == np.float32(value).astype(dtype)
    left = abs(Fraction(float(np.float32(value))) - Fraction(float(w)) - Fraction(float(c)))
    assert left <= u * u * abs(Fraction(value)) + SMALLEST[dtype.name] / 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_finite_stays_so(dtype):
    wide = np.array([np.nan, np.inf, -np.inf, 3.4e38], np.float32)
    w, c = low.split(wide, dtype)
    assert np.isnan(w[0]) and w[1] == np.inf and w[2] == -np.inf and (c[:3] == 0).all()
    assert np.array_equal(low.joined(w, c)[:3], wide[:3], equal_nan=True)
    up = low.rounded_stochastically(wide, dtype, np.full(4, 0xFFFF, np.uint32))
    assert np.isnan(up[0]) and up[1] == np.inf and up[2] == -np.inf


@given(value=singles, dtype=st.sampled_from(DTYPES))
@settings(max_examples=30)
def test_all_random_bits_together_are_the_exact_fraction(value, dtype):
    """Over all 2^16 of them: every result is a neighbour, and their number upwards is the fraction that is cut off."""
    wide = np.float32(value)
    every = np.arange(1 << 16, dtype=np.uint32)
    got = low.rounded_stochastically(np.full(1 << 16, wide), dtype, every).astype(np.float64)
    exact, unit = abs(Fraction(float(wide))), unit_of(wide, dtype)
    below = exact // unit * unit
    up = abs(got) != float(below)
    assert (abs(got)[up] == float(below + unit)).all() and (np.sign(got) * np.sign(wide) >= 0).all()
    # A subnormal float16 has more digits than random bits can tell apart.
    cut_off = 1 << (24 - DIGITS[dtype.name])
    assert abs(Fraction(int(up.sum()), 1 << 16) - (exact - below) / unit) <= Fraction(1, cut_off)
    if below >= unit * 2 ** (DIGITS[dtype.name] - 1):
        assert Fraction(int(up.sum()), 1 << 16) == (exact - below) / unit


def test_random_bits_hang_on_stream_step_and_place():
    places = np.arange(4096)
    one = low.random_bits(low.stream(3, 0, 1), 1, places)
    assert np.array_equal(one[100:200], low.random_bits(low.stream(3, 0, 1), 1, places[100:200]))
    assert one.dtype == np.uint32 and one.max() < 1 << 16
    for other in (
        (low.stream(4, 0, 1), 1),
        (low.stream(3, 1, 1), 1),
        (low.stream(3, 0, 2), 1),
        (low.stream(3, 0, 1), 2),
    ):
        again = low.random_bits(*other, places)
        # Of 16 bits that are independent half are equal: by Hoeffding all but within 0.03 of it, but for 1e-12 or less.
        same = np.unpackbits((one ^ again).astype(np.uint16).view(np.uint8)).mean()
        assert abs(same - 0.5) < 0.03
    for bit in range(16):
        assert abs((one >> bit & 1).mean() - 0.5) < 0.06


@pytest.mark.parametrize("way", ["kahan", "stochastic"])
@pytest.mark.parametrize("make", [gc_core.SGD, gc_core.AdamW])
def test_a_run_goes_on_from_its_state_as_if_it_had_not_stopped(make, way):
    rng = np.random.default_rng(0)
    start = {"w": rng.normal(size=(3, 8)).astype(np.float16), "b": np.ones(3, np.float32)}
    grads = [{name: rng.normal(size=w.shape).astype(w.dtype) for name, w in start.items()} for _ in range(6)]
    axes, options = {"w": 1, "b": None}, {"lr": 1e-3, "low_precision": way, "seed": 5}
    whole = make(dict(start), axes, **options)
    for g in grads:
        whole.step(g)
    first = make(dict(start), axes, **options)
    for g in grads[:3]:
        first.step(g)
    second = make(dict(first.params), axes, lr=1.0)  # the options are loaded
    second.load_state_dict(first.state_dict())
    for g in grads[3:]:
        second.step(g)
    assert all(np.array_equal(second.params[name], w) for name, w in whole.params.items())
    assert set(whole.kept) == {"w"}  # float32 needs nothing
    assert f"low_precision={way!r}, seed=5" in repr(second)


def test_a_state_without_the_option_leaves_it_as_it_is():
    w = {"w": np.ones((1, 2), np.float16)}
    plain, kahan = gc_core.SGD(dict(w), {"w": 1}, lr=0.1), gc_core.SGD(dict(w), {"w": 1}, lr=0.1, low_precision="kahan")
    kahan.load_state_dict(plain.state_dict())
    assert kahan.low_precision == "kahan" and kahan.kept == {}


@pytest.mark.parametrize(
    ("option", "value", "error", "said"),
    [
        ("low_precision", "Kahan", ValueError, "low_precision must be one of 'kahan', 'stochastic', or None"),
        ("low_precision", True, TypeError, "got True"),
        ("seed", 0.5, TypeError, "seed must be an int from 0 to 2**64 - 1; got 0.5"),
        ("seed", -1, ValueError, "got -1"),
    ],
)
def test_what_is_refused(option, value, error, said):
    with pytest.raises(error) as raised:
        gc_core.SGD({"w": np.ones(2, np.float16)}, {"w": None}, lr=0.1, **{option: value})
    assert said in str(raised.value)

"""100,000 steps of GC-SGDM in float32: how far rounding carries the means of the weight vectors, and how it grows."""

import numpy as np
import pytest

import gc_core as gct

ROWS, FAN_IN, LR, MOMENTUM = 64, 16, 0.01, 0.9
U = 2.0**-24  # unit roundoff of float32


def run(steps, marks, axis=1):
    """Train towards a target through noisy gradients; (drift of each mean, largest |w|, |m|, |grad| so far) by step."""
    random = np.random.default_rng(0)
    w = random.standard_normal((ROWS, FAN_IN), dtype=np.float32)
    target = random.standard_normal((ROWS, FAN_IN), dtype=np.float32)
    state, start = gct.sgdm_init(w), w.mean(1, dtype=np.float64)
    top_w = top_m = top_grad = 0.0
    found = {}
    for step in range(1, steps + 1):
        grad = w - target + random.random((ROWS, FAN_IN), dtype=np.float32)  # its mean is far from zero
        w, state = gct.sgdm_update(w, grad, state, lr=LR, momentum=MOMENTUM, axis=axis)
        top_w = max(top_w, np.abs(w).max())
        top_m, top_grad = max(top_m, np.abs(state.momentum_buffer).max()), max(top_grad, np.abs(grad).max())
        if step in marks:
            found[step] = w.mean(1, dtype=np.float64) - start, (float(top_w), float(top_m), float(top_grad))
    return found


def bound(steps, w, m, grad):
    """No rounding whatever can move a mean further.

    A mean of Φ(grad) is off by the sum's M roundings and one in each difference, that of m by three roundings more,
    which momentum lets add up 1/(1 − μ) times; then η m and w − η m are each rounded once.
    """
    mean_of_g = (FAN_IN + 2) * U * 2 * grad
    mean_of_m = (mean_of_g + 3 * U * m) / (1 - MOMENTUM)
    return steps * (LR * mean_of_m + U * (LR * m + w)) * (1 + 1e-3)  # and what is of second order in U


@pytest.fixture(scope="module")
def drifts():
    return run(100_000, (1_000, 10_000, 100_000))


def test_the_drift_is_within_its_bound(drifts):
    for steps, (drift, tops) in drifts.items():
        assert 0 < np.abs(drift).max() <= bound(steps, *tops)


def test_the_drift_grows_as_the_square_root_of_the_steps(drifts):
    """Rounding is as often up as down, so that the means walk at random: 100 times the steps, 10 times the drift.

    The ratio of two such estimates, each of 64 independent walks, has a relative deviation of 1/√64 = 1/8. The test
    allows for five of them, a factor of e^(5/8). Growth in proportion to the steps (100) lies outside, no growth too.
    """
    rms = {steps: np.sqrt(np.square(drift).mean()) for steps, (drift, _) in drifts.items()}
    for fewer, more in ((1_000, 100_000), (10_000, 100_000)):
        walk = np.sqrt(more / fewer)
        assert walk * np.exp(-5 / 8) < rms[more] / rms[fewer] < walk * np.exp(5 / 8)


def test_without_gc_the_means_move():
    (drift, tops) = run(1_000, (1_000,), axis=None)[1_000]
    assert np.abs(drift).max() > 10 * bound(1_000, *tops)
    (drift, tops) = run(1_000, (1_000,), axis=0)[1_000]  # the wrong axis
    assert np.abs(drift).max() > 10 * bound(1_000, *tops)

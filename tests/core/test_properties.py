"""What the contract says of whole runs: which means are conserved, which trajectories coincide, what plain rules are.

Where the rule has no root or quotient, the numbers are chosen so that float64 computes it exactly (few bits, a fan-in
that is a power of two, options that are binary fractions): then the statements hold to the last bit, and need no bound.
"""

import itertools
from fractions import Fraction

import numpy as np
import pytest

import gc_core as gc

from . import restatement
from .cases import random

torch = pytest.importorskip("torch")

STEPS = 5
# Exact in float64, as are all products and sums below: (3, 4) and (2, 2, 4), with fan-ins of 4 and 8.
EXACT = [((3, 4), 1), ((4, 3), 0), ((3, 2, 2, 2), (1, 2, 3)), ((2, 2, 4, 2), (0, 2))]
MOMENTA = [
    {"momentum": 0.0},
    {"momentum": 0.5},
    {"momentum": 0.5, "nesterov": True},
    {"momentum": 0.5, "dampening": 0.5},
]


def whole(shape, seed):
    """Small whole numbers, with means that are not zero."""
    return np.random.default_rng((seed, *shape)).integers(-4, 9, shape).astype(float)


def quadratic(shape):
    """The gradient of a loss that pulls every weight elsewhere, and so moves the means."""
    pull, target = whole(shape, 1), whole(shape, 2)
    return lambda w: pull * w - target


def run_sgdm(shape, axis, update=gc.sgdm_update, **options):
    w, gradient = whole(shape, 0), quadratic(shape)
    state, path = gc.sgdm_init(w), [w]
    for _ in range(STEPS):
        w, state = update(w, gradient(w), state, lr=0.5, axis=axis, **options)
        path.append(w)
    return path


def means(w, axis):
    """The exact mean of each weight vector."""
    flat = [Fraction(x) for x in w.flatten().tolist()]
    return [sum(flat[i] for i in vector) / len(vector) for vector in restatement.weight_vectors(w.shape, axis)]


@pytest.mark.parametrize("place", ["gradient", "update"])
@pytest.mark.parametrize("decay", [0.0, 0.25])
@pytest.mark.parametrize("momenta", MOMENTA, ids=str)
@pytest.mark.parametrize(("shape", "axis"), EXACT)
def test_sgdm_conserves_the_means(shape, axis, momenta, decay, place):
    path = run_sgdm(shape, axis, weight_decay=decay, gc_on=place, **momenta)
    assert not np.array_equal(path[0], path[-1])
    for w in path:
        assert means(w, axis) == means(path[0], axis)


@pytest.mark.parametrize("momenta", MOMENTA, ids=str)
@pytest.mark.parametrize(("shape", "axis"), EXACT)
def test_decoupled_decay_shrinks_the_means_and_nothing_else_moves_them(shape, axis, momenta):
    path = run_sgdm(shape, axis, weight_decay=0.25, decoupled=True, **momenta)
    for before, after in itertools.pairwise(path):
        assert means(after, axis) == [(1 - Fraction(1, 2) * Fraction(1, 4)) * mean for mean in means(before, axis)]


@pytest.mark.parametrize("momenta", MOMENTA, ids=str)
@pytest.mark.parametrize(("shape", "axis"), EXACT)
def test_gc_on_the_update_conserves_the_means_under_decoupled_decay_too(shape, axis, momenta):
    path = run_sgdm(shape, axis, weight_decay=0.25, decoupled=True, gc_on="update", **momenta)
    for w in path:
        assert means(w, axis) == means(path[0], axis)


@pytest.mark.parametrize("decay", [0.0, 0.25])
@pytest.mark.parametrize("momenta", MOMENTA, ids=str)
@pytest.mark.parametrize(("shape", "axis"), EXACT)
def test_sgdm_from_a_fresh_state_is_the_same_for_both_places(shape, axis, momenta, decay):
    on_gradient = run_sgdm(shape, axis, weight_decay=decay, gc_on="gradient", **momenta)
    on_update = run_sgdm(shape, axis, weight_decay=decay, gc_on="update", **momenta)
    for a, b in zip(on_gradient, on_update, strict=True):
        assert np.array_equal(a, b)


def test_with_decoupled_decay_the_places_differ():
    options = {"weight_decay": 0.25, "decoupled": True}
    places = [run_sgdm((3, 4), 1, gc_on=place, **options)[-1] for place in ("gradient", "update")]
    assert not np.array_equal(*places)


def test_the_papers_algorithm_1_by_hand():
    w, grad = np.array([[1.0, 2.0]]), np.array([[4.0, 0.0]])  # Φ(g) = 2, −2
    w, state = gc.sgdm_update(w, grad, gc.sgdm_init(w), lr=1.0, axis=1, momentum=0.5, dampening=0.5)
    assert state.momentum_buffer.tolist() == [[1.0, -1.0]] and w.tolist() == [[0.0, 3.0]]
    w, state = gc.sgdm_update(w, grad, state, lr=1.0, axis=1, momentum=0.5, dampening=0.5)
    assert state.momentum_buffer.tolist() == [[1.5, -1.5]] and w.tolist() == [[-1.5, 4.5]]


def adam_drift(place, decoupled, amsgrad):
    """How far the sum of each weight vector has moved, and how far rounding can have moved it.

    In each step, centralizing leaves in a sum of M elements at most M (M + 4)u · 2 max|d|, and w − η d is rounded by at
    most 3u(|w| + η|d|) an element. Of |d|, decay makes λ|w|, and Adam's part is below 8, whatever the gradients are: by
    Cauchy and Schwarz |m| ≤ (1 − β1)/√(1 − β2) · (1 − β1²/β2)^(−½) · √v = 7.3 √v, and √(1 − β2ᵗ) < 1 − β1ᵗ.
    """
    lr, decay = 0.01, 0.1
    w, count, unit = random((3, 8), loc=1.0), 8, 2.0**-53
    state, start = gc.adam_init(w, amsgrad=amsgrad), means(w, 1)
    bound = 0.0
    for t in range(30):
        grad = random((3, 8), seed=t) * w
        largest = abs(w).max()
        step = 8 + decay * largest
        bound += count * unit * (lr * (count + 4) * 2 * step + 3 * (largest + lr * step))
        w, state = gc.adam_update(
            w, grad, state, lr=lr, axis=1, weight_decay=decay, decoupled=decoupled, amsgrad=amsgrad, gc_on=place
        )
    drift = [float(abs(a - b)) * count for a, b in zip(means(w, 1), start, strict=True)]
    return drift, bound


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_conserves_the_means_with_gc_on_the_update_alone(decoupled, amsgrad):
    drift, bound = adam_drift("update", decoupled, amsgrad)
    assert max(drift) <= bound
    drift, bound = adam_drift("gradient", decoupled, amsgrad)
    assert min(drift) > 1e9 * bound


def test_without_gc_the_means_move():
    """So that a test of conserved means would see a port that does nothing."""
    path = run_sgdm((3, 4), None)
    assert all(a != b for a, b in zip(means(path[0], 1), means(path[-1], 1), strict=True))


def decay_outside(w, grad, state, *, axis, weight_decay, **options):
    return gc.sgdm_update(w, gc.centralize(grad, axis) + weight_decay * w, state, axis=None, **options)


def wrong_axis(w, grad, state, *, axis, **options):
    return gc.sgdm_update(w, grad, state, axis=1 - axis, **options)


def whole_tensor(w, grad, state, *, axis, **options):
    return gc.sgdm_update(w, grad, state, axis=(0, 1), **options)


@pytest.mark.parametrize("wrong", [decay_outside, wrong_axis, whole_tensor])
def test_conserved_means_find_a_wrong_port(wrong):
    path = run_sgdm((3, 4), 1, wrong, weight_decay=0.25)
    assert means(path[-1], 1) != means(path[0], 1)


# ---- Without axes every rule is PyTorch's

# Ten steps of some twenty roundings each, on numbers below 10 and with roots and quotients of numbers that are not
# small (gradients of ±0.1 and more): 10 · 20 · 2⁻⁵³ · 10 = 2.3e-13, doubled for the two routes, and doubled once more
# because each step begins where the last one ended.
APART = 1e-12


def beside_torch(make, update, init):
    w = random((3, 4), loc=1.0)
    tensor = torch.tensor(w, requires_grad=True)
    optimizer, state = make([tensor]), init(w)
    gradient = quadratic((3, 4))
    for _ in range(10):
        tensor.grad = torch.from_numpy(gradient(tensor.detach().numpy()))
        optimizer.step()
        w, state = update(w, gradient(w), state)
        assert np.max(abs(tensor.detach().numpy() - w)) < APART


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(
    "momenta", [{"momentum": 0.0}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}], ids=str
)
def test_sgd_is_torchs(momenta, decay):
    options = {"lr": 0.01, "weight_decay": decay, **momenta}
    beside_torch(
        lambda params: torch.optim.SGD(params, foreach=False, **options),
        lambda w, grad, state: gc.sgdm_update(w, grad, state, axis=None, **options),
        gc.sgdm_init,
    )


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_adam_and_adamw_are_torchs(kind, decay, amsgrad):
    options = {"lr": 0.01, "weight_decay": decay, "amsgrad": amsgrad}
    decoupled = kind is torch.optim.AdamW
    beside_torch(
        lambda params: kind(params, foreach=False, **options),
        lambda w, grad, state: gc.adam_update(w, grad, state, axis=None, decoupled=decoupled, **options),
        lambda w: gc.adam_init(w, amsgrad=amsgrad),
    )


def test_torch_finds_a_wrong_rule():
    with pytest.raises(AssertionError):
        beside_torch(
            lambda params: torch.optim.AdamW(params, foreach=False, lr=0.01, weight_decay=0.1),
            lambda w, grad, state: gc.adam_update(w, grad, state, axis=None, lr=0.01, weight_decay=0.1),
            gc.adam_init,
        )

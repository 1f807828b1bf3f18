"""The statements of the paper on random arrays, by other routes where there are any, and where they do not hold."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gc_core as gc
from gc_core import theory
from gc_core.theory import Sides, TanhNet

from .cases import random

torch = pytest.importorskip("torch")

U = 2.0**-53
SIZES = [1, 2, 3, 7, 64, 300]


def net(seed=0, inputs=5, units=3, samples=7):
    x, y = random((samples, inputs), seed=seed), random((samples,), seed=seed + 1)
    return TanhNet(x, random((units,), seed=seed + 2), y), random((inputs, units), seed=seed + 3)


def same(sides, size):
    """Equal up to `size` roundings of numbers of the sides' own magnitude."""
    largest = max(np.max(np.abs(side)) for side in sides)
    assert np.shape(sides.left) == np.shape(sides.right)
    return sides.residual <= size * U * largest


# ---- What GC is


@pytest.mark.parametrize("n", SIZES)
def test_projection_identities(n):
    # A row of P times a column is a sum of n products below 1, and P's own elements are off by 2u.
    for identity in (
        theory.projecting_twice_is_projecting_once,
        theory.projection_is_symmetric,
        theory.projection_removes_its_normal,
    ):
        assert identity(n).residual <= 4 * n * U
    v = random((n,), loc=3.0)
    assert theory.projected_vectors_lie_in_the_hyperplane(v).residual <= 4 * n * n * U * abs(v).max()
    lying = theory.projected_vectors_lie_in_the_hyperplane(np.stack([v, 2 * v], 1))
    assert lying.left.shape == (2,)


@pytest.mark.parametrize("n", SIZES)
def test_vector_form_is_matrix_form(n):
    grad = random((n, 4), loc=3.0)
    sides = theory.vector_form_is_matrix_form(grad)
    assert sides.residual <= 4 * n * U * abs(grad).max()
    if n > 1:
        assert Sides(sides.left, grad).residual > 1  # and is not the gradient itself


def test_gc_is_linear():
    grads = [random((6, 3), seed=seed) for seed in range(5)]
    assert theory.gc_commutes_with_averaging(grads).residual <= 50 * U * max(abs(g).max() for g in grads)
    assert theory.gc_commutes_with_scaling(grads[0], 65536.0).residual == 0  # a power of two rounds nothing
    assert theory.gc_commutes_with_scaling(grads[0], 0.1).residual <= 20 * U * abs(grads[0]).max()


# ---- Weight space


def test_tanh_net_is_torchs():
    (x, a, y), w = net()
    tensor = torch.tensor(w, requires_grad=True)

    def loss(w):
        return ((torch.tanh(torch.tensor(x) @ w) @ torch.tensor(a) - torch.tensor(y)) ** 2).mean() / 2

    loss(tensor).backward()
    hessian = torch.autograd.functional.hessian(loss, torch.tensor(w))
    # Sums over 7 samples and 5 inputs of products of five numbers below 3.
    own = TanhNet(x, a, y)
    assert own.loss(w) == pytest.approx(loss(tensor).item(), rel=100 * U)
    assert same(Sides(own.gradient(w), tensor.grad.numpy()), 500)
    assert same(Sides(own.hessian(w), hessian.numpy()), 500)


def test_hessian_by_complex_steps():
    """A third route to the gradient and the Hessian, which the theorem's test below rests on."""
    own, w = net(4)
    assert same(Sides(own.gradient(w), theory.complex_step_derivative(own.loss, w)), 500)
    assert same(Sides(own.hessian(w), theory.complex_step_derivative(own.gradient, w)), 500)
    assert same(theory.derivative_of_the_centralized_gradient(own, w), 500)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("options", [{}, {"nesterov": True}, {"dampening": 0.9}, {"gc_on": "update"}], ids=str)
def test_sgdm_keeps_the_means_from_any_start(options, decay):
    own, w = net()
    for start in (w, 0 * w, w + 1.0):
        sides = theory.sgdm_keeps_the_means(start, own.gradient, 50, lr=0.1, weight_decay=decay, **options)
        # 50 steps, each rounding weights and steps of a fan-in of 5 a few times.
        assert sides.residual <= 50 * 20 * U * (abs(start).max() + 10)
        assert np.max(abs(theory.train_sgdm(start, own.gradient, 50, lr=0.1) - start)) > 0.01


def test_decoupled_decay_shrinks_the_means():
    own, w = net()
    sides = theory.decoupled_decay_shrinks_the_means(w, own.gradient, 50, lr=0.1, weight_decay=0.1, nesterov=True)
    assert sides.residual <= 50 * 20 * U * (abs(w).max() + 10)
    kept = theory.sgdm_keeps_the_means(w, own.gradient, 50, lr=0.1, weight_decay=0.1, decoupled=True)
    assert kept.residual > 0.01  # not what L2 does


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_papers_momentum_is_pytorchs_at_another_rate(decay):
    own, w = net()
    sides = theory.the_papers_momentum_is_pytorchs_at_another_rate(
        w, own.gradient, 50, lr=0.5, momentum=0.9, weight_decay=decay
    )
    # 50 steps, each rounding weights and steps a few times; the loss is smooth, and its steps do not drive them apart.
    assert sides.residual <= 50 * 20 * U * (abs(w).max() + 10)
    assert Sides(sides.left, theory.train_sgdm(w, own.gradient, 50, lr=0.5, momentum=0.9)).residual > 0.01


def test_both_places_are_one_for_sgdm_and_two_with_decoupled_decay_or_adam():
    own, w = net()
    for options in ({"weight_decay": 0.1}, {"nesterov": True}, {"dampening": 0.9}):
        sides = theory.both_places_are_one_for_sgdm(w, own.gradient, 50, lr=0.1, **options)
        assert sides.residual <= 50 * 20 * U * (abs(w).max() + 10)
    decoupled = {"weight_decay": 0.1, "decoupled": True}
    assert theory.both_places_are_one_for_sgdm(w, own.gradient, 50, lr=0.1, **decoupled).residual > 0.01
    adam = [theory.train_adam(w, own.gradient, 50, lr=0.1, gc_on=place) for place in ("gradient", "update")]
    assert Sides(*adam).residual > 0.01


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_moves_the_means_and_gc_on_the_update_does_not(amsgrad):
    own, w = net()
    assert theory.adam_moves_the_means(w, own.gradient, 50, lr=0.01, amsgrad=amsgrad).residual > 0.01
    kept = theory.adam_with_gc_on_the_update_keeps_the_means(w, own.gradient, 50, lr=0.01, amsgrad=amsgrad)
    assert kept.residual <= 50 * 20 * U * (abs(w).max() + 10)


def test_a_gc_step_is_a_projected_step():
    own, w0 = net()
    w = theory.train_sgdm(w0, own.gradient, 3, lr=0.1)
    grad = own.gradient(w)
    sides = theory.gc_is_projected_gradient_descent(w0, w, grad, 0.1)
    assert sides.residual <= 200 * U * (abs(w).max() + abs(grad).max())
    outside = theory.gc_is_projected_gradient_descent(w0 + random((5, 1)), w, grad, 0.1)
    assert outside.residual > 0.01  # w must lie in the hyperplane
    # No point of the hyperplane is nearer to the plain step.
    plain = w - 0.1 * grad
    distance = np.linalg.norm(sides.right - plain)
    for seed in range(20):
        other = sides.right + gc.centralize(random(w.shape, seed=seed), 0)
        assert np.linalg.norm(other - plain) > distance


def test_weight_standardization_forces_zero_means_and_changes_outputs():
    w, x = random((6, 3), loc=2.0), random((6,))
    assert theory.weight_standardization_forces_zero_means(w).residual <= 50 * U
    assert theory.weight_standardization_forces_zero_means(100 * w + 7).residual <= 50 * 100 * U
    assert theory.weight_standardization_changes_pretrained_outputs(w, x).residual > 0.1
    # GC before its first step has the pretrained weights themselves, and keeps their means while it trains.
    assert np.array_equal(theory.train_sgdm(w, lambda w: w, 0, lr=0.1), w)
    assert theory.sgdm_keeps_the_means(w, np.sin, 20, lr=0.1).residual <= 20 * 20 * U * 10


# ---- Theorem 4.1


def trained(w0, axis):
    """A weight with the means of w0, some GC steps away."""
    w, state = w0, gc.sgdm_init(w0)
    for seed in range(5):
        w, state = gc.sgdm_update(w, random(w0.shape, seed=seed + 9), state, lr=0.1, axis=axis, weight_decay=0.1)
    assert np.max(abs(w - w0)) > 0.1
    return w


def test_shift_of_linear_outputs():
    w0, x = random((6, 3), loc=1.0), random((6,))
    wt = trained(w0, 0)
    for gamma in (1.0, -3.0):
        sides = theory.shift_of_linear_outputs(w0, wt, x, gamma)
        assert sides.residual <= 500 * U * 10
        assert Sides(-sides.left, sides.right).residual > 1  # the sign as printed in the paper
    without = theory.shift_of_linear_outputs(w0, trained(w0, None), x, 1.0)
    assert without.residual > 0.1
    assert theory.shift_of_linear_outputs(w0, trained(w0, 1), x, 1.0).residual > 0.1


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_shift_of_conv_outputs_without_padding(stride):
    w0, x = random((3, 2, 3, 2), loc=1.0), random((2, 8, 7))
    wt = trained(w0, (1, 2, 3))
    sides = theory.shift_of_conv_outputs(w0, wt, x, 2.0, stride=stride)
    assert sides.residual <= 500 * U * 50
    padded = theory.shift_of_conv_outputs(w0, wt, x, 2.0, stride=1, padding=1)
    assert padded.residual > 0.1
    assert Sides(*(side[:, 1:-1, 1:-1] for side in padded)).residual <= 500 * U * 50  # along the border alone
    assert theory.shift_of_conv_outputs(w0, trained(w0, (2, 3)) + 0.1, x, 2.0).residual > 0.1


def test_shift_of_conv_transpose_outputs_at_stride_1():
    w0, x = random((2, 3, 3, 3), loc=1.0), random((2, 6, 7))
    wt = trained(w0, (0, 2, 3))
    full = theory.shift_of_conv_transpose_outputs(w0, wt, x, 2.0)
    assert full.residual > 0.1  # the border is reached by a part of the weights
    assert Sides(*(side[:, 2:-2, 2:-2] for side in full)).residual <= 500 * U * 50
    assert theory.shift_of_conv_transpose_outputs(w0, wt, x, 2.0, crop=2).residual <= 500 * U * 50


@pytest.mark.parametrize("stride", [2, 3])
def test_shift_of_conv_transpose_outputs_fails_at_a_larger_stride(stride):
    w0, x = random((2, 3, 3, 3), loc=1.0), random((2, 6, 7))
    wt = trained(w0, (0, 2, 3))
    sides = theory.shift_of_conv_transpose_outputs(w0, wt, x, 2.0, stride=stride, crop=2)
    inner = Sides(*(side[:, 2:-2, 2:-2] for side in sides))
    assert inner.residual > 0.1  # and not along the border alone


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 0), (1, 1), (3, 2)])
def test_convolutions_are_torchs(stride, padding):
    x, w = random((2, 8, 7)), random((3, 2, 3, 2))
    wanted = torch.conv2d(torch.tensor(x)[None], torch.tensor(w), stride=stride, padding=padding)[0].numpy()
    assert same(Sides(theory.conv(x, w, stride=stride, padding=padding), wanted), 200)
    w = random((2, 3, 3, 3))
    wanted = torch.conv_transpose2d(torch.tensor(x)[None], torch.tensor(w), stride=stride, padding=padding)[0].numpy()
    assert same(Sides(theory.conv_transpose(x, w, stride=stride, crop=padding), wanted), 200)


# ---- Backward with centred inputs


@given(st.integers(0, 4), st.integers(1, 5), st.integers(1, 3), st.integers(0, 10**6))
def test_gc_is_backward_with_centered_inputs_exactly(log_fan_in, samples, units, seed):
    """Of small integers and a fan-in that is a power of two, no operation rounds: the sides are equal to the bit."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-9, 10, (samples, 2**log_fan_in)).astype(float)
    delta = rng.integers(-9, 10, (samples, units)).astype(float)
    sides = theory.gc_is_backward_with_centered_inputs(x, delta)
    assert sides.residual == 0
    layer = torch.nn.Linear(2**log_fan_in, units, bias=False, dtype=torch.float64)
    layer(torch.tensor(x)).backward(torch.tensor(delta))
    fan_in = [[Fraction(g) for g in row] for row in layer.weight.grad.tolist()]  # (out, in), of backward itself
    exact = [[g - sum(row) / len(row) for g in row] for row in fan_in]
    assert [[Fraction(g) for g in row] for row in sides.right.T.tolist()] == exact
    centred = torch.tensor(x - x.mean(1, keepdims=True))
    layer.weight.grad = None
    layer(centred).backward(torch.tensor(delta))
    assert np.array_equal(layer.weight.grad.T.numpy(), sides.left)


@pytest.mark.parametrize("padding", [0, 1])
def test_gc_of_a_convolution_centers_windows_and_not_the_image(padding):
    rng = np.random.default_rng(0)
    x = np.pad(rng.integers(-9, 10, (2, 5, 4)).astype(float), ((0, 0), (padding, padding), (padding, padding)))
    w = torch.zeros((3, 2, 2, 2), dtype=torch.float64, requires_grad=True)
    out = torch.conv2d(torch.tensor(x)[None], w)
    delta = rng.integers(-9, 10, out.shape[1:]).astype(float)
    out.backward(torch.tensor(delta)[None])
    assert w.grad is not None
    sides = theory.gc_is_backward_with_centered_windows(x, delta, (2, 2))
    assert sides.residual == 0 and np.array_equal(sides.left, gc.centralize(w.grad.numpy(), (1, 2, 3)))
    for axes in ((0,), (1, 2), (0, 1, 2)):  # one centred image does not do it
        image = x - x.mean(axes, keepdims=True)
        w.grad = None
        torch.conv2d(torch.tensor(image)[None], w).backward(torch.tensor(delta)[None])
        assert abs(w.grad.numpy() - sides.left).max() > 1


# ---- Theorem 4.2 and the size of gradients


@pytest.mark.parametrize("seed", range(10))
def test_centralized_gradients_are_no_longer(seed):
    grad = random((6, 3), seed=seed)
    sides = theory.centralized_gradient_is_no_longer(grad)
    assert np.all(sides.left < sides.right)
    assert same(theory.squared_length_lost_is_that_of_the_mean(grad), 100)


def test_a_gradient_without_a_mean_keeps_its_length():
    sides = theory.centralized_gradient_is_no_longer(np.array([[1.0], [-1.0]]))
    assert sides.residual == 0


@pytest.mark.parametrize("seed", range(0, 40, 4))
def test_centralized_hessian_is_no_larger(seed):
    own, w = net(seed)
    for hessian in (own.hessian(w), theory.complex_step_derivative(own.gradient, w)):
        sides = theory.centralized_hessian_is_no_larger(hessian)
        assert sides.left < sides.right
        for unit in range(3):  # each weight vector by itself, as in the theorem
            block = hessian[:, unit : unit + 1, :, unit : unit + 1]
            sides = theory.centralized_hessian_is_no_larger(block)
            assert sides.left <= sides.right * (1 + 100 * U)
            p, h = gc.projection_matrix(5), block.reshape(5, 5)
            assert sides.left == pytest.approx(math.sqrt(np.linalg.eigvalsh(p @ h @ h.T @ p)[-1]), rel=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_largest_magnitude_at_most_doubles(seed):
    sides = theory.largest_magnitude_at_most_doubles(random((6, 3), seed=seed))
    assert np.all(sides.left <= sides.right)


def test_largest_magnitude_can_grow_as_far_as_the_bound():
    for n in (2, 5, 100):
        grad = -np.ones((n, 1))
        grad[0] = 1.0
        sides = theory.largest_magnitude_at_most_doubles(grad)
        assert sides.residual <= 4 * n * U
        assert sides.left[0] > 1 or n == 2


def test_z_scoring_forgets_the_gradients_length():
    grad = random((6, 3))
    for scale in (1.0, 1e-6, 1e6):
        sides = theory.z_scored_length_is_constant(scale * grad)
        assert sides.residual <= 100 * U * math.sqrt(6)
    tiny = 1e-6 * grad
    z = theory.z_score(tiny)
    assert np.linalg.norm(z) > np.linalg.norm(tiny)  # where GC obeys Theorem 4.2
    averaged = np.mean([theory.z_score(grad), theory.z_score(-3 * grad)], axis=0)
    assert Sides(theory.z_score(-grad), averaged).residual > 0.1  # not linear


def test_every_public_function_has_its_source_and_an_example():
    for name, function in vars(theory).items():
        if not name.startswith("_") and getattr(function, "__module__", "") == theory.__name__ and callable(function):
            assert ">>>" in function.__doc__, name
            if name not in ("Sides", "TanhNet", "conv", "conv_transpose"):
                assert "Source:" in function.__doc__, name


# ---- The statements fail where GC is not what it should be

BROKEN = {
    "no GC": lambda grad, axis: np.array(grad),
    "whole tensor": lambda grad, axis: grad - grad.mean(),
    "wrong axis": lambda grad, axis: grad - grad.mean(1, keepdims=True),
    "z-scored": lambda grad, axis: (grad - grad.mean(0)) / np.std(grad, axis=0),
    "half": lambda grad, axis: grad - 0.5 * grad.mean(0),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_operator_breaks_the_statements(broken, monkeypatch):
    monkeypatch.setattr(theory, "centralize", broken)
    own, w = net()
    grad = own.gradient(w)
    statements = [
        theory.vector_form_is_matrix_form(grad),
        theory.squared_length_lost_is_that_of_the_mean(grad),
        theory.gc_is_projected_gradient_descent(w, w, grad, 0.1),
    ]
    assert all(statement.residual > 1e-6 for statement in statements)


# ---- Low-rank products


@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_sums_of_a_low_rank_product(out, rank, in_, seed):
    rng = np.random.default_rng(seed)
    b, a = rng.standard_normal((out, rank)), rng.standard_normal((rank, in_))
    sides = theory.sums_of_a_low_rank_product(b, a)
    exact = [math.fsum(b[o, r] * a[r, i] for r in range(rank) for i in range(in_)) for o in range(out)]
    bound = 4 * (rank + in_) * U * (abs(b) @ abs(a)).sum(1).max()
    assert sides.residual <= bound and np.max(abs(sides.left - exact)) <= bound


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, True),
        ({"momentum": 0.9}, True),
        ({"adam": True, "gc_on": "update"}, True),
        ({"adam": True}, False),
        ({"axes": (1, None)}, False),  # B over the rank: what the shape alone would say
        ({"axes": (None, None)}, False),
    ],
)
def test_what_training_of_low_rank_factors_conserves(options, kept):
    rng = np.random.default_rng(0)
    target = rng.standard_normal((3, 6))
    b, a = np.zeros((3, 2)), rng.standard_normal((2, 6))
    a -= a.mean(1, keepdims=True)
    gradient = lambda w: w - target  # noqa: E731
    sides = theory.low_rank_training_keeps_the_sums(b, a, gradient, 100, lr=0.05, **options)
    # 100 steps of two factors of size about 1, each sum with at most 6 roundings.
    assert (sides.residual <= 100 * 2 * 6 * 6 * U) == kept
    if not kept:
        assert sides.residual > 1e-3

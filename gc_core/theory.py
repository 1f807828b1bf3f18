"""The statements of the paper, each as a function that returns both sides, to be tried on arrays of your own.

Weights are laid out as in the paper: W of shape (M, N), fan-in M first, so that column i is the weight vector of output
unit i, e = (1/√M)·1 and Φ = `centralize(…, axis=0)`. Convolutions have PyTorch's layouts.

Source: Yong, Huang, Hua, Zhang, Gradient Centralization, ECCV 2020, arXiv 2004.01461.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gc_core.adam import adam_init, adam_update
from gc_core.operator import centralize, projection_matrix
from gc_core.sgdm import sgdm_init, sgdm_update

Gradient = Callable[[np.ndarray], np.ndarray]


class Sides(NamedTuple):
    """The two sides of a statement.

    >>> Sides(np.array([1.0, 2.0]), np.array([1.0, 2.5])).residual
    0.5
    """

    left: Any
    right: Any

    @property
    def residual(self) -> float:
        """The largest difference between the sides: rounding, where the statement is an equation and holds."""
        return float(np.max(np.abs(np.subtract(self.left, self.right)), initial=0.0))


# ---- What GC is: equations 1 and 2


def vector_form_is_matrix_form(grad: np.ndarray) -> Sides:
    """Subtracting each weight vector's mean is multiplying with P, for ∇W of shape (M, N).

    Formula: Φ(∇w_i) = ∇w_i − (1/M) Σ_j ∇W_ji;  Φ(∇W) = P ∇W.

    >>> vector_form_is_matrix_form(np.array([[1.0, 4.0], [5.0, 0.0]]))
    Sides(left=array([[-2.,  2.],
           [ 2., -2.]]), right=array([[-2.,  2.],
           [ 2., -2.]]))

    Source: equations 1 and 2.
    """
    return Sides(centralize(grad, axis=0), projection_matrix(len(grad)) @ grad)


def projecting_twice_is_projecting_once(n: int) -> Sides:
    """P² = P for a fan-in of n: what is centralized already stays as it is.

    >>> projecting_twice_is_projecting_once(4).residual
    0.0

    Source: below equation 2.
    """
    p = projection_matrix(n)
    return Sides(p @ p, p)


def projection_is_symmetric(n: int) -> Sides:
    """Pᵀ = P for a fan-in of n: the projection is orthogonal.

    >>> projection_is_symmetric(4).residual
    0.0

    Source: below equation 2.
    """
    p = projection_matrix(n)
    return Sides(p.T, p)


def projection_removes_its_normal(n: int) -> Sides:
    """P e = 0 for a fan-in of n: nothing is left of the direction of equal elements.

    >>> projection_removes_its_normal(4).residual
    0.0

    Source: below equation 2.
    """
    return Sides(projection_matrix(n) @ _normal(n), np.zeros(n))


def projected_vectors_lie_in_the_hyperplane(v: np.ndarray) -> Sides:
    """eᵀ P v = 0 for v of shape (M,) or (M, N): P projects on the hyperplane with normal e.

    >>> [float(side) for side in projected_vectors_lie_in_the_hyperplane(np.array([1.0, 2.0, 3.0, 6.0]))]
    [0.0, 0.0]

    Source: below equation 2.
    """
    left = _normal(len(v)) @ projection_matrix(len(v)) @ v
    return Sides(left, np.zeros_like(left)[()])


def gc_commutes_with_averaging(grads: Sequence[np.ndarray]) -> Sides:
    """Φ of an average is the average of Φ: over workers, or over accumulated batches, each of shape (M, N).

    Formula: Φ((1/K) Σ_k g_k) = (1/K) Σ_k Φ(g_k).

    >>> gc_commutes_with_averaging([np.array([[1.0], [3.0]]), np.array([[5.0], [-5.0]])]).residual
    0.0

    Source: equation 2: Φ is linear.
    """
    return Sides(centralize(np.mean(grads, axis=0), 0), np.mean([centralize(grad, 0) for grad in grads], axis=0))


def gc_commutes_with_scaling(grad: np.ndarray, factor: float) -> Sides:
    """Φ of a scaled gradient is Φ scaled, as with loss scaling or clipping by norm; grad of shape (M, N).

    Formula: Φ(c g) = c Φ(g).

    >>> gc_commutes_with_scaling(np.array([[1.0], [3.0]]), 1024.0).residual
    0.0

    Source: equation 2: Φ is linear.
    """
    return Sides(centralize(factor * grad, 0), factor * centralize(grad, 0))


# ---- GC as backward with centred inputs


def gc_is_backward_with_centered_inputs(x: np.ndarray, delta: np.ndarray) -> Sides:
    """GC of a linear layer is its gradient with each input centred over its features; x (K, M), delta (K, N).

    A weight's gradient is a sum over the K examples of input times what comes back, ∇W = Σ_k x_k δ_kᵀ. Φ is linear and
    acts on the side of the input alone, so that it goes through the sum and past δ. Nothing but backward changes: the
    layer still computes Wᵀx.

    Formula: Φ(xᵀ δ) = (x − x̄ 1ᵀ)ᵀ δ, with x̄_k = (1/M) Σ_j x_kj.

    >>> x, delta = np.array([[1.0, 3.0], [4.0, 0.0]]), np.array([[1.0], [2.0]])
    >>> gc_is_backward_with_centered_inputs(x, delta)
    Sides(left=array([[ 3.],
           [-3.]]), right=array([[ 3.],
           [-3.]]))

    Source: equation 2 with ∇W = xᵀ δ; not in the paper.
    """
    return Sides(centralize(x.T @ delta, 0), (x - x.mean(1, keepdims=True)).T @ delta)


def gc_is_backward_with_centered_windows(x: np.ndarray, delta: np.ndarray, kernel: tuple[int, int]) -> Sides:
    """The same for a convolution: what is centred is each window that the filter sees, not the image.

    x is (in, height, width), padded already; delta, the gradient of the output, is (out, rows, columns). An input pixel
    lies in several windows of different means, so that no one centred image gives all of them.

    Formula: Φ(∇W)_o = Σ_p δ_op (X_p − mean(X_p)), with X_p of in·kh·kw elements the window of output pixel p.

    >>> x, delta = np.array([[[1.0, 3.0, 8.0]]]), np.array([[[1.0, 2.0]]])
    >>> gc_is_backward_with_centered_windows(x, delta, (1, 2))
    Sides(left=array([[[[-6.,  6.]]]]), right=array([[[[-6.,  6.]]]]))

    Source: as above, the filter being the weight vector of M = in·kh·kw.
    """
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel, (1, 2))  # (in, rows, columns, kh, kw)
    centred = windows - windows.mean((0, 3, 4), keepdims=True)
    plain, right = (np.einsum("opq,ipqhw->oihw", delta, seen) for seen in (windows, centred))
    return Sides(centralize(plain, (1, 2, 3)), right)


# ---- Weight space, section 4.1: training stays in a hyperplane through w⁰


class TanhNet(NamedTuple):
    """A net small enough to be differentiated twice by hand: one hidden layer W of shape (M, N), one output.

    Formula: L(W) = 1/(2K) Σ_k r_k², with r_k = aᵀ tanh(Wᵀ x_k) − y_k.

    >>> net = TanhNet(x=np.array([[1.0, 3.0]]), a=np.array([2.0]), y=np.array([1.0]))
    >>> W = np.zeros((2, 1))
    >>> float(net.loss(W)), net.gradient(W)
    (0.5, array([[-2.],
           [-6.]]))
    """

    x: np.ndarray  # inputs, (K, M)
    a: np.ndarray  # output weights, (N,)
    y: np.ndarray  # targets, (K,)

    def loss(self, w: np.ndarray) -> Any:
        """L(W)."""
        residual = np.tanh(self.x @ w) @ self.a - self.y
        return 0.5 * (residual**2).mean()

    def gradient(self, w: np.ndarray) -> np.ndarray:
        """∇L = (1/K) Σ_k r_k J_k of shape (M, N), with J_k = x_k (a ⊙ tanh′(Wᵀ x_k))ᵀ."""
        h = np.tanh(self.x @ w)
        residual = h @ self.a - self.y
        return np.einsum("k,ki,kj->ij", residual, self.x, self.a * (1 - h**2)) / len(self.x)

    def hessian(self, w: np.ndarray) -> np.ndarray:
        """∇²L of shape (M, N, M, N): (1/K) Σ_k of J_k J_kᵀ + r_k ∇J_k, with tanh″ = −2 tanh tanh′ in ∇J_k."""
        h = np.tanh(self.x @ w)
        residual = h @ self.a - self.y
        slope = self.a * (1 - h**2)
        jacobian = np.einsum("ki,kj->kij", self.x, slope)
        curved = np.einsum("k,kj,ki,kl->ijl", residual, -2 * h * slope, self.x, self.x)
        units = np.eye(w.shape[1])  # a second derivative across two units has no such term
        return (np.einsum("kij,kln->ijln", jacobian, jacobian) + np.einsum("ijl,jn->ijln", curved, units)) / len(self.x)


def train_sgdm(w: np.ndarray, gradient: Gradient, steps: int, **options: Any) -> np.ndarray:
    """The weight (M, N) after some steps of GC-SGDM from w; the options are those of `sgdm_update`.

    >>> train_sgdm(np.array([[1.0], [5.0]]), lambda w: w, 1, lr=0.5)
    array([[2.],
           [4.]])

    Source: Algorithm 1.
    """
    state = sgdm_init(w)
    for _ in range(steps):
        w, state = sgdm_update(w, gradient(w), state, axis=0, **options)
    return w


def train_adam(w: np.ndarray, gradient: Gradient, steps: int, **options: Any) -> np.ndarray:
    """The weight (M, N) after some steps of GC-Adam from w; the options are those of `adam_update`.

    >>> train_adam(np.array([[1.0], [5.0]]), lambda w: w, 1, lr=0.5, eps=0.0)
    array([[1.5],
           [4.5]])

    Source: Algorithm 2.
    """
    state = adam_init(w, amsgrad=options.get("amsgrad", False))
    for _ in range(steps):
        w, state = adam_update(w, gradient(w), state, axis=0, **options)
    return w


def sgdm_keeps_the_means(w: np.ndarray, gradient: Gradient, steps: int, **options: Any) -> Sides:
    """eᵀwᵗ = eᵀw⁰ under GC-SGDM, whatever w⁰ of shape (M, N) and the loss are.

    L2 decay (`weight_decay`) changes nothing: it is added before centralizing. Decoupled decay does: see
    `decoupled_decay_shrinks_the_means`.

    >>> w = np.array([[1.0, -2.0], [5.0, 4.0]])
    >>> sgdm_keeps_the_means(w, lambda w: w**3, 10, lr=0.01, weight_decay=0.1).residual < 1e-14
    True

    Source: section 4.1, weight space regularization: eᵀ(wᵗ − w⁰) = 0.
    """
    return Sides(_along_normal(train_sgdm(w, gradient, steps, **options)), _along_normal(w))


def decoupled_decay_shrinks_the_means(
    w: np.ndarray, gradient: Gradient, steps: int, *, lr: float, weight_decay: float, **options: Any
) -> Sides:
    """eᵀwᵗ = (1 − ηλ)ᵗ eᵀw⁰ under GC-SGDM with decoupled decay, which lies outside Φ; w⁰ of shape (M, N).

    >>> decoupled_decay_shrinks_the_means(np.array([[2.0], [6.0]]), np.sin, 1, lr=0.5, weight_decay=1.0)
    Sides(left=array([2.82842712]), right=array([2.82842712]))

    Source: Algorithm 1 with AdamW's decay.
    """
    left = train_sgdm(w, gradient, steps, lr=lr, weight_decay=weight_decay, decoupled=True, **options)
    return Sides(_along_normal(left), (1 - lr * weight_decay) ** steps * _along_normal(w))


def the_papers_momentum_is_pytorchs_at_another_rate(
    w: np.ndarray, gradient: Gradient, steps: int, *, lr: float, momentum: float, **options: Any
) -> Sides:
    """m ← β m + (1 − β) ĝ at rate η trains as m ← β m + ĝ at rate (1 − β) η does; w⁰ of shape (M, N).

    >>> w = np.array([[2.0], [6.0]])
    >>> the_papers_momentum_is_pytorchs_at_another_rate(w, np.sin, 9, lr=0.5, momentum=0.5).residual
    0.0

    Source: Algorithm 1, which has the first form; the authors' code has the second.
    """
    left = train_sgdm(w, gradient, steps, lr=lr, momentum=momentum, dampening=momentum, **options)
    return Sides(left, train_sgdm(w, gradient, steps, lr=(1 - momentum) * lr, momentum=momentum, **options))


def both_places_are_one_for_sgdm(w: np.ndarray, gradient: Gradient, steps: int, **options: Any) -> Sides:
    """GC on the gradient trains as GC on the update does, under SGDM: Φ is linear, and so is momentum; w⁰ (M, N).

    Decoupled decay parts them, since GC on the update then centralizes the decay too.

    >>> both_places_are_one_for_sgdm(np.array([[2.0], [6.0]]), np.sin, 9, lr=0.5, momentum=0.5).residual < 1e-14
    True

    Source: Algorithm 1 and equation 2.
    """
    left, right = (train_sgdm(w, gradient, steps, gc_on=place, **options) for place in ("gradient", "update"))
    return Sides(left, right)


def adam_moves_the_means(w: np.ndarray, gradient: Gradient, steps: int, **options: Any) -> Sides:
    """eᵀwᵗ ≠ eᵀw⁰ under GC-Adam: dividing by √v, element by element, leaves the hyperplane; w⁰ of shape (M, N).

    >>> sides = adam_moves_the_means(np.array([[1.0], [2.0], [6.0]]), lambda w: w, 1, lr=0.1)
    >>> sides.left - sides.right  # of Φ(g) = −2, −1, 3 the first step has the signs: two up, one down, by lr
    array([0.05773503])

    Source: Algorithm 2; the paper claims eᵀ(wᵗ − w⁰) = 0 for SGD and SGDM only.
    """
    return Sides(_along_normal(train_adam(w, gradient, steps, **options)), _along_normal(w))


def adam_with_gc_on_the_update_keeps_the_means(w: np.ndarray, gradient: Gradient, steps: int, **options: Any) -> Sides:
    """eᵀwᵗ = eᵀw⁰ when Adam's step is centralized instead of its gradient; w⁰ of shape (M, N).

    >>> w = np.array([[1.0], [2.0], [6.0]])
    >>> adam_with_gc_on_the_update_keeps_the_means(w, lambda w: w, 10, lr=0.1).residual < 1e-14
    True

    Source: equation 2: eᵀ P d = 0 for every step d.
    """
    return adam_moves_the_means(w, gradient, steps, gc_on="update", **options)


def sums_of_a_low_rank_product(b: np.ndarray, a: np.ndarray) -> Sides:
    """(B A)·1 = B (A·1): the sums of the rows of a product are made of the sums of the rows of its second factor.

    So they are conserved, at 0, where the rows of A (rank, in) start with sum 0 and are centralized; whatever B
    (out, rank) is, and does. Centralizing B over the rank says nothing about them.

    >>> sums_of_a_low_rank_product(np.array([[2.0, 1.0]]), np.array([[1.0, -1.0], [3.0, 4.0]]))
    Sides(left=array([7.]), right=array([7.]))

    Source: section 4.1 for W = B A, the update of low-rank adaptation (arXiv 2106.09685).
    """
    return Sides((b @ a).sum(1), b @ a.sum(1))


def low_rank_training_keeps_the_sums(
    b: np.ndarray, a: np.ndarray, gradient: Gradient, steps: int, *,
    axes: tuple[int | None, int | None] = (None, 1), adam: bool = False,
    **options: Any,
) -> Sides:  # fmt: skip
    """The sums of the rows of BᵗAᵗ, and of B⁰A⁰, where both factors are trained and GC acts on A along its rows.

    They are equal where A⁰·1 = 0, under SGDM, and under Adam with gc_on="update". Under Adam with GC on the gradient
    they drift; so they do if B is centralized over the rank instead, axes=(1, None).

    Args:
        b, a: (out, rank) and (rank, in).
        gradient: of the loss by B A, of its shape; by the chain rule ∇B = ∇·Aᵀ and ∇A = Bᵀ·∇.
        steps: how many.
        axes: fan-in axes of B and of A.
        adam: whether by Adam; otherwise by SGDM.
        options: those of the update rule.

    >>> b, a = np.zeros((2, 1)), np.array([[1.0, 2.0, -3.0]])
    >>> target = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0]])
    >>> low_rank_training_keeps_the_sums(b, a, lambda w: w - target, 50, lr=0.01).residual < 1e-14
    True
    >>> low_rank_training_keeps_the_sums(b, a, lambda w: w - target, 50, lr=0.01, axes=(1, None)).residual
    0.0
    >>> low_rank_training_keeps_the_sums(b + 1, a, lambda w: w - target, 50, lr=0.01, axes=(1, None)).residual > 0.1
    True

    Source: section 4.1 for W = B A.
    """
    start, factors = (b @ a).sum(1), [b, a]
    init, update = (adam_init, adam_update) if adam else (sgdm_init, sgdm_update)
    states: list[Any] = [init(b), init(a)]
    for _ in range(steps):
        grad = gradient(factors[0] @ factors[1])
        grads = grad @ factors[1].T, factors[0].T @ grad
        for i in range(2):
            factors[i], states[i] = update(factors[i], grads[i], states[i], axis=axes[i], **options)  # type: ignore[arg-type]
    return Sides((factors[0] @ factors[1]).sum(1), start)


def gc_is_projected_gradient_descent(w0: np.ndarray, w: np.ndarray, grad: np.ndarray, lr: float) -> Sides:
    """A GC step is a plain step followed by projection on the hyperplane through w⁰, for w in it; all (M, N).

    Formula: w − η Φ(g) = argmin_u ‖u − (w − η g)‖₂ subject to eᵀ(u − w⁰) = 0.

    >>> w0 = np.array([[1.0], [5.0]])
    >>> gc_is_projected_gradient_descent(w0, w0, np.array([[2.0], [4.0]]), lr=0.5)
    Sides(left=array([[1.5],
           [4.5]]), right=array([[1.5],
           [4.5]]))

    Source: section 4.1: GC solves min L(w) subject to eᵀ(w − w⁰) = 0.
    """
    e = _normal(len(w))
    stepped = w - lr * grad
    return Sides(w - lr * centralize(grad, 0), stepped - np.outer(e, e @ (stepped - w0)))


def weight_standardization(w: np.ndarray) -> np.ndarray:
    """ŵ: each weight vector less its mean, over its standard deviation; w of shape (M, N).

    >>> weight_standardization(np.array([[1.0], [3.0]]))
    array([[-1.],
           [ 1.]])

    Source: the reparametrization that section 4.1 sets GC against.
    """
    return (w - w.mean(0)) / w.std(0)


def weight_standardization_forces_zero_means(w: np.ndarray) -> Sides:
    """eᵀŵ = 0 whatever w is: the hyperplane is always the one through the origin; w of shape (M, N).

    >>> weight_standardization_forces_zero_means(np.array([[1.0], [3.0]]))
    Sides(left=array([0.]), right=array([0.]))

    Source: section 4.1, weight space regularization.
    """
    left = _along_normal(weight_standardization(w))
    return Sides(left, np.zeros_like(left))


def weight_standardization_changes_pretrained_outputs(w: np.ndarray, x: np.ndarray) -> Sides:
    """ŵᵀx ≠ wᵀx: a trained w of shape (M, N) no longer gives its outputs. GC starts from w itself and keeps them.

    >>> weight_standardization_changes_pretrained_outputs(np.array([[1.0], [3.0]]), np.array([1.0, 1.0]))
    Sides(left=array([0.]), right=array([4.]))

    Source: section 4.1: GC can start from pretrained weights, weight standardization cannot.
    """
    return Sides(weight_standardization(w).T @ x, w.T @ x)


# ---- Output features, Theorem 4.1: a constant added to the input shifts the output as it did before training


def shift_of_linear_outputs(w0: np.ndarray, wt: np.ndarray, x: np.ndarray, gamma: float) -> Sides:
    """(wᵗ)ᵀ(x + γ1) − (wᵗ)ᵀx = γ 1ᵀw⁰, where wᵗ has the means of w⁰, as under GC-SGDM; w (M, N), x (M,).

    The paper prints the left side with the opposite sign.

    >>> w0 = np.array([[1.0], [3.0]])
    >>> wt = train_sgdm(w0, lambda w: w, 1, lr=0.5)
    >>> shift_of_linear_outputs(w0, wt, np.array([7.0, 8.0]), gamma=2.0)
    Sides(left=array([8.]), right=array([8.]))

    Source: Theorem 4.1.
    """
    return Sides(wt.T @ (x + gamma) - wt.T @ x, gamma * w0.sum(0))


def shift_of_conv_outputs(
    w0: np.ndarray, wt: np.ndarray, x: np.ndarray, gamma: float, *, stride: int = 1, padding: int = 0
) -> Sides:
    """Theorem 4.1 for a convolution: every output pixel shifts by γ Σ w⁰ of its filter, if padding is 0.

    With zero padding it fails along the border: the padded zeros are not shifted, and a part of the filter has no
    conserved sum. w is (out, in, kh, kw), x is (in, height, width).

    >>> w0, x = np.arange(9.0).reshape(1, 1, 3, 3), np.zeros((1, 3, 3))
    >>> wt = w0 - centralize(w0**2, axis=(1, 2, 3))
    >>> sides = shift_of_conv_outputs(w0, wt, x, 1.0)
    >>> sides.left.round(9), sides.right
    (array([[[36.]]]), array([[[36.]]]))
    >>> shift_of_conv_outputs(w0, wt, x, 1.0, padding=1).residual > 1
    True

    Source: Theorem 4.1, the filter being the weight vector of M = in·kh·kw.
    """
    left = conv(x + gamma, wt, stride=stride, padding=padding) - conv(x, wt, stride=stride, padding=padding)
    return Sides(left, np.broadcast_to(gamma * w0.sum((1, 2, 3))[:, None, None], left.shape))


def shift_of_conv_transpose_outputs(
    w0: np.ndarray, wt: np.ndarray, x: np.ndarray, gamma: float, *, stride: int = 1, crop: int = 0
) -> Sides:
    """Theorem 4.1 for a transposed convolution: it holds at stride 1, for the pixels that all weights reach.

    Those are the ones left when kernel − 1 pixels are cropped from each side (PyTorch's `padding`). At stride s > 1 a
    pixel is reached by every s-th weight only, whose sum GC does not conserve. w is (in, out, kh, kw), x is
    (in, height, width).

    >>> w0, x = np.arange(4.0).reshape(1, 1, 2, 2), np.zeros((1, 2, 2))
    >>> wt = w0 - centralize(w0**2, axis=(0, 2, 3))
    >>> shift_of_conv_transpose_outputs(w0, wt, x, 1.0, crop=1)
    Sides(left=array([[[6.]]]), right=array([[[6.]]]))
    >>> shift_of_conv_transpose_outputs(w0, wt, x, 1.0).residual > 1
    True
    >>> shift_of_conv_transpose_outputs(w0, wt, x, 1.0, stride=2, crop=1).residual > 1
    True

    Source: Theorem 4.1, with M = in·kh·kw.
    """
    left = conv_transpose(x + gamma, wt, stride=stride, crop=crop) - conv_transpose(x, wt, stride=stride, crop=crop)
    return Sides(left, np.broadcast_to(gamma * w0.sum((0, 2, 3))[:, None, None], left.shape))


def conv(x: np.ndarray, w: np.ndarray, *, stride: int = 1, padding: int = 0) -> np.ndarray:
    """Convolution as PyTorch has it, of x (in, height, width) with w (out, in, kh, kw).

    >>> conv(np.arange(3.0).reshape(1, 1, 3), np.array([[[[1.0, 10.0]]]]))
    array([[[10., 21.]]])
    """
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    kh, kw = w.shape[2:]
    height, width = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    y = np.zeros((len(w), height, width))
    for i in range(kh):
        for j in range(kw):
            seen = x[:, i : i + stride * height : stride, j : j + stride * width : stride]
            y += np.tensordot(w[:, :, i, j], seen, 1)
    return y


def conv_transpose(x: np.ndarray, w: np.ndarray, *, stride: int = 1, crop: int = 0) -> np.ndarray:
    """Transposed convolution as PyTorch has it, of x (in, height, width) with w (in, out, kh, kw); crop: `padding`.

    >>> conv_transpose(np.array([[[1.0, 2.0]]]), np.array([[[[1.0, 10.0]]]]))
    array([[[ 1., 12., 20.]]])
    """
    kh, kw = w.shape[2:]
    height, width = x.shape[1:]
    y = np.zeros((w.shape[1], stride * (height - 1) + kh, stride * (width - 1) + kw))
    for i in range(kh):
        for j in range(kw):
            y[:, i : i + stride * height : stride, j : j + stride * width : stride] += np.tensordot(
                w[:, :, i, j].T, x, 1
            )
    return y[:, crop : y.shape[1] - crop, crop : y.shape[2] - crop]


# ---- Smoothness, Theorem 4.2, and the size of gradients


def centralized_gradient_is_no_longer(grad: np.ndarray) -> Sides:
    """‖Φ(g)‖₂ ≤ ‖g‖₂ for each weight vector of ∇W (M, N): left ≤ right.

    >>> centralized_gradient_is_no_longer(np.array([[1.0], [3.0]])).left
    array([1.41421356])

    Source: Theorem 4.2, first inequality.
    """
    return Sides(np.linalg.norm(centralize(grad, 0), axis=0), np.linalg.norm(grad, axis=0))


def squared_length_lost_is_that_of_the_mean(grad: np.ndarray) -> Sides:
    """‖g‖² − ‖Φ(g)‖² = M·mean(g)² for each weight vector of ∇W (M, N): by how much Theorem 4.2 is strict.

    >>> squared_length_lost_is_that_of_the_mean(np.array([[1.0], [3.0]]))
    Sides(left=array([8.]), right=array([8.]))

    Source: Theorem 4.2, by Pythagoras: g = Φ(g) + e eᵀg.
    """
    return Sides((grad**2).sum(0) - (centralize(grad, 0) ** 2).sum(0), len(grad) * grad.mean(0) ** 2)


def centralized_hessian_is_no_larger(hessian: np.ndarray) -> Sides:
    """‖P H‖₂ ≤ ‖H‖₂ in spectral norm, for ∇²L of shape (M, N, M, N) as `TanhNet.hessian` gives it: left ≤ right.

    For one weight vector give its block, of shape (M, 1, M, 1).

    >>> float(centralized_hessian_is_no_larger(np.diag([3.0, 1.0]).reshape(2, 1, 2, 1)).right)
    3.0

    Source: Theorem 4.2, second inequality; P acts on each weight vector's M rows.
    """
    size = math.prod(hessian.shape[:2])
    return Sides(*(np.linalg.norm(h.reshape(size, size), 2) for h in (centralize(hessian, 0), hessian)))


def derivative_of_the_centralized_gradient(net: TanhNet, w: np.ndarray) -> Sides:
    """∇Φ(∇L) = P ∇²L: the left side differentiates the centralized gradient, the right is P times the Hessian by hand.

    >>> net = TanhNet(x=np.array([[1.0, 0.0], [2.0, 1.0]]), a=np.array([2.0]), y=np.array([1.0, 3.0]))
    >>> derivative_of_the_centralized_gradient(net, np.array([[0.5], [0.25]])).residual < 1e-14
    True

    Source: Theorem 4.2, whose second inequality is about this matrix.
    """
    left = complex_step_derivative(lambda w: centralize(net.gradient(w), 0), w)
    return Sides(left, np.tensordot(projection_matrix(len(w)), net.hessian(w), 1))


def complex_step_derivative(function: Gradient, w: np.ndarray) -> np.ndarray:
    """∂f/∂w of an analytic f, to rounding: Im f(w + ih)/h has no subtraction that could cancel.

    Returns:
        Array of f's shape followed by w's.

    >>> complex_step_derivative(lambda w: w**3, np.array([2.0]))
    array([[12.]])

    Source: Squire and Trapp, Using complex variables to estimate derivatives of real functions (1998).
    """
    h = 2.0**-100
    columns = []
    for index in np.ndindex(w.shape):
        stepped = w.astype(complex)
        stepped[index] += 1j * h
        columns.append(np.imag(function(stepped)) / h)
    return np.stack(columns, -1).reshape(*columns[0].shape, *w.shape)


def largest_magnitude_at_most_doubles(grad: np.ndarray) -> Sides:
    """‖Φ(g)‖∞ ≤ 2(1 − 1/M) ‖g‖∞ for each weight vector of ∇W (M, N): left ≤ right.

    The paper shows the largest magnitude over training to be smaller with GC. That is an observation: for a single
    vector it may grow, and here it grows as far as it can.

    >>> grad = np.array([[1.0], [-1.0], [-1.0], [-1.0]])
    >>> largest_magnitude_at_most_doubles(grad)
    Sides(left=array([1.5]), right=array([1.5]))

    Source: section 4.2, gradient explosion suppression.
    """
    return Sides(abs(centralize(grad, 0)).max(0), 2 * (1 - 1 / len(grad)) * abs(grad).max(0))


def z_score(grad: np.ndarray) -> np.ndarray:
    """The alternative that the paper rejects: Φ(g) over its standard deviation, for each weight vector of ∇W (M, N).

    >>> z_score(np.array([[1.0], [3.0]]))
    array([[-1.],
           [ 1.]])

    Source: section 3.1: z-scoring gradients did not stabilize training.
    """
    return centralize(grad, 0) / grad.std(0)


def z_scored_length_is_constant(grad: np.ndarray) -> Sides:
    """‖z(g)‖₂ = √M however short g (M, N) is: such a step does not shrink near a minimum, and Theorem 4.2 fails.

    >>> z_scored_length_is_constant(np.array([[1e-9], [3e-9], [5e-9], [7e-9]]))
    Sides(left=array([2.]), right=array([2.]))

    Source: section 3.1, what z-scoring does that GC does not.
    """
    left = np.linalg.norm(z_score(grad), axis=0)
    return Sides(left, np.full(left.shape, math.sqrt(len(grad))))


def _normal(n: int) -> np.ndarray:
    """e = (1/√n)·1."""
    return np.full(n, 1 / math.sqrt(n))


def _along_normal(w: np.ndarray) -> np.ndarray:
    """eᵀw, for each weight vector: its mean times √M."""
    return _normal(len(w)) @ w

"""GC-Adam and GC-AdamW: Adam on centralized gradients (the paper's Algorithm 2)."""

import torch
from torch import Tensor

from gc_core import adam as reference
from gc_core import checks
from gc_core.adam import AdamState
from gc_torch.arrays import TORCH, given, rounded, scalar, widen
from gc_torch.operator import center


def adam_init(w: Tensor, *, amsgrad: bool = False) -> AdamState:
    """The state before the first GC-Adam update: t = 0, m = 0, v = 0.

    Args:
        w: the weight, any shape, real floating point.
        amsgrad: whether to keep the running maximum of v.

    Returns:
        AdamState with step 0 and zeros of w's shape, dtype and device.

    Raises:
        TypeError: w is not a dense, real floating-point tensor, or amsgrad not a bool.

    >>> adam_init(torch.ones(1))
    AdamState(step=0, exp_avg=tensor([0.]), exp_avg_sq=tensor([0.]), max_exp_avg_sq=None)

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 2.
    """
    checks.array(TORCH, "w", w, allow_complex=False)
    checks.flag("amsgrad", amsgrad)
    zeros = torch.zeros_like(w)
    return AdamState(0, zeros, zeros.clone(), zeros.clone() if amsgrad else None)


def bias_correction(beta: float | Tensor, step: int) -> float | Tensor:
    """1 − βᵗ, the share of a moving average that `step` updates have filled.

    Computed as −expm1(t·log β): in the direct form the subtraction cancels when βᵗ is close to 1.

    >>> round(bias_correction(0.999, 1), 12), bias_correction(torch.tensor(0.0), 1)
    (0.001, tensor(1.))
    """
    if isinstance(beta, Tensor):
        return -torch.expm1(step * torch.log(beta))
    return reference.bias_correction(beta, step)


def adam_update(
    w: Tensor,
    grad: Tensor,
    state: AdamState,
    *,
    lr: float | Tensor = 1e-3,
    axis: int | tuple[int, ...] | None,
    betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
    eps: float | Tensor = 1e-8,
    weight_decay: float | Tensor = 0.0,
    decoupled: bool = False,
    amsgrad: bool = False,
    gc_on: checks.Place = "gradient",
) -> tuple[Tensor, AdamState]:
    """One step of GC-Adam, or of GC-AdamW with `decoupled=True`.

    Formula, with λ = weight_decay, η = lr, (β1, β2) = betas::

        g ← grad + λ w                  if λ and not decoupled
        g ← Φ(g)                        if gc_on = "gradient"
        t ← t + 1
        m ← β1 m + (1 − β1) g
        v ← β2 v + (1 − β2) g⊙g
        v̄ ← max(v̄, v)                   if amsgrad; it then stands for v below
        d ← (m / (1 − β1ᵗ)) / (√v / √(1 − β2ᵗ) + eps)
        d ← d + λ w                     if λ and decoupled
        d ← Φ(d)                        if gc_on = "update"
        w ← w − η d

    GC on the gradient does not conserve the means of the weight vectors under Adam (the division by √v is
    element by element); GC on the update does.

    Args:
        w: the weight, any shape, real floating point, on any device.
        grad: its gradient, same shape, dtype and device.
        state: from `adam_init(w)` or the previous update.
        lr: learning rate, >= 0. This and the other numbers may be 0-d tensors: they are not read, and not checked.
        axis: fan-in axes of w (see `centralize`); None: no GC.
        betas: two numbers in [0, 1).
        eps: >= 0.
        weight_decay: >= 0.
        decoupled: False: L2, added to the gradient (Adam); True: added to the step (AdamW).
        amsgrad: divide by the largest v so far; needs a state from `adam_init(w, amsgrad=True)`.
        gc_on: "gradient" (the paper) or "update" (the step is centralized instead).

    Returns:
        The new weight and the new state, of w's shape, dtype and device; the arguments are unchanged. float16 and
        bfloat16 are computed in float32 and each result is rounded once. Differentiable.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: shapes, dtypes or devices differ, a value is out of its range, or amsgrad lacks its state.

    >>> w, grad = torch.tensor([[1.0, 1.0, 4.0]]), torch.tensor([[4.0, 1.0, 1.0]])  # Φ(grad) = 2, −1, −1
    >>> w, state = adam_update(w, grad, adam_init(w), lr=0.5, axis=1, eps=0.0)
    >>> w  # the first step of Adam is lr times the sign
    tensor([[0.5000, 1.5000, 4.5000]])

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 2.
    """
    checks.tensors(TORCH, w, grad, state, AdamState, allow_complex=False)
    axis = checks.axis(axis, w.shape)
    lr, betas, eps, weight_decay = checks.adam(
        lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
        decoupled=decoupled, amsgrad=amsgrad, gc_on=gc_on, framework=TORCH,
    )  # fmt: skip
    checks.amsgrad_state(amsgrad, state.max_exp_avg_sq)
    t = checks.count("state.step", state.step)
    dtype = w.dtype
    w, g, m, v = widen(w), widen(grad), widen(state.exp_avg), widen(state.exp_avg_sq)
    v_max = state.max_exp_avg_sq
    lr, beta1, beta2, eps, weight_decay = (scalar(number, like=w) for number in (lr, *betas, eps, weight_decay))

    if given(weight_decay) and not decoupled:
        g = g + weight_decay * w
    if gc_on == "gradient":
        g = center(g, axis)

    t = t + 1
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    v_hat = v
    if amsgrad:
        v_hat = v_max = torch.maximum(widen(v_max), v)
    elif v_max is not None:
        v_max = v_max.clone()
    d = (m / bias_correction(beta1, t)) / (v_hat.sqrt() / bias_correction(beta2, t) ** 0.5 + eps)

    if given(weight_decay) and decoupled:
        d = d + weight_decay * w
    if gc_on == "update":
        d = center(d, axis)
    w = w - lr * d

    v_max = None if v_max is None else rounded(v_max, dtype)
    return rounded(w, dtype), AdamState(t, rounded(m, dtype), rounded(v, dtype), v_max)

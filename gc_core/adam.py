"""GC-Adam and GC-AdamW: Adam on centralized gradients (the paper's Algorithm 2)."""

import math
from typing import Any, NamedTuple

import numpy as np

from gc_core import checks
from gc_core.arrays import NUMPY, quietly, rounded, widen
from gc_core.operator import center


class AdamState(NamedTuple):
    """What GC-Adam remembers of one weight.

    >>> AdamState._fields
    ('step', 'exp_avg', 'exp_avg_sq', 'max_exp_avg_sq')
    """

    step: Any  # updates made so far
    exp_avg: Any  # m, like the weight
    exp_avg_sq: Any  # v, like the weight
    max_exp_avg_sq: Any = None  # the running maximum of v, like the weight; None without amsgrad


def adam_init(w: np.ndarray, *, amsgrad: bool = False) -> AdamState:
    """The state before the first GC-Adam update: t = 0, m = 0, v = 0.

    Args:
        w: the weight, any shape, real floating point.
        amsgrad: whether to keep the running maximum of v.

    Returns:
        AdamState with step 0 and zeros of w's shape and dtype.

    Raises:
        TypeError: w is not a real floating-point NumPy array, or amsgrad not a bool.

    >>> import numpy as np
    >>> adam_init(np.ones(1))
    AdamState(step=0, exp_avg=array([0.]), exp_avg_sq=array([0.]), max_exp_avg_sq=None)

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 2.
    """
    checks.array(NUMPY, "w", w, allow_complex=False)
    checks.flag("amsgrad", amsgrad)
    zeros = np.zeros(w.shape, w.dtype)
    return AdamState(0, zeros, zeros.copy(), zeros.copy() if amsgrad else None)


def bias_correction(beta: float, step: int) -> float:
    """1 − βᵗ, the share of a moving average that `step` updates have filled.

    Computed as −expm1(t·log β): in the direct form the subtraction cancels when βᵗ is close to 1.

    >>> round(bias_correction(0.999, 1), 12)
    0.001
    """
    return -math.expm1(step * math.log(beta)) if beta else 1.0


@quietly
def adam_update(
    w: np.ndarray,
    grad: np.ndarray,
    state: AdamState,
    *,
    lr: float = 1e-3,
    axis: int | tuple[int, ...] | None,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    amsgrad: bool = False,
    gc_on: checks.Place = "gradient",
) -> tuple[np.ndarray, AdamState]:
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
        w: the weight, any shape, real floating point.
        grad: its gradient, same shape and dtype.
        state: from `adam_init(w)` or the previous update.
        lr: learning rate, >= 0.
        axis: fan-in axes of w (see `centralize`); None: no GC.
        betas: two numbers in [0, 1).
        eps: >= 0.
        weight_decay: >= 0.
        decoupled: False: L2, added to the gradient (Adam); True: added to the step (AdamW).
        amsgrad: divide by the largest v so far; needs a state from `adam_init(w, amsgrad=True)`.
        gc_on: "gradient" (the paper) or "update" (the step is centralized instead).

    Returns:
        The new weight and the new state, of w's shape and dtype; the arguments are unchanged.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: shapes or dtypes differ, a value is out of its range, or amsgrad lacks its state.

    >>> import numpy as np
    >>> w, grad = np.array([[1.0, 1.0, 4.0]]), np.array([[4.0, 1.0, 1.0]])  # Φ(grad) = 2, −1, −1
    >>> w, state = adam_update(w, grad, adam_init(w), lr=0.5, axis=1, eps=0.0)
    >>> w  # the first step of Adam is lr times the sign
    array([[0.5, 1.5, 4.5]])

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 2.
    """
    checks.tensors(NUMPY, w, grad, state, AdamState, allow_complex=False)
    axis = checks.axis(axis, w.shape)
    lr, (beta1, beta2), eps, weight_decay = checks.adam(
        lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, decoupled=decoupled, amsgrad=amsgrad, gc_on=gc_on
    )
    checks.amsgrad_state(amsgrad, state.max_exp_avg_sq)
    t = checks.count("state.step", state.step)
    dtype = w.dtype
    w, g, m, v = widen(w), widen(grad), widen(state.exp_avg), widen(state.exp_avg_sq)
    v_max = state.max_exp_avg_sq

    if weight_decay and not decoupled:
        g = g + weight_decay * w
    if gc_on == "gradient":
        g = center(g, axis)

    t = t + 1
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    v_hat = v
    if amsgrad:
        v_hat = v_max = np.maximum(widen(v_max), v)
    d = (m / bias_correction(beta1, t)) / (np.sqrt(v_hat) / math.sqrt(bias_correction(beta2, t)) + eps)

    if weight_decay and decoupled:
        d = d + weight_decay * w
    if gc_on == "update":
        d = center(d, axis)
    w = w - lr * d

    v_max = None if v_max is None else rounded(v_max, dtype)
    return rounded(w, dtype), AdamState(t, rounded(m, dtype), rounded(v, dtype), v_max)

"""GC-Adam and GC-AdamW: Adam on centralized gradients (the paper's Algorithm 2)."""

import math
from typing import Any

import cupy

from gc_core import checks
from gc_core.adam import AdamState, bias_correction
from gc_cupy import kernels
from gc_cupy.arrays import CUPY, empty_like, zeros_like


def adam_init(w: cupy.ndarray, *, amsgrad: bool = False) -> AdamState:
    """The state before the first GC-Adam update: t = 0, m = 0, v = 0.

    Args:
        w: the weight, any shape, real floating point.
        amsgrad: whether to keep the running maximum of v.

    Returns:
        AdamState with step 0 and zeros of w's shape and dtype.

    Raises:
        TypeError: w is not a real floating-point CuPy array, or amsgrad not a bool.

    >>> import cupy as cp
    >>> adam_init(cp.ones(1))
    AdamState(step=0, exp_avg=array([0.]), exp_avg_sq=array([0.]), max_exp_avg_sq=None)

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 2.
    """
    checks.array(CUPY, "w", w, allow_complex=False)
    checks.flag("amsgrad", amsgrad)
    return AdamState(0, zeros_like(w), zeros_like(w), zeros_like(w) if amsgrad else None)


def adam_update(
    w: cupy.ndarray,
    grad: cupy.ndarray,
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
) -> tuple[cupy.ndarray, AdamState]:
    """One step of GC-Adam, or of GC-AdamW with `decoupled=True`, in one kernel.

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
        grad: its gradient, same shape, dtype and device.
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
        ValueError: shapes, dtypes or devices differ, a value is out of its range, or amsgrad lacks its state.

    >>> import cupy as cp
    >>> w, grad = cp.array([[1.0, 1.0, 4.0]]), cp.array([[4.0, 1.0, 1.0]])  # Φ(grad) = 2, −1, −1
    >>> w, state = adam_update(w, grad, adam_init(w), lr=0.5, axis=1, eps=0.0)
    >>> w  # the first step of Adam is lr times the sign
    array([[0.5, 1.5, 4.5]])

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 2.
    """
    launch, w, state = prepare(
        w, grad, state, in_place=False, lr=lr, axis=axis, betas=betas, eps=eps,
        weight_decay=weight_decay, decoupled=decoupled, amsgrad=amsgrad, gc_on=gc_on,
    )  # fmt: skip
    kernels.run([launch])
    return w, state


def prepare(
    w: Any, grad: Any, state: Any, *, in_place: bool, axis: Any, **options: Any
) -> tuple[kernels.Launch | None, cupy.ndarray, AdamState]:
    """An update that is checked and not yet run, and the arrays that will hold its results."""
    checks.tensors(CUPY, w, grad, state, AdamState, allow_complex=False)
    axis = checks.axis(axis, w.shape)
    lr, (beta1, beta2), eps, weight_decay = checks.adam(**options)
    amsgrad = options["amsgrad"]
    checks.amsgrad_state(amsgrad, state.max_exp_avg_sq)
    t = checks.count("state.step", state.step) + 1

    new_w, new = w, state._replace(step=t)
    if not in_place:
        v_max = state.max_exp_avg_sq
        if v_max is not None:
            v_max = empty_like(w) if amsgrad else v_max.copy()
        new_w, new = empty_like(w), AdamState(t, empty_like(w), empty_like(w), v_max)
    launch = kernels.prepare(
        "adam",
        axis,
        (w, grad, state.exp_avg, state.exp_avg_sq, state.max_exp_avg_sq if amsgrad else None),
        (new_w, new.exp_avg, new.exp_avg_sq, new.max_exp_avg_sq if amsgrad else None),
        (
            lr,
            beta1,
            1 - beta1,
            beta2,
            1 - beta2,
            1 / bias_correction(beta1, t),
            1 / math.sqrt(bias_correction(beta2, t)),
            eps,
            *kernels.decays(weight_decay, options["decoupled"]),
        ),
        (amsgrad, options["gc_on"] == "update"),
    )
    return launch, new_w, new

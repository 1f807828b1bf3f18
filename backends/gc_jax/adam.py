"""GC-Adam and GC-AdamW: Adam on centralized gradients (the paper's Algorithm 2)."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from gc_core import checks
from gc_core.adam import AdamState
from gc_core.adam import bias_correction as host_bias_correction
from gc_jax.arrays import JAX, scalar, static, widen
from gc_jax.operator import center


def adam_init(w: jax.Array, *, amsgrad: bool = False) -> AdamState:
    """The state before the first GC-Adam update: t = 0, m = 0, v = 0.

    Args:
        w: the weight, any shape, real floating point.
        amsgrad: whether to keep the running maximum of v.

    Returns:
        AdamState with an int32 step of 0 and zeros of w's shape, dtype and sharding.

    Raises:
        TypeError: w is not a real floating-point JAX array, or amsgrad not a bool.

    >>> import jax.numpy as jnp
    >>> adam_init(jnp.ones(1)).step
    Array(0, dtype=int32)

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 2.
    """
    static(amsgrad=amsgrad)
    checks.array(JAX, "w", w, allow_complex=False)
    checks.flag("amsgrad", amsgrad)
    # Each its own buffer: one buffer cannot be donated twice.
    m, v, v_max = (jnp.zeros_like(w, dtype=w.dtype) if wanted else None for wanted in (True, True, amsgrad))
    return AdamState(jnp.zeros((), jnp.int32), m, v, v_max)


def bias_correction(beta: Any, step: Any, dtype: Any = jnp.float32) -> Any:
    """1 − βᵗ, the share of a moving average that `step` updates have filled.

    Computed as −expm1(t·log β): in double where t and β are Python numbers, else in `dtype`. In the direct form the
    subtraction cancels when βᵗ is close to 1: in float32 it is off by 1e-5 for β = 0.999.

    >>> bias_correction(0.999, jnp.int32(1))
    Array(0.001, dtype=float32)
    """
    if isinstance(beta, float) and isinstance(step, int):
        return host_bias_correction(beta, step)
    if isinstance(beta, float):
        if beta == 0:
            return 1.0
        log = math.log(beta)
    else:
        log = jnp.log(jnp.asarray(beta, dtype))  # −inf for β = 0, and then −expm1(−inf) = 1
    return -jnp.expm1(jnp.asarray(step, dtype) * log)


def _step(step: Any) -> Any:
    """The step as it is: an int32 scalar array, which is not read, or an int."""
    if not isinstance(step, jax.Array):
        return checks.count("state.step", step)
    if step.shape != () or not jnp.issubdtype(step.dtype, jnp.integer):
        raise TypeError(f"state.step must be an int32 scalar; got an array of shape {step.shape}, dtype {step.dtype}")
    return step


def adam_update(
    w: jax.Array,
    grad: jax.Array,
    state: AdamState,
    *,
    lr: Any = 1e-3,
    axis: int | tuple[int, ...] | None,
    betas: tuple[Any, Any] = (0.9, 0.999),
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    decoupled: bool = False,
    amsgrad: bool = False,
    gc_on: checks.Place = "gradient",
) -> tuple[jax.Array, AdamState]:
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

    The numbers may be traced, or 0-d arrays, whose values are not checked; axis and the three switches are static.

    Returns:
        The new weight and the new state, of w's shape and dtype (step: an int32 scalar); the arguments are unchanged.

    Raises:
        TypeError: an argument is of the wrong type, or traced where it must be static.
        ValueError: shapes or dtypes differ, a value is out of its range, or amsgrad lacks its state.

    >>> import jax.numpy as jnp
    >>> w, grad = jnp.array([[1.0], [1.0], [4.0]]), jnp.array([[4.0], [1.0], [1.0]])  # Φ(grad) = 2, −1, −1
    >>> w, state = adam_update(w, grad, adam_init(w), lr=0.5, axis=0)
    >>> w.ravel()  # the first step of Adam is lr times the sign
    Array([0.5, 1.5, 4.5], dtype=float32)

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 2.
    """
    static(axis=axis, decoupled=decoupled, amsgrad=amsgrad, gc_on=gc_on)
    checks.tensors(JAX, w, grad, state, AdamState, allow_complex=False)
    axis = checks.axis(axis, w.shape)
    lr, betas, eps, weight_decay = checks.adam(
        lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
        decoupled=decoupled, amsgrad=amsgrad, gc_on=gc_on, framework=JAX,
    )  # fmt: skip
    checks.amsgrad_state(amsgrad, state.max_exp_avg_sq)
    t = _step(state.step)
    dtype = w.dtype
    w, g, m, v = widen(w), widen(grad), widen(state.exp_avg), widen(state.exp_avg_sq)
    v_max = state.max_exp_avg_sq
    lr, beta1, beta2, eps, weight_decay = (scalar(number, like=w) for number in (lr, *betas, eps, weight_decay))
    decay = not (isinstance(weight_decay, float) and weight_decay == 0)  # a traced one may be anything

    if decay and not decoupled:
        g = g + weight_decay * w
    if gc_on == "gradient":
        g = center(g, axis)

    t = t + 1
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    v_hat = v
    if amsgrad:
        v_hat = v_max = jnp.maximum(widen(v_max), v)
    elif v_max is not None:  # not the one that was given: whoever donates the result keeps it
        v_max = jnp.array(v_max, copy=True)
    correction1, correction2 = bias_correction(beta1, t, w.dtype), bias_correction(beta2, t, w.dtype)
    d = (m / correction1) / (jnp.sqrt(v_hat) / jnp.sqrt(correction2) + eps)

    if decay and decoupled:
        d = d + weight_decay * w
    if gc_on == "update":
        d = center(d, axis)
    w = w - lr * d

    v_max = None if v_max is None else v_max.astype(dtype)
    return w.astype(dtype), AdamState(jnp.asarray(t, jnp.int32), m.astype(dtype), v.astype(dtype), v_max)

"""GC-SGDM: momentum SGD on centralized gradients (the paper's Algorithm 1)."""

from typing import Any

import jax
import jax.numpy as jnp

from gc_core import checks
from gc_core.sgdm import SGDMState
from gc_jax.arrays import JAX, scalar, static, widen
from gc_jax.operator import center


def sgdm_init(w: jax.Array) -> SGDMState:
    """The state before the first GC-SGDM update: m = 0.

    Args:
        w: the weight, any shape, floating point.

    Returns:
        SGDMState with zeros of w's shape, dtype and sharding.

    Raises:
        TypeError: w is not a floating-point JAX array.

    >>> import jax.numpy as jnp
    >>> sgdm_init(jnp.ones(2))
    SGDMState(momentum_buffer=Array([0., 0.], dtype=float32))

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 1.
    """
    checks.array(JAX, "w", w)
    return SGDMState(jnp.zeros_like(w, dtype=w.dtype))


def sgdm_update(
    w: jax.Array,
    grad: jax.Array,
    state: SGDMState,
    *,
    lr: Any,
    axis: int | tuple[int, ...] | None,
    momentum: Any = 0.9,
    dampening: Any = 0.0,
    nesterov: bool = False,
    weight_decay: Any = 0.0,
    decoupled: bool = False,
    gc_on: checks.Place = "gradient",
) -> tuple[jax.Array, SGDMState]:
    """One step of GC-SGDM.

    Formula, with λ = weight_decay, μ = momentum, τ = dampening, η = lr::

        g ← grad + λ w                  if λ and not decoupled
        g ← Φ(g)                        if gc_on = "gradient"
        m ← μ m + (1 − τ) g
        d ← g + μ m if nesterov else m
        d ← d + λ w                     if λ and decoupled
        d ← Φ(d)                        if gc_on = "update"
        w ← w − η d

    `dampening=momentum` is the paper's Algorithm 1; `dampening=0` is PyTorch's SGD. With L2 decay the decay lies
    inside Φ, so that the mean of every weight vector is conserved.

    Args:
        w: the weight, any shape, floating point.
        grad: its gradient, same shape and dtype.
        state: from `sgdm_init(w)` or the previous update.
        lr: learning rate, >= 0.
        axis: fan-in axes of w (see `centralize`); None: no GC.
        momentum: >= 0.
        dampening: any finite number.
        nesterov: needs momentum > 0 and dampening 0.
        weight_decay: >= 0.
        decoupled: False: L2, added to the gradient; True: added to the step, as AdamW does.
        gc_on: "gradient" (the paper) or "update" (the step is centralized instead).

    The numbers may be traced, or 0-d arrays, whose values are not checked; axis and the three switches are static.

    Returns:
        The new weight and the new state, of w's shape and dtype; the arguments are unchanged.

    Raises:
        TypeError: an argument is of the wrong type, or traced where it must be static.
        ValueError: shapes or dtypes differ, or a value is out of its range.

    >>> import jax.numpy as jnp
    >>> w, grad = jnp.array([[1.0], [1.0], [4.0]]), jnp.array([[3.0], [0.0], [0.0]])
    >>> w, state = sgdm_update(w, grad, sgdm_init(w), lr=0.5, axis=0)
    >>> w.ravel(), w.sum()  # the sum of the weight vector is what it was
    (Array([0. , 1.5, 4.5], dtype=float32), Array(6., dtype=float32))

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 1.
    """
    static(axis=axis, nesterov=nesterov, decoupled=decoupled, gc_on=gc_on)
    checks.tensors(JAX, w, grad, state, SGDMState)
    axis = checks.axis(axis, w.shape)
    numbers = checks.sgdm(
        lr=lr, momentum=momentum, dampening=dampening, nesterov=nesterov,
        weight_decay=weight_decay, decoupled=decoupled, gc_on=gc_on, framework=JAX,
    )  # fmt: skip
    dtype = w.dtype
    w, g, m = widen(w), widen(grad), widen(state.momentum_buffer)
    lr, momentum, dampening, weight_decay = (scalar(number, like=w) for number in numbers)
    decay = not (isinstance(weight_decay, float) and weight_decay == 0)  # a traced one may be anything

    if decay and not decoupled:
        g = g + weight_decay * w
    if gc_on == "gradient":
        g = center(g, axis)

    m = momentum * m + (1 - dampening) * g
    d = g + momentum * m if nesterov else m

    if decay and decoupled:
        d = d + weight_decay * w
    if gc_on == "update":
        d = center(d, axis)
    w = w - lr * d

    return w.astype(dtype), SGDMState(m.astype(dtype))

"""GC-SGDM: momentum SGD on centralized gradients (the paper's Algorithm 1)."""

from typing import Any, NamedTuple

import numpy as np

from gc_core import checks
from gc_core.arrays import NUMPY, quietly, rounded, widen
from gc_core.operator import center


class SGDMState(NamedTuple):
    """What GC-SGDM remembers of one weight.

    >>> SGDMState._fields
    ('momentum_buffer',)
    """

    momentum_buffer: Any  # like the weight


def sgdm_init(w: np.ndarray) -> SGDMState:
    """The state before the first GC-SGDM update: m = 0.

    Args:
        w: the weight, any shape, floating point.

    Returns:
        SGDMState with zeros of w's shape and dtype.

    Raises:
        TypeError: w is not a floating-point NumPy array.

    >>> import numpy as np
    >>> sgdm_init(np.ones(2))
    SGDMState(momentum_buffer=array([0., 0.]))

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 1.
    """
    checks.array(NUMPY, "w", w)
    return SGDMState(np.zeros(w.shape, w.dtype))


@quietly
def sgdm_update(
    w: np.ndarray,
    grad: np.ndarray,
    state: SGDMState,
    *,
    lr: float,
    axis: int | tuple[int, ...] | None,
    momentum: float = 0.9,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    gc_on: checks.Place = "gradient",
) -> tuple[np.ndarray, SGDMState]:
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

    Returns:
        The new weight and the new state, of w's shape and dtype; the arguments are unchanged.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: shapes or dtypes differ, or a value is out of its range.

    >>> import numpy as np
    >>> w, grad = np.array([[1.0, 1.0, 4.0]]), np.array([[3.0, 0.0, 0.0]])
    >>> w, state = sgdm_update(w, grad, sgdm_init(w), lr=0.5, axis=1)
    >>> w, float(w.sum())  # the sum of the weight vector is what it was
    (array([[0. , 1.5, 4.5]]), 6.0)

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 1.
    """
    checks.tensors(NUMPY, w, grad, state, SGDMState)
    axis = checks.axis(axis, w.shape)
    lr, momentum, dampening, weight_decay = checks.sgdm(
        lr=lr, momentum=momentum, dampening=dampening, nesterov=nesterov,
        weight_decay=weight_decay, decoupled=decoupled, gc_on=gc_on,
    )  # fmt: skip
    dtype = w.dtype
    w, g, m = widen(w), widen(grad), widen(state.momentum_buffer)

    if weight_decay and not decoupled:
        g = g + weight_decay * w
    if gc_on == "gradient":
        g = center(g, axis)

    m = momentum * m + (1 - dampening) * g
    d = g + momentum * m if nesterov else m

    if weight_decay and decoupled:
        d = d + weight_decay * w
    if gc_on == "update":
        d = center(d, axis)
    w = w - lr * d

    return rounded(w, dtype), SGDMState(rounded(m, dtype))

"""GC-SGDM: momentum SGD on centralized gradients (the paper's Algorithm 1)."""

from typing import Any

import cupy

from gc_core import checks
from gc_core.sgdm import SGDMState
from gc_cupy import kernels
from gc_cupy.arrays import CUPY, empty_like, zeros_like


def sgdm_init(w: cupy.ndarray) -> SGDMState:
    """The state before the first GC-SGDM update: m = 0.

    Args:
        w: the weight, any shape, floating point.

    Returns:
        SGDMState with zeros of w's shape and dtype.

    Raises:
        TypeError: w is not a floating-point CuPy array.

    >>> import cupy as cp
    >>> sgdm_init(cp.ones(2))
    SGDMState(momentum_buffer=array([0., 0.]))

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 1.
    """
    checks.array(CUPY, "w", w)
    return SGDMState(zeros_like(w))


def sgdm_update(
    w: cupy.ndarray,
    grad: cupy.ndarray,
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
) -> tuple[cupy.ndarray, SGDMState]:
    """One step of GC-SGDM, in one kernel.

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
        grad: its gradient, same shape, dtype and device.
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
        ValueError: shapes, dtypes or devices differ, or a value is out of its range.

    >>> import cupy as cp
    >>> w, grad = cp.array([[1.0, 1.0, 4.0]]), cp.array([[3.0, 0.0, 0.0]])
    >>> w, state = sgdm_update(w, grad, sgdm_init(w), lr=0.5, axis=1)
    >>> w, float(w.sum())  # the sum of the weight vector is what it was
    (array([[0. , 1.5, 4.5]]), 6.0)

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 1.
    """
    launch, w, state = prepare(
        w, grad, state, in_place=False, lr=lr, axis=axis, momentum=momentum, dampening=dampening, nesterov=nesterov,
        weight_decay=weight_decay, decoupled=decoupled, gc_on=gc_on,
    )  # fmt: skip
    kernels.run([launch])
    return w, state


def prepare(
    w: Any, grad: Any, state: Any, *, in_place: bool, axis: Any, **options: Any
) -> tuple[kernels.Launch | None, cupy.ndarray, SGDMState]:
    """An update that is checked and not yet run, and the arrays that will hold its results."""
    checks.tensors(CUPY, w, grad, state, SGDMState)
    axis = checks.axis(axis, w.shape)
    lr, momentum, dampening, weight_decay = checks.sgdm(**options)
    new_w, new = (w, state) if in_place else (empty_like(w), SGDMState(empty_like(w)))
    launch = kernels.prepare(
        "sgdm",
        axis,
        (w, grad, state.momentum_buffer),
        (new_w, new.momentum_buffer),
        (lr, momentum, 1 - dampening, *kernels.decays(weight_decay, options["decoupled"])),
        (options["nesterov"], options["gc_on"] == "update"),
    )
    return launch, new_w, new

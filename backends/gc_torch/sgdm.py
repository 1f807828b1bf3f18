"""GC-SGDM: momentum SGD on centralized gradients (the paper's Algorithm 1)."""

import torch
from torch import Tensor

from gc_core import checks
from gc_core.sgdm import SGDMState
from gc_torch.arrays import TORCH, given, rounded, scalar, widen
from gc_torch.operator import center


def sgdm_init(w: Tensor) -> SGDMState:
    """The state before the first GC-SGDM update: m = 0.

    Args:
        w: the weight, any shape, floating point.

    Returns:
        SGDMState with zeros of w's shape, dtype and device.

    Raises:
        TypeError: w is not a dense floating-point tensor.

    >>> sgdm_init(torch.ones(2))
    SGDMState(momentum_buffer=tensor([0., 0.]))

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 1.
    """
    checks.array(TORCH, "w", w)
    return SGDMState(torch.zeros_like(w))


def sgdm_update(
    w: Tensor,
    grad: Tensor,
    state: SGDMState,
    *,
    lr: float | Tensor,
    axis: int | tuple[int, ...] | None,
    momentum: float | Tensor = 0.9,
    dampening: float | Tensor = 0.0,
    nesterov: bool = False,
    weight_decay: float | Tensor = 0.0,
    decoupled: bool = False,
    gc_on: checks.Place = "gradient",
) -> tuple[Tensor, SGDMState]:
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
        w: the weight, any shape, floating point, on any device.
        grad: its gradient, same shape, dtype and device.
        state: from `sgdm_init(w)` or the previous update.
        lr: learning rate, >= 0. This and the other numbers may be 0-d tensors: they are not read, and not checked.
        axis: fan-in axes of w (see `centralize`); None: no GC.
        momentum: >= 0.
        dampening: any finite number.
        nesterov: needs momentum > 0 and dampening 0.
        weight_decay: >= 0.
        decoupled: False: L2, added to the gradient; True: added to the step, as AdamW does.
        gc_on: "gradient" (the paper) or "update" (the step is centralized instead).

    Returns:
        The new weight and the new state, of w's shape, dtype and device; the arguments are unchanged. float16 and
        bfloat16 are computed in float32 and each result is rounded once. Differentiable.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: shapes, dtypes or devices differ, or a value is out of its range.

    >>> w, grad = torch.tensor([[1.0, 1.0, 4.0]]), torch.tensor([[3.0, 0.0, 0.0]])
    >>> w, state = sgdm_update(w, grad, sgdm_init(w), lr=0.5, axis=1)
    >>> w, w.sum()  # the sum of the weight vector is what it was
    (tensor([[0.0000, 1.5000, 4.5000]]), tensor(6.))

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), Algorithm 1.
    """
    checks.tensors(TORCH, w, grad, state, SGDMState)
    axis = checks.axis(axis, w.shape)
    numbers = checks.sgdm(
        lr=lr, momentum=momentum, dampening=dampening, nesterov=nesterov,
        weight_decay=weight_decay, decoupled=decoupled, gc_on=gc_on, framework=TORCH,
    )  # fmt: skip
    dtype = w.dtype
    w, g, m = widen(w), widen(grad), widen(state.momentum_buffer)
    lr, momentum, dampening, weight_decay = (scalar(number, like=w) for number in numbers)

    if given(weight_decay) and not decoupled:
        g = g + weight_decay * w
    if gc_on == "gradient":
        g = center(g, axis)

    m = momentum * m + (1 - dampening) * g
    d = g + momentum * m if nesterov else m

    if given(weight_decay) and decoupled:
        d = d + weight_decay * w
    if gc_on == "update":
        d = center(d, axis)
    w = w - lr * d

    return rounded(w, dtype), SGDMState(rounded(m, dtype))

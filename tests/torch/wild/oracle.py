"""What one step must do to one parameter by the rules of gc_core, and how its layer stores it by an own table."""

import math

import numpy as np
import torch
from torch import nn

import gc_core

# Of each layer: how the weight is seen, and its fan-in axes. Everything else of these layers is left alone.
VIEWS = {
    nn.Linear: lambda layer, shape: (shape, (1,)),
    nn.Conv2d: lambda layer, shape: (shape, (1, 2, 3)),
    nn.ConvTranspose1d: lambda layer, shape: (
        (shape, (0, 2)) if layer.groups == 1 else ((layer.groups, shape[0] // layer.groups, *shape[1:]), (1, 3))
    ),
    nn.Embedding: lambda layer, shape: (shape, None),
    nn.LayerNorm: lambda layer, shape: (shape, None),
}


def view(layers, name, shape):
    """How GC must see a parameter that these layers own, under this name in each."""
    if name != "weight":
        return shape, None
    seen = {VIEWS[type(layer)](layer, shape) for layer in layers}
    if len(seen) > 1:  # shared by layers that read it in different ways
        return shape, None
    ((seen_as, axes),) = seen
    if axes is None or math.prod(seen_as[axis] for axis in axes) == 1:
        return shape, None
    return seen_as, axes


def expected(kind, w, grad, state, group, seen, axes):
    """The weight and the states after a step, in float64."""
    seen = seen if axes is not None else w.shape
    gc_on = group["gc_on"]
    axis = None if gc_on is None else axes
    w, grad = w.reshape(seen), (-grad if group["maximize"] else grad).reshape(seen)
    state = {name: x.reshape(seen) if np.ndim(x) else x for name, x in state.items()}
    options = dict(lr=1.0, axis=axis, weight_decay=group["weight_decay"], gc_on=gc_on or "gradient")
    # A learning rate below 0, which a schedule may leave, is a step back: the rule itself is linear in it.
    if kind == "sgd":
        buffer = state.get("momentum_buffer")
        of_rule = gc_core.SGDMState(np.zeros_like(w) if buffer is None else buffer)
        after, now = gc_core.sgdm_update(
            w,
            grad,
            of_rule,
            momentum=group["momentum"],
            nesterov=group["nesterov"] and group["momentum"] > 0,
            **options,
        )
        states = {"momentum_buffer": now.momentum_buffer} if group["momentum"] else {}
    else:
        zeros = np.zeros_like(w)
        of_rule = gc_core.AdamState(
            int(state.get("step", 0)), state.get("exp_avg", zeros), state.get("exp_avg_sq", zeros), None
        )
        after, now = gc_core.adam_update(
            w, grad, of_rule, betas=tuple(group["betas"]), eps=group["eps"],
            decoupled=group["decoupled_weight_decay"], **options,
        )  # fmt: skip
        states = {"step": now.step, "exp_avg": now.exp_avg, "exp_avg_sq": now.exp_avg_sq}
    return w + group["lr"] * (after - w), states


def close(got, wanted, dtype):
    """Whether numbers of magnitude 10 at most, after some 30 roundings of this dtype, can be these."""
    unit = torch.finfo(dtype).eps
    return np.allclose(got, wanted.reshape(got.shape), rtol=0, atol=30 * 16 * unit, equal_nan=True)

"""pytorch_optimizer: `centralize_gradient`, and `AdamP(use_gc=True)` with its projection switched off (delta=0).

`centralize_gradient` subtracts, in place, the mean over all axes but the first from every tensor with two axes or more.
`AdamP` offers GC through `use_gc`. With delta=0 its projection never acts, and what is left is Adam, or with
`weight_decouple=True`, its default, AdamW.
"""

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import torch
from pytorch_optimizer import AdamP
from pytorch_optimizer.optimizer.gradient_centralization import centralize_gradient

from examples.ports.adapter import (
    BY_RANK,
    EPS,
    FAN_IN_ONE,
    HALF,
    NOT_WEIGHTS,
    OUT_LAST,
    STACKS,
    TRANSPOSED,
    first_is_output,
    only,
    stored_by,
)

name = "pytorch_optimizer"
packages = ("pytorch_optimizer", "torch")
dtypes = ("float32", "float64")
causes = {
    BY_RANK: (*NOT_WEIGHTS, "layers.attention_bias_kv", "layers.weight_norm_magnitude", "layers.orthogonal"),
    FAN_IN_ONE: ("layers.depthwise_1x1", "layers.linear_fan_in_one"),
    TRANSPOSED: ("layers.*conv_transpose*",),
    STACKS: ("layers.stacked_out_first", "layers.experts"),
    OUT_LAST: ("layers.linear_out_last*",),
    "With `weight_decouple=False` the decay is added to a gradient that has been used already: it has no effect.": (
        "optimizer.l2_decay",
    ),
    "GC and decay are applied to `p.grad` in place.": ("optimizer.grads_unchanged",),
    EPS: ("optimizer.*",),
}


def from_numpy(array):
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def to_numpy(tensor):
    if tensor.dtype == torch.bfloat16:
        return tensor.to(torch.float32).numpy().astype(ml_dtypes.bfloat16)
    return tensor.numpy()


def _own(grad):
    result = grad.clone()  # in place is how it is offered, and not what is judged here
    centralize_gradient(result, gc_conv_only=False)
    return result


def centralize(grad, axis):
    only(first_is_output(grad.shape), axis, grad.shape)
    return _own(grad)


def centralize_layer(kind, grad, *, stored, part="weight", groups=1, stack=None, tied=False):
    """The function sees tensors alone, whatever layer they belong to."""
    stored_by("torch", kind, stored, part, groups, stack)
    return _own(grad)


class _Steps:
    def __init__(self, params, **options):
        self._params = {name: torch.nn.Parameter(w.clone()) for name, w in params.items()}
        self._optimizer = AdamP(list(self._params.values()), use_gc=True, delta=0.0, **options)

    def step(self, grads):
        for name, parameter in self._params.items():
            parameter.grad = grads[name]
        self._optimizer.step()

    def params(self):
        return {name: parameter.detach().clone() for name, parameter in self._params.items()}


def optimizer(kind, params, axes, *, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, **others):
    if kind == "sgd" or others:
        raise NotImplementedError(f"{kind} with {', '.join(others) or 'GC'}")
    for parameter, w in params.items():
        only(first_is_output(w.shape), axes[parameter], w.shape)
    decouple = kind == "adamw"
    return _Steps(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, weight_decouple=decouple)


half = SimpleNamespace(
    name=f"{name}, half precision",
    packages=packages,
    dtypes=("float16", "bfloat16"),
    causes={HALF: ("operator.*", "numerics.*", "theory.*")},
    from_numpy=from_numpy,
    to_numpy=to_numpy,
    centralize=centralize,
)

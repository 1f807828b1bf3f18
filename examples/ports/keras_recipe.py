"""Keras: its published recipe. Every gradient with two axes or more loses its mean over all axes but the last.

The recipe ("Gradient Centralization for Better Training Performance", among Keras's code examples) subclasses an
optimizer. `rule` judges that rule, put where Keras 3 hands the gradients over, in `apply`. `override` does as the
recipe does, and puts it into an override of `get_gradients`. The recipe's optimizer is RMSprop; here SGD, Adam and
AdamW take its place. Keras runs on JAX.
"""

import os
from typing import ClassVar

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax.numpy as jnp
import keras
import numpy as np

from examples.ports.adapter import BY_RANK, EPS, FAN_IN_ONE, NOT_WEIGHTS, STACKS, last_is_output, only, stored_by

packages = ("keras", "jax")


def centralized(grad):
    if len(grad.shape) > 1:
        grad = grad - keras.ops.mean(grad, axis=list(range(len(grad.shape) - 1)), keepdims=True)
    return grad


def overriding(base):
    """The recipe: a subclass whose `get_gradients` centralizes what the base class returns."""

    class WithGC(base):
        def get_gradients(self, loss, params):
            return [centralized(grad) for grad in super().get_gradients(loss, params)]

    return WithGC


def applying(base):
    """The same rule where Keras 3 hands the gradients over."""

    class WithGC(base):
        def apply(self, grads, trainable_variables=None):
            super().apply([centralized(grad) for grad in grads], trainable_variables)

    return WithGC


class _Steps:
    def __init__(self, made, params):
        self._variables = {name: keras.Variable(w, name=name.replace(".", "_")) for name, w in params.items()}
        self._optimizer = made
        self._optimizer.build(list(self._variables.values()))

    def step(self, grads):
        self._optimizer.apply([grads[name] for name in self._variables], list(self._variables.values()))

    def params(self):
        return {name: variable.value for name, variable in self._variables.items()}


class _Keras:
    causes: ClassVar[dict[str, tuple[str, ...]]] = {
        "Keras 3 never calls `get_gradients`: no gradient is centralized.": ("optimizer.*",),
    }
    dtypes = ("float32",)
    from_numpy = staticmethod(jnp.asarray)
    to_numpy = staticmethod(np.asarray)

    def __init__(self, name, with_gc):
        self.name, self._with_gc = name, with_gc

    def optimizer(self, kind, params, axes, *, lr, **options):
        for parameter, w in params.items():
            only(last_is_output(w.shape), axes[parameter], w.shape)
        if kind == "sgd":
            momentum, nesterov = options.pop("momentum"), options.pop("nesterov", False)
            made = self._with_gc(keras.optimizers.SGD)(lr, momentum=momentum, nesterov=nesterov)
        else:
            (beta1, beta2), eps = options.pop("betas"), options.pop("eps")
            decay = {"weight_decay": options.pop("weight_decay", 0.0)} if kind == "adamw" else {}
            base = keras.optimizers.AdamW if kind == "adamw" else keras.optimizers.Adam
            made = self._with_gc(base)(lr, beta_1=beta1, beta_2=beta2, epsilon=eps, **decay)
        if options:
            raise NotImplementedError(f"{kind} with {', '.join(options)}")
        return _Steps(made, params)


class _Rule(_Keras):
    causes: ClassVar = {
        "The last axis is taken for the output, which in these layers it is not, or not alone.": (
            *("layers.conv_transpose_out_in", "layers.depthwise_out_last", "layers.attention_heads"),
        ),
        BY_RANK: (*NOT_WEIGHTS, "layers.bias_heads"),
        FAN_IN_ONE: ("layers.linear_out_last_fan_in_one",),
        STACKS: ("layers.stacked_*", "layers.experts"),
        EPS: ("optimizer.*",),
    }

    def centralize(self, grad, axis):
        only(last_is_output(grad.shape), axis, grad.shape)
        return centralized(grad)

    def centralize_layer(self, kind, grad, *, stored, part="weight", groups=1, stack=None, tied=False):
        """The recipe sees gradients alone, whatever layer they belong to."""
        stored_by("keras", kind, stored, part, groups, stack)
        return centralized(grad)


rule = _Rule("Keras recipe: the rule", applying)
override = _Keras("Keras recipe: the override of get_gradients", overriding)

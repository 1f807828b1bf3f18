"""What cannot be named in one line: GC as a piece that a user puts together, and rules that are functions.

Each builder imports its library when it is called, so that one missing library takes no other port away.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

HALF = ("float16", "bfloat16")


def torchzero_dim_0(params, gc: bool, lr: float = 0.125):
    """torchzero, put together as its docstring does."""
    import torchzero as tz

    return tz.Optimizer(params, *([tz.m.Centralize(dim=0)] if gc else []), tz.m.LR(lr))


def torchzero_all_but_0(params, gc: bool, lr: float = 0.125):
    """torchzero with the dimensions that PyTorch's weights have for their fan-in."""
    import torchzero as tz

    return tz.Optimizer(params, *([tz.m.Centralize(dim=0, inverse_dims=True)] if gc else []), tz.m.LR(lr))


def keras_recipe(gc: bool, in_apply: bool, learning_rate: float = 0.125, momentum: float = 0.875):
    """The recipe's rule in a subclass of Keras's SGD: in `get_gradients`, or where Keras 3 hands gradients over."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    ops: Any = keras.ops  # pyright: ignore[reportAttributeAccessIssue]

    def centralized(grad):
        return grad - ops.mean(grad, axis=list(range(len(grad.shape) - 1)), keepdims=True)

    def every(grads):
        return [centralized(grad) if len(grad.shape) > 1 else grad for grad in grads]

    class InGetGradients(keras.optimizers.SGD):
        def get_gradients(self, loss, params):
            return every(super().get_gradients(loss, params))  # type: ignore[misc]

    class InApply(keras.optimizers.SGD):
        def apply(self, grads, trainable_variables=None):
            super().apply(every(grads), trainable_variables)

    with_gc = InApply if in_apply else InGetGradients
    return (with_gc if gc else keras.optimizers.SGD)(learning_rate, momentum=momentum)


keras_rule = partial(keras_recipe, in_apply=True)
keras_override = partial(keras_recipe, in_apply=False)


def gctf_sgd(gc: bool, learning_rate: float = 0.125, momentum: float = 0.875):
    """gradient-centralization-tf's SGD, and Keras's own where GC is off."""
    import keras
    from gctf import optimizers  # pyright: ignore[reportMissingImports]

    with_gc, off = optimizers.sgd, keras.optimizers.SGD
    return (with_gc if gc else off)(learning_rate=learning_rate, momentum=momentum)


def _keras(made, backend: str):
    def port():
        os.environ["KERAS_BACKEND"] = backend
        from gc_conformance.ports.keras import optimizer

        return optimizer(made, "gc")

    return port


def _chain(name: str):
    def made():
        import optax

        from gc_conformance.ports.optax import in_front

        return in_front(optax.centralize, getattr(optax, name), learning_rate=0.125)

    return made


def _optax_function(dtypes: tuple[str, ...]):
    def made():
        import jax
        import optax

        from gc_conformance.ports.jax import function

        jax.config.update("jax_enable_x64", True)
        tx = optax.centralize()
        return function(lambda g: tx.update(g, tx.init(g))[0], dtypes=dtypes, layout="out_first")

    return made


def _pytorch_optimizer_function(dtypes: tuple[str, ...]):
    def made():
        from pytorch_optimizer.optimizer.gradient_centralization import centralize_gradient

        from gc_conformance.ports.torch import function

        return function(partial(centralize_gradient, gc_conv_only=False), dtypes=dtypes)

    return made


def _stated_again(least: int, taken: Callable[[tuple[int, ...]], bool] = lambda shape: True):
    """A rule of a repository or of a framework's kernel for one device, stated again in NumPy."""

    def rule(grad):
        with np.errstate(all="ignore"):
            axes = tuple(range(1, grad.ndim))
            return grad - grad.mean(axes, keepdims=True) if grad.ndim >= least and taken(grad.shape) else grad

    def made():
        from gc_conformance.ports.function import Function

        arrays = SimpleNamespace(from_numpy=np.array, to_numpy=np.asarray, copy=np.copy)
        asked: dict[str, Any] = {"name": "", "framework": "torch", "layout": "out_first", "least": least}
        return Function(rule, dtypes=("float32", "float64"), arrays=arrays, **asked)

    return made


keras_rule_port, keras_override_port = _keras(keras_rule, "jax"), _keras(keras_override, "jax")
gctf_port = _keras(gctf_sgd, "tensorflow")
optax_chain_adam, optax_chain_sgd = _chain("adam"), _chain("sgd")
optax_function, optax_function_half = _optax_function(("float32", "float64")), _optax_function(HALF)
pytorch_optimizer_function = _pytorch_optimizer_function(("float32", "float64"))
pytorch_optimizer_function_half = _pytorch_optimizer_function(HALF)
authors_rule_all, authors_rule_convolutions = _stated_again(2), _stated_again(4)
mxnet_rule = _stated_again(4)
mindspore_rule = _stated_again(2, lambda shape: shape[1] % 16 == 0)


def by_class(params, gc: bool, file: str, on: str, off: Any, lr: float = 0.125, **options):
    """An optimizer for which GC is another class, in a file of a cloned repository."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(f"cloned_{on}", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return (getattr(module, on) if gc else off)(params, lr=lr, **options)

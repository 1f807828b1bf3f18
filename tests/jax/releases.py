"""What the tests use of JAX, Optax and Flax, by the names that it has in the release at hand."""

import inspect

import equinox as eqx
import jax
import optax
from flax import nnx

if hasattr(jax, "enable_x64"):  # since JAX 0.8
    enable_x64 = jax.enable_x64
else:
    from jax.experimental import enable_x64  # noqa: F401

tree_get = optax.tree.get if hasattr(optax, "tree") else optax.tree_utils.tree_get  # since Optax 0.2.5
nnx_list = getattr(nnx, "List", list)  # since Flax 0.12
nnx_prelu = getattr(nnx, "PReLU", lambda: None)  # since Flax 0.10.5
NNX_HAS_WEIGHT_NORM = hasattr(nnx, "WeightNorm")  # since Flax 0.10.5
EMA = {"mode": "ema"} if "mode" in inspect.signature(eqx.nn.BatchNorm).parameters else {}


def update(optimizer, model, grads):
    """A step of `nnx.Optimizer`, which takes the model since Flax 0.11."""
    if "model" in inspect.signature(optimizer.update).parameters:
        optimizer.update(model, grads)
    else:
        optimizer.update(grads)

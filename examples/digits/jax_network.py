"""The network in JAX, differentiated by jax.value_and_grad; the whole training step is compiled."""

import jax
import jax.numpy as jnp

import gc_jax as gct

# Without it JAX makes float32 of everything, and no curve could be compared with the other backends' to rounding.
jax.config.update("jax_enable_x64", True)

# W is (in, out), as a Flax Dense kernel: GC takes the mean of a column, along axis 0.
LAYOUT = "out_last"


def logits(params, x):
    """Outputs of the last layer for every row of x."""
    hidden = jax.nn.relu(x @ params["W1"] + params["b1"])
    hidden = jax.nn.relu(hidden @ params["W2"] + params["b2"])
    return hidden @ params["W3"] + params["b3"]


def loss_and_grads(params, x, y):
    """Mean cross-entropy of a batch, and its gradient for every parameter by name."""
    return jax.value_and_grad(lambda params: -jnp.mean(jnp.sum(y * jax.nn.log_softmax(logits(params, x)), 1)))(params)


compiled = jax.jit

__all__ = ["LAYOUT", "compiled", "gct", "logits", "loss_and_grads"]

"""Optax: `optax.centralize`. Every array with two axes or more loses its mean over all axes but the first."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.ports.adapter import BY_RANK, FAN_IN_ONE, HALF, NOT_WEIGHTS, STACKS, first_is_output, only, stored_by

jax.config.update("jax_enable_x64", True)

name = "optax.centralize"
packages = ("optax", "jax")
dtypes = ("float32", "float64")
causes = {
    "The first axis is taken for the output, which in Flax, Keras and Haiku is the last, or the last but one.": (
        *("layers.*_out_last", "layers.linear_out_last_fan_in_one", "layers.conv_transpose_out_in"),
        *("layers.attention_heads", "layers.attention_out_heads"),
    ),
    BY_RANK: (*NOT_WEIGHTS, "layers.bias_heads"),
    FAN_IN_ONE: ("layers.depthwise_1x1", "layers.linear_fan_in_one"),
    STACKS: ("layers.stacked_*", "layers.experts"),
}

from_numpy = jnp.asarray
to_numpy = np.asarray


def _own(grad):
    transformation = optax.centralize()
    return transformation.update(grad, transformation.init(grad))[0]


def centralize(grad, axis):
    only(first_is_output(grad.shape), axis, grad.shape)
    return _own(grad)


def centralize_layer(kind, grad, *, stored, part="weight", groups=1, stack=None, tied=False):
    """The transformation sees arrays alone, whatever layer they belong to, and whether it is Flax's or Equinox's."""
    stored_by("jax", kind, stored, part, groups, stack)
    return _own(grad)


half = SimpleNamespace(
    name=f"{name}, half precision",
    packages=packages,
    dtypes=("float16", "bfloat16"),
    causes={HALF: ("operator.*", "numerics.*", "theory.*")},
    from_numpy=from_numpy,
    to_numpy=to_numpy,
    centralize=centralize,
)

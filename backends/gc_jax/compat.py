"""What differs between releases of JAX, Optax and Keras, and every private name of them, each with a way without.

Each entry says from which release on it can go. The oldest releases are those of `gc_core.versions`.
"""

import inspect
from collections.abc import Iterator
from typing import Any

from gc_core import versions

versions.require("gc_jax", "jax")  # before anything else of them is looked for
versions.require("gc_jax", "optax")

import jax  # noqa: E402
import optax  # noqa: E402

# From Optax 0.2.5 on the pages `optax.tree`; before it the same functions, with a prefix.
if hasattr(optax, "tree"):
    update_moment: Any = optax.tree.update_moment
    update_moment_per_elem_norm: Any = optax.tree.update_moment_per_elem_norm
else:
    update_moment = optax.tree_utils.tree_update_moment
    update_moment_per_elem_norm = optax.tree_utils.tree_update_moment_per_elem_norm


def decay_can_be_scheduled() -> bool:
    """Whether `optax.add_decayed_weights` takes a schedule, for which it keeps a count. Can go with Optax 0.2.4."""
    return optax.add_decayed_weights(lambda count: 0.0).init({}) != optax.EmptyState()


# Can go with JAX 0.5.0, whose keystr has no choice of form.
_SIMPLE = "simple" in inspect.signature(jax.tree_util.keystr).parameters


def keystr(path: tuple[Any, ...], separator: str) -> str:
    """`jax.tree_util.keystr` in its simple form: names, keys and numbers with the separator between them."""
    if _SIMPLE:
        return jax.tree_util.keystr(path, simple=True, separator=separator)
    return separator.join(str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path)


def keras_layers(model: Any) -> Iterator[Any]:
    """All layers of a Keras model, an inner one after the one that holds it.

    Stays: `_flatten_layers` is private to Keras, but the one way to reach the layers inside of a layer (an RNN's cell,
    attention's projections). Without it, those that `layers` lists: weights further inside then belong to the layer
    around them, and are left alone where its kind does not say what they are.
    """
    if hasattr(model, "_flatten_layers"):
        yield from model._flatten_layers()
        return
    yield model
    for layer in getattr(model, "layers", ()):
        yield from keras_layers(layer)

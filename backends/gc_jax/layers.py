"""Which layer of Flax (Linen and NNX), Equinox or Keras a module is, and what that stores.

A class counts where its library defines it, and in classes derived from it: a class of your own may bear the same name.
The libraries are known by their names and never imported, so a plan needs none that the model does not.
"""

from collections.abc import Iterator
from typing import Any

from gc_core.reasons import Why
from gc_jax.layers_equinox import EQUINOX
from gc_jax.layers_flax import LINEN, NNX
from gc_jax.layers_keras import KERAS
from gc_jax.weight import Stored, Weight

_BASES = {
    "linen": ("flax.linen.", "Module"),
    "nnx": ("flax.nnx.", "Module"),
    "equinox": ("equinox.", "Module"),
    "keras": ("keras.", "Layer"),
}
_TABLES = {"linen": LINEN, "nnx": NNX, "equinox": EQUINOX, "keras": KERAS}

# How each library's layers store their weights, for a parameter that is of no layer of its own.
LAYOUTS = {"linen": "out_last", "nnx": "out_last", "equinox": "out_first", "keras": "out_last"}


def library(module: Any) -> str | None:
    """The library that an object is a module of: "linen", "nnx", "equinox", "keras"; None for anything else."""
    for name, (_, base) in _BASES.items():
        if base in _defined_by(module, name):
            return name
    return None


def is_a(module: Any, library: str, *names: str) -> bool:
    """Whether a module is of one of these classes of a library, or of one derived from it."""
    return not set(names).isdisjoint(_defined_by(module, library))


def what_is(layer: Any, leaf: str) -> tuple[str, Weight | Why | None]:
    """The name of the layer's class, and what its parameter is by the library; None if the library does not say."""
    stored = _table(layer)
    try:
        what = stored(layer, leaf) if stored else None
    except (AttributeError, TypeError):  # a class of the user's own, which sets other attributes than its base
        what = None
    return type(layer).__name__ if what is not None else "", what


def knows(layer: Any) -> bool:
    """Whether a library defines this layer."""
    return _table(layer) is not None


def _table(layer: Any) -> Stored | None:
    name = library(layer)
    table = _TABLES[name] if name else {}
    return next((table[cls] for cls in _defined_by(layer, name or "") if cls in table), None)


def _defined_by(module: Any, library: str) -> Iterator[str]:
    """The names of those of the module's classes that this library defines, the most derived first."""
    prefix, _ = _BASES.get(library, ("", ""))
    return (cls.__name__ for cls in type(module).__mro__ if prefix and f"{cls.__module__}.".startswith(prefix))

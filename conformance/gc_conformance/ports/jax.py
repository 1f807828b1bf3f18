"""JAX: a function on arrays as a port."""

from __future__ import annotations

import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .function import Function

from_numpy = jnp.asarray
to_numpy = np.asarray


def copy(array: jax.Array) -> jax.Array:
    return array


def own_dtypes() -> tuple[str, ...]:
    """float64 is JAX's only where `jax_enable_x64` says so."""
    return ("float32", "float64") if jax.config.read("jax_enable_x64") else ("float32",)


def function(
    made: Callable,
    *,
    name: str = "",
    dtypes: tuple[str, ...] | None = None,
    layout: str = "out_last",
    least: int = 2,
) -> Function:
    """A function of a gradient that averages over all axes but the output's, as a port.

    Args:
        made: takes a JAX array and returns one.
        dtypes: that it claims; float32, and float64 if JAX has it switched on.
        layout: "out_first" or "out_last", which axis it takes for the output.
        least: the dimensions below which it leaves arrays alone.
    """
    arrays = sys.modules[__name__]
    claimed = dtypes or own_dtypes()
    return Function(made, name=name, dtypes=claimed, framework="jax", layout=layout, least=least, arrays=arrays)

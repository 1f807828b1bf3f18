"""Gradient Centralization for JAX: the functions of gc_core for JAX arrays, and Optax transformations.

The update functions stand in `operator`, `sgdm` and `adam`, as in gc_core; `transform` has the drop-ins for Optax, and
`plan` says which axes of a model's parameters they act on (`layers` has what each library's layers store).
"""

from typing import Any

from gc_core import __version__
from gc_core.adam import AdamState
from gc_core.layouts import View, fan_in_axes
from gc_core.plan import Plan, Row
from gc_core.reasons import GCWarning
from gc_core.sgdm import SGDMState
from gc_jax import compat  # noqa: F401  first: it says which JAX is needed

# isort: split
from gc_jax import arrays
from gc_jax.adam import adam_init, adam_update
from gc_jax.arrays import from_numpy, to_numpy
from gc_jax.low_precision import KahanState, StochasticState
from gc_jax.operator import centralize
from gc_jax.plan import plan
from gc_jax.sgdm import sgdm_init, sgdm_update
from gc_jax.transform import adam, adamw, centralize_gradients, sgd

__all__ = [
    "AdamState",
    "GCWarning",
    "KahanState",
    "Plan",
    "Row",
    "SGDMState",
    "StochasticState",
    "View",
    "__version__",
    "adam",
    "adam_init",
    "adam_update",
    "adamw",
    "centralize",
    "centralize_gradients",
    "fan_in_axes",
    "from_numpy",
    "plan",
    "sgd",
    "sgdm_init",
    "sgdm_update",
    "to_numpy",
]


def __getattr__(name: str) -> Any:
    # The conformance suite reads this; it changes with jax_enable_x64.
    if name == "dtypes":
        return arrays.dtypes()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

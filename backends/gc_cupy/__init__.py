"""Gradient Centralization for CuPy: the functions and optimizers of gc_core for CuPy arrays, with CUDA kernels.

Read in this order: `operator`, `sgdm` and `adam` (the updates, as in gc_core), `optimizer` (the updates in place, over
a dict of arrays), `kernels` (how an array of any shape reaches a kernel), `kernels.cu` (what the kernels compute).
"""

from gc_core import __version__
from gc_core.adam import AdamState
from gc_core.layouts import View, fan_in_axes
from gc_core.plan import Plan, Row
from gc_core.sgdm import SGDMState
from gc_cupy import compat  # noqa: F401  first: it says which CuPy is needed
from gc_cupy.adam import adam_init, adam_update
from gc_cupy.arrays import from_numpy, to_numpy
from gc_cupy.operator import centralize
from gc_cupy.optimizer import SGD, Adam, AdamW
from gc_cupy.sgdm import sgdm_init, sgdm_update

__all__ = [
    "SGD",
    "Adam",
    "AdamState",
    "AdamW",
    "Plan",
    "Row",
    "SGDMState",
    "View",
    "__version__",
    "adam_init",
    "adam_update",
    "centralize",
    "fan_in_axes",
    "from_numpy",
    "sgdm_init",
    "sgdm_update",
    "to_numpy",
]

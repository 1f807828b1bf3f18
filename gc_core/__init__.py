"""Gradient Centralization in NumPy: the definition that every backend is held to.

Read in this order: `operator` (what is subtracted), `sgdm` and `adam` (the updates), `optimizer` (the updates over a
dict of arrays), `low_precision` (weights in 16 bits), `theory` (each statement of the paper, to try). The rules that
all packages share stand in `layouts` (which axes), `plan` (what is done to each parameter of a model), `reasons` (why)
and `checks` (arguments and their errors).
"""

from gc_core import low_precision, theory
from gc_core.adam import AdamState, adam_init, adam_update
from gc_core.arrays import from_numpy, to_numpy
from gc_core.layouts import View, fan_in_axes
from gc_core.operator import centralize, projection_matrix
from gc_core.optimizer import SGD, Adam, AdamW
from gc_core.plan import Plan, Row
from gc_core.reasons import GCWarning, Reason, Verification, Why
from gc_core.sgdm import SGDMState, sgdm_init, sgdm_update

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adam",
    "AdamState",
    "AdamW",
    "GCWarning",
    "Plan",
    "Verification",
    "Reason",
    "Row",
    "SGDMState",
    "View",
    "Why",
    "adam_init",
    "adam_update",
    "centralize",
    "fan_in_axes",
    "from_numpy",
    "low_precision",
    "projection_matrix",
    "sgdm_init",
    "sgdm_update",
    "theory",
    "to_numpy",
]

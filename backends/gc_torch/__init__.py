"""Gradient Centralization for PyTorch, under the names that `gc_core` has.

`SGD`, `Adam` and `AdamW` replace those of `torch.optim` (module `optimizer`); `plan` says what they will do to a model
(module `plan`). The updates as pure functions, for reading and for optimizers of your own: `operator`, `sgdm`, `adam`.
"""

from gc_core import (
    AdamState,
    GCWarning,
    Plan,
    Reason,
    Row,
    SGDMState,
    Verification,
    View,
    Why,
    __version__,
    fan_in_axes,
)
from gc_torch import compat  # noqa: F401  first: it says which PyTorch is needed
from gc_torch.adam import adam_init, adam_update
from gc_torch.arrays import from_numpy, to_numpy
from gc_torch.attach import Attachment, attach
from gc_torch.in_backward import StepInBackward, step_in_backward
from gc_torch.low_rank import center_low_rank
from gc_torch.operator import centralize
from gc_torch.optimizer import SGD, Adam, AdamW
from gc_torch.plan import ModelPlan, param_groups, plan
from gc_torch.report import Recorder, Report, ReportRow, report
from gc_torch.sgdm import sgdm_init, sgdm_update

__all__ = [
    "SGD",
    "Adam",
    "AdamState",
    "AdamW",
    "Attachment",
    "GCWarning",
    "ModelPlan",
    "Plan",
    "Verification",
    "Reason",
    "Recorder",
    "Report",
    "ReportRow",
    "Row",
    "SGDMState",
    "StepInBackward",
    "View",
    "Why",
    "__version__",
    "adam_init",
    "adam_update",
    "attach",
    "center_low_rank",
    "centralize",
    "fan_in_axes",
    "from_numpy",
    "param_groups",
    "plan",
    "report",
    "sgdm_init",
    "sgdm_update",
    "step_in_backward",
    "to_numpy",
]

"""The plan of a PyTorch model: which layer each parameter belongs to, and so what GC does to it."""

import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from gc_core import left_out
from gc_core.layouts import View
from gc_core.plan import Overrides, Plan
from gc_core.reasons import GCWarning, Reason, Verification, Why, reason_of
from gc_core.uses import decided
from gc_torch.layers import view_of
from gc_torch.model_plan import ModelPlan, one_module, plan_by_layers
from gc_torch.program import Batch, example, read
from gc_torch.tree import views
from gc_torch.verify import verify as verified

__all__ = ["ModelPlan", "param_groups", "plan", "plan_by_layers", "view_of", "views", "warn_if_left_out"]


def plan(
    model: "nn.Module | Sequence[nn.Module]",
    overrides: Overrides | None = None,
    *,
    batch: Batch | None = None,
    verify: Batch | None = None,
) -> ModelPlan:
    """What GC will do to each parameter of a model: a table to read before training.

    With a batch it is read from the program: the fan-in axes of a parameter are those that the operations sum over in
    which it meets the data. The model runs on fake tensors for it: nothing is computed, and it is not changed. Without
    a batch, layers of PyTorch (and their subclasses) and some of other libraries are known by their class; any other
    parameter is left alone, and its row says so. Of a parameter that several modules share, GC applies only where all
    of them would read it alike; never where one is an embedding.

    Args:
        model: any module; or a list of modules, whose names then begin with their places in it. It is not changed.
        overrides: name pattern (`*`, `?`, `[…]` as in file names) -> fan-in axes of the stored shape, a
            `View`, or None to leave the gradient alone. The last pattern that matches a name wins.
        batch: from which to read the plan: a tensor, a tuple of the model's arguments, a mapping of its keyword
            arguments, or a function that runs the model it is given. One short sample is enough, of which only shapes
            count. What it does not reach is known by its layers alone, and the row says so. Where the model cannot run
            without values, it runs once really, in eval mode, with a warning.
        verify: such a batch on which to verify the plan by numbers. For each centralized parameter, some
            weights are tried in the operations that it goes into: the weights with which they share an output must be
            exactly their weight vector. `Row.verification` says what was seen, also of parameters of unknown modules:
            candidates, with the override to write. What the batch does not reach is never called verified. The model
            runs once, in eval mode; it, its buffers and all random number generators are left as they were.

    Raises:
        TypeError: model is not a module, or an override or the batch of the wrong type.
        ValueError: a lazy layer has no shapes yet, a pattern matches no parameter, axes do not fit, or what the model
            does is not what the plan says: with every row that is wrong, what was seen, and the override that is right.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ConvTranspose2d(8, 6, 2, groups=2, bias=False))
    >>> for row in plan(model).rows:
    ...     print(row.name, row.shape, row.view, row.axes, row.why, sep="; ")
    0.weight; (8, 3, 5, 5); (8, 3, 5, 5); (1, 2, 3); Conv2d, stored (out, in, k, k)
    0.bias; (8,); (8,); None; bias
    1.weight; (8, 3, 2, 2); (2, 4, 3, 2, 2); (1, 3, 4); ConvTranspose2d, stored (in, out/2, k, k), 2 groups
    >>> import torch
    >>> class Mix(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.mix = nn.Parameter(torch.randn(8, 6))
    ...     def forward(self, x):
    ...         return x @ self.mix
    >>> row = plan(Mix(), batch=torch.ones(1, 8))["mix"]
    >>> row.axes, row.why
    ((0,), 'read from the program: mm sums over it')
    >>> layer, batch = nn.Linear(8, 3), torch.ones(1, 8)
    >>> plan(layer, verify=batch)["weight"].verification
    'verified'
    >>> plan(layer, overrides={"weight": 0}, verify=batch)
    Traceback (most recent call last):
        ...
    ValueError: the plan is not what the model does with this batch:
    - weight: the plan says axis 0 (3), but an output sums over axis 1 (8): overrides={'weight': 1}

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), section 3.1, for what a weight vector is.
    """
    made = quiet_plan(model, overrides, batch=batch, verify=verify)
    warn_if_left_out(made, stacklevel=3)
    return made


def quiet_plan(
    model: "nn.Module | Sequence[nn.Module]",
    overrides: Overrides | None = None,
    *,
    batch: Batch | None = None,
    verify: Batch | None = None,
) -> ModelPlan:
    """The same, without a word of what is left out."""
    made, root = plan_by_layers(model), one_module(model)
    if batch is None:
        batch = example(root)  # an exported program has its own
    if batch is not None:
        made = _by_program(made, root, batch)
    made = made.override(overrides)
    return made if verify is None else made.with_rows(verified(root, made.rows, made.parameters, verify))


def _by_program(made: ModelPlan, root: nn.Module, batch: Batch) -> ModelPlan:
    known = {row.name: View(row.view, row.axes, row.why) for row in made.rows}
    found = read(root, made.parameters, known, batch, stacklevel=5)
    rows, contradicted = [], []
    for row in made.rows:
        view, contradicts = decided(known[row.name], found[row.name])
        rows.append(
            row._replace(
                view=view.shape,
                axes=view.axes,
                why=view.why,
                verification=Why(Verification.NOT_REACHED if found[row.name] is None else Verification.READ),
            )
        )
        if contradicts:
            contradicted.append(
                f"{row.name}: its layer says {row.mean_over} ({row.why}), the program {rows[-1].mean_over}"
            )
    if contradicted:
        warnings.warn(
            "what the model does with the batch is not what its layers say, and counts: "
            + "; ".join(contradicted[:5])
            + (f"; and {len(contradicted) - 5} more" if len(contradicted) > 5 else ""),
            GCWarning,
            stacklevel=5,
        )
    return made.with_rows(rows)


def warn_if_left_out(plan: Plan, *, stacklevel: int = 2) -> None:
    """One `GCWarning` where nothing that trains is centralized, or unknown parameters hold over a tenth of it.

    Args:
        plan: any plan.
        stacklevel: as of `warnings.warn`: 2 is the caller of this function.
    """
    left_out.warn_if_left_out(plan, "gc_torch.plan(model, batch=…)", stacklevel=stacklevel + 1)


_NOT_DECAYED = {
    Reason.BIAS, Reason.NORM, Reason.EMBEDDING, Reason.POSITION, Reason.TOKEN, Reason.RELATIVE_POSITION,
    Reason.BIAS_KV, Reason.LAYER_SCALE, Reason.SCALE, Reason.ACTIVATION, Reason.MAGNITUDE, Reason.SHARED_TABLE,
    Reason.TIED_TABLE,
}  # fmt: skip


def param_groups(model: nn.Module, *, weight_decay: float = 1e-2) -> list[dict[str, Any]]:
    """Two parameter groups: weights, with weight decay; biases, norms, embeddings and the like, without.

    Decayed is every parameter of two or more dimensions that is neither a bias (of any rank), the scale or shift of a
    normalization or of anything else, an embedding (tied to a head or not), a position embedding, a token, nor the
    magnitude of weight normalization. What is not decayed and what is not centralized differ: a depthwise 1×1
    convolution is decayed, and not centralized. As with any groups, a checkpoint is loaded into an optimizer with the
    same ones.

    Args:
        model: any module.
        weight_decay: of the first group.

    Returns:
        Two dicts with "params" and "weight_decay", for any optimizer.

    Raises:
        TypeError, ValueError: as `plan`.

    >>> [len(group["params"]) for group in param_groups(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)))]
    [1, 3]
    """
    made = plan_by_layers(model)
    decayed, rest = [], []
    for parameter in one_module(model).parameters():
        row = made.row_of(parameter)
        without = parameter.ndim < 2 or (row is not None and reason_of(row.why) in _NOT_DECAYED)
        (rest if without else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]

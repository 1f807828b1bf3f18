"""GC in front of any optimizer: what it reads as gradients has been centralized."""

from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import nn

from gc_core.plan import Overrides
from gc_torch.attach_backward import InBackward
from gc_torch.attach_step import AtStep
from gc_torch.model_plan import ModelPlan
from gc_torch.plan import quiet_plan, warn_if_left_out
from gc_torch.step import CentralizingOptimizer

PLACES = ("step", "backward")

# What GC stands in front of already.
_optimizers: WeakKeyDictionary[torch.optim.Optimizer, "Attachment"] = WeakKeyDictionary()


class Attachment:
    """GC in front of an optimizer, until `remove()`; made by `attach`.

    Printing it tells how many parameters are centralized now; `plan` says what is done to each parameter of the model.
    """

    def __init__(self, plan: ModelPlan, hooks: AtStep | InBackward):
        self._plan, self._hooks, self._removed = plan, hooks, False

    @property
    def plan(self) -> ModelPlan:
        """The plan of the model as it is now."""
        return self._plan.again()

    def remove(self) -> None:
        """Undo `attach`: from now on gradients are what backward made of them. A second time does nothing."""
        if not self._removed:
            self._hooks.remove()
            self._removed = True
        for key in [key for key, one in _optimizers.items() if one is self]:
            del _optimizers[key]

    def __repr__(self) -> str:
        return f"removed: {self._hooks}" if self._removed else str(self._hooks)


def attach(
    optimizer: torch.optim.Optimizer | None,
    model: nn.Module,
    overrides: Overrides | None = None,
    *,
    plan: ModelPlan | None = None,
    where: Literal["step", "backward"] = "step",
) -> Attachment:
    """Put GC in front of any optimizer: it then reads Φ(g) where it read g, and does with it what it does.

    Formula, with the optimizer's own rule, its decay included, as step::

        w ← step(w, Φ(grad))

    Φ comes before everything that the optimizer does itself. Decay, of either kind, is not centralized: the mean of a
    weight vector shrinks by it (by 1 − ηλ a step with SGD), and without decay stays under every rule whose step is
    linear in its gradients. (`gc_torch.SGD` and `gc_torch.Adam` centralize L2 decay as well; `gc_on="update"` of the
    functions and optimizers centralizes the whole step. `attach` does not support that.)

    Args:
        optimizer: any torch.optim.Optimizer but those of gc_torch, which do GC themselves. With where="backward" it may
            be None.
        model: whose plan is made.
        overrides: as for `plan`.
        plan: a plan of the model made before, instead of overrides.
        where: "step": when `step` is called, and each time that a closure which it calls has computed gradients (LBFGS,
            sharpness-aware steps), `p.grad` is changed in place; so it is by methods of the optimizer that are a step
            of its own (`first_step`, `second_step`). Clipping and unscaling done before see the gradient before GC.
            "backward": during backward, on each gradient before it is added to `p.grad`. Clipping sees it after GC. For
            engines that flatten or partition gradients (FSDP1, ZeRO): attach before the model is wrapped. GC is linear,
            so that it commutes with accumulation, with averaging over workers, and with loss scaling.

    Returns:
        What can be removed again, with `remove()`. A state_dict is that of the optimizer alone. Copies of the optimizer
        (deepcopy, pickle) have no hooks, as always in PyTorch: attach to the copy.

    Raises:
        TypeError: an argument has the wrong type; the optimizer runs no step hooks.
        ValueError: it is an optimizer of gc_torch; GC is attached already; there is nothing to centralize; the
            optimizer has none of the model's parameters; an unknown `where`; errors of `plan`.
        During `step`, TypeError: a gradient is sparse; then no gradient has changed.

    >>> layer = nn.Linear(3, 1, bias=False)
    >>> _ = nn.init.constant_(layer.weight, 1.0)
    >>> optimizer = torch.optim.RMSprop(layer.parameters(), lr=0.5)
    >>> attached = attach(optimizer, layer)
    >>> attached
    GC in front of RMSprop: 1 of its 1 parameters, in step()
    >>> layer.weight.grad = torch.tensor([[3.0, 0.0, 0.0]])
    >>> optimizer.step()
    >>> layer.weight.grad
    tensor([[ 2., -1., -1.]])
    >>> attached.remove()

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), section 3.2: GC can be embedded into any optimizer
    by centralizing the gradient first.
    """
    _check(optimizer, model, plan, overrides, where)
    if plan is None:
        plan = quiet_plan(model, overrides)
        if any(row.axes is not None for row in plan.rows):  # else it is an error, below
            warn_if_left_out(plan, stacklevel=3)
    hooks: AtStep | InBackward
    if where == "backward":
        hooks = InBackward(model, plan)
    else:
        assert optimizer is not None
        hooks = AtStep(optimizer, plan)
    made = Attachment(plan, hooks)
    if optimizer is not None:
        _optimizers[optimizer] = made
    return made


def attached_at_step(optimizer: torch.optim.Optimizer) -> bool:
    """Whether GC stands in front of the step of an optimizer."""
    return optimizer in _optimizers and isinstance(_optimizers[optimizer]._hooks, AtStep)


def _check(optimizer: Any, model: Any, plan: Any, overrides: Any, where: Any) -> None:
    if not isinstance(where, str) or where not in PLACES:
        kind = ValueError if isinstance(where, str) else TypeError
        raise kind(f"where must be one of {', '.join(map(repr, PLACES))}; got {where!r}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__qualname__}")
    if plan is not None and not isinstance(plan, ModelPlan):
        raise TypeError(f"plan must be what gc_torch.plan(model) gives, or None; got {type(plan).__qualname__}")
    if plan is not None and overrides is not None:
        raise TypeError("give overrides to the plan that you give: plan=gc_torch.plan(model, overrides)")
    if optimizer is None and where == "backward":
        return
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer; got {type(optimizer).__qualname__}")
    name = type(optimizer).__name__
    if isinstance(optimizer, CentralizingOptimizer):
        raise ValueError(
            f"gc_torch.{name} centralizes by itself, and would do so twice: give it the plan, {name}(model, plan=…), "
            f"or attach to torch.optim.{name}"
        )
    if optimizer in _optimizers:
        raise ValueError(f"GC is attached already ({_optimizers[optimizer]}): remove() that first")
    if where == "step" and hasattr(optimizer, "_in_backward"):
        raise ValueError(
            f"{name} steps in backward, where no step() is called that GC could stand in front of: attach with "
            'where="backward"'
        )
    if where == "step" and not (
        hasattr(optimizer, "_optimizer_step_pre_hooks") and getattr(type(optimizer).step, "hooked", False)
    ):
        raise TypeError(
            f"{name} runs no step hooks: if it wraps another optimizer, attach to that one; if not, attach with "
            'where="backward"'
        )

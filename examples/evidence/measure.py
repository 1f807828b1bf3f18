"""What is looked at while a network trains: gradients before and after Φ, layer by layer, and the loss along them."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gc_torch as gct

ALONG = (0.05, 0.1, 0.2, 0.4)  # how far the loss is followed along the gradient: ½ to 4 times a learning rate of 0.1


class Seen:
    """A list of numbers for each thing that is looked at; `look` adds one to each."""

    def __init__(self, model: nn.Module, plan: gct.ModelPlan, gc: str):
        # What GC would do to all layers, also where it is not on.
        self.model, self.all, self.used, self.gc = model, gct.plan(model), plan, gc
        self.centralized = {row.name: row.axes for row in self.all.rows if row.axes is not None}
        self.start = {name: self.means(name) for name in self.centralized}
        self.found: dict[str, Any] = {
            "moments": [], "watched_accuracy": [], "watched_loss": [], "gradient_norm": [], "gradient_largest": [],
            "used_norm": [], "along": [], "share": {name.removesuffix(".weight"): [] for name in self.centralized},
            "drift": {name.removesuffix(".weight"): [] for name in self.centralized},
        }  # fmt: skip

    def means(self, name: str) -> Tensor:
        """The mean of each weight vector of a layer."""
        return self.model.get_parameter(name).detach().mean(self.centralized[name])

    def look(self, step: int, x: Tensor, y: Tensor, scores: dict[str, float]) -> None:
        """Before a step, when the gradients of this batch are there. Nothing is changed."""
        found, report = self.found, gct.report(self.model, plan=self.all)
        found["moments"].append(step)
        found["watched_accuracy"].append(scores["accuracy"])
        found["watched_loss"].append(scores["loss"])
        total = report.total
        found["gradient_norm"].append(total.norm)
        found["gradient_largest"].append(total.largest)
        used = self.directions()
        found["used_norm"].append(float(torch.stack([g.square().sum() for g in used.values()]).sum().sqrt()))
        found["along"].append(self.along(used, x, y))
        for row in report.rows:
            layer = row.name.removesuffix(".weight")
            found["share"][layer].append(row.share)
            found["drift"][layer].append(float((self.means(row.name) - self.start[row.name]).abs().mean()))

    def directions(self) -> dict[str, Tensor]:
        """The gradient of every parameter as the method uses it: after Φ where GC is on the gradient."""
        found = {}
        for name, parameter in self.model.named_parameters():
            row = self.used.row_of(parameter)
            axes = row.axes if row and self.gc == "gradient" else None
            found[name] = gct.centralize(parameter.grad, axes)
        return found

    @torch.no_grad()
    def along(self, directions: dict[str, Tensor], x: Tensor, y: Tensor) -> list[float]:
        """The loss of this batch at w − η·g, less that at w, for each η: what smoothness is drawn from."""
        losses = []
        for far in (0.0, *ALONG):
            probe = copy.deepcopy(self.model)  # its running statistics are its own too
            for name, parameter in probe.named_parameters():
                parameter.sub_(directions[name], alpha=far)
            losses.append(float(cross_entropy(probe(x), y)))
        return [loss - losses[0] for loss in losses[1:]]

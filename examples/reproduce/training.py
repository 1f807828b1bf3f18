"""The training loop. With GC or without, it differs in one argument: `gc_on`.

The state of a run is the checkpoint, and nothing else: learning rate, order, crops and dropout follow from the recipe,
the seed and the step. So a run that was killed goes on from its last checkpoint and ends as if it had not been: on a
CPU bit for bit, on a GPU as far as PyTorch's operations there are deterministic.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gc_torch as gct
from examples.reproduce import checkpoint, data, models
from examples.reproduce.recipe import Recipe, Wrong


def train(
    recipe: Recipe,
    place: str,
    seed: int,
    images: tuple[data.Images, data.Images],
    folder: Path,
    *,
    device: str = "cpu",
    weights: Path | None = None,
    every: int = 500,
    on_step: Callable[[int, int], Any] = lambda step, steps: None,
) -> dict[str, Any]:
    """Train to the end, from the folder's checkpoint if it has one. Returns the last line of the log."""
    train_set, test_set = images
    per_epoch = len(train_set) // recipe.batch
    if not per_epoch:
        raise Wrong(f"{len(train_set)} training images are less than a batch of {recipe.batch}: set batch")
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    torch.manual_seed(seed)
    model = models.build(recipe, weights).to(device)
    optimizer = make_optimizer(model, recipe, place)
    base = [group["lr"] for group in optimizer.param_groups]

    # JSON makes of it what it will be when it is read back.
    run = json.loads(json.dumps({"recipe": dataclasses.asdict(recipe), "gc": place, "seed": seed, "steps": per_epoch}))
    file, log = folder / "checkpoint.pt", folder / "log.jsonl"
    at = {
        "step": 0,
        "log_size": 0,
        "loss": torch.zeros((), dtype=torch.float64),
        "right": torch.zeros((), dtype=torch.int64),
    }
    if state := checkpoint.load(file):
        if state["run"] != run:
            odd = [key for key in run if state["run"].get(key) != run[key]]
            raise Wrong(f"{file} is of another run ({', '.join(odd)} differ): choose another --out")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        at = state["at"]
    if log.exists():
        with open(log, "r+b") as stream:  # what a killed run has written after its last checkpoint
            stream.truncate(at["log_size"])
    loss_sum, right = at["loss"].to(device), at["right"].to(device)

    def save() -> None:
        at.update(loss=loss_sum.cpu(), right=right.cpu(), log_size=log.stat().st_size if log.exists() else 0)
        checkpoint.save(file, {"run": run, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "at": at})

    for epoch in range(at["step"] // per_epoch, recipe.epochs):
        factor = recipe.gamma ** sum(milestone <= epoch for milestone in recipe.milestones)
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = lr * factor
        began = time.monotonic()
        model.train()
        for x, y in data.batches(train_set, recipe, seed, epoch, first=at["step"] % per_epoch):
            x, y = x.to(device), y.to(device)
            torch.manual_seed(seed * 1_000_003 + at["step"])  # dropout
            scores = model(x)
            loss = cross_entropy(scores, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach()
            right += (scores.argmax(1) == y).sum()
            at["step"] += 1
            on_step(at["step"], recipe.epochs * per_epoch)
            if at["step"] % every == 0 and at["step"] % per_epoch:
                save()
        line = {
            "epoch": epoch,
            "lr": base[0] * factor,
            "train_loss": loss_sum.item() / per_epoch,
            "train_error": 100 - 100 * right.item() / (per_epoch * recipe.batch),
            **test(model, test_set, recipe, device),
            "seconds": round(time.monotonic() - began, 3),
        }
        if not math.isfinite(line["train_loss"]):
            raise Wrong(f"the loss is {line['train_loss']} in epoch {epoch}: the learning rate may be too large")
        with open(log, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        loss_sum.zero_()
        right.zero_()
        save()
    return json.loads(log.read_text(encoding="utf-8").splitlines()[-1])


@torch.no_grad()
def test(model: nn.Module, images: data.Images, recipe: Recipe, device: str) -> dict[str, float]:
    """Loss, and error or accuracy in per cent as the recipe measures it, on every test image."""
    model.eval()
    loss, right = 0.0, 0
    for x, y in data.test_batches(images, recipe):
        x, y = x.to(device), y.to(device)
        scores = model(x)
        loss += cross_entropy(scores, y, reduction="sum").item()
        right += int((scores.argmax(1) == y).sum())
    accuracy = 100 * right / len(images)
    return {
        "test_loss": loss / len(images),
        recipe.measure: accuracy if "accuracy" in recipe.measure else 100 - accuracy,
    }


def make_plan(model: nn.Module, recipe: Recipe) -> gct.ModelPlan:
    """What GC does to each parameter: every weight, or those of convolutions only."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return gct.plan(model, None if recipe.gc_linear else {f"{name}.weight": None for name in linear})


def make_optimizer(model: nn.Module, recipe: Recipe, place: str) -> torch.optim.Optimizer:
    """The recipe's optimizer; place is "gradient", "update" or "off"."""
    plan = make_plan(model, recipe)
    groups: list[dict[str, Any]] = [{"params": list(model.parameters())}]
    if recipe.head_lr:
        last = f"{models.head(model)}."
        split: dict[bool, list] = {True: [], False: []}
        for name, parameter in model.named_parameters():
            split[name.startswith(last)].append(parameter)
        groups = [{"params": split[False]}, {"params": split[True], "lr": recipe.head_lr}]
    options: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "adagrad":
        return adagrad(model, groups, plan, place, **options)
    options.update(plan=plan, gc_on=None if place == "off" else place)
    if recipe.optimizer == "sgd":
        return gct.SGD(groups, momentum=recipe.momentum, **options)
    return {"adam": gct.Adam, "adamw": gct.AdamW}[recipe.optimizer](groups, **options)


def adagrad(
    model: nn.Module, groups: list, plan: gct.ModelPlan, place: str, *, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """PyTorch's Adagrad, with GC before each step; L2 decay is added before, as in the Algorithms."""
    if place == "update":
        raise Wrong("--gc update is there for sgd, adam and adamw; adagrad has gradient and off")
    if place == "off":
        return torch.optim.Adagrad(groups, lr=lr, weight_decay=weight_decay)
    optimizer = torch.optim.Adagrad(groups, lr=lr)

    @torch.no_grad()
    def decay(*_: Any) -> None:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad += weight_decay * parameter

    optimizer.register_step_pre_hook(decay)  # before that of attach
    gct.attach(optimizer, model, plan=plan)
    return optimizer

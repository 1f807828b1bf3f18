"""Runs every optimizer of `torch.optim` with `attach` in front of it, in both places."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import gc_torch as gct
from examples.optimizers.found import Found, Step, Verdict

STEPS = {
    "SGD": Step.LINEAR, "ASGD": Step.SHRINKS, "LBFGS": Step.NEWTON, "Muon": Step.ORTHOGONAL, "Rprop": Step.SIGN,
    "Adafactor": Step.FACTORED, "SparseAdam": None,
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {"SGD": {"momentum": 0.9}}
ROUNDS = 7  # RAdam begins as SGD with momentum does


def names() -> list[str]:
    """Every optimizer that this PyTorch has."""
    found = inspect.getmembers(torch.optim, inspect.isclass)
    return [name for name, one in found if issubclass(one, torch.optim.Optimizer) and one is not torch.optim.Optimizer]


def look_at(name: str) -> Found:
    """Run it without decay: with `attach` in each place, and with gradients centralized by hand."""
    wanted, error = None, ""
    try:
        wanted, _ = _trained(name, by_hand=True)
    except RuntimeError as raised:  # SparseAdam refuses any other gradient
        error = str(raised)
    verdicts, drift = [], None
    for where in ("step", "backward"):
        try:
            weights, here = _trained(name, where=where)
        except (RuntimeError, TypeError, ValueError) as raised:
            error = error or str(raised)
            verdicts.append(Verdict.SPARSE if _takes_sparse(name) else Verdict.REFUSED)
            continue
        drift = here if drift is None else max(drift, here)
        tolerance = 2**-7 * 0.05 * ROUNDS if name == "Muon" else 1e-9  # Muon computes in bfloat16
        same = wanted is not None and all(
            torch.allclose(p, q, rtol=0, atol=tolerance) for p, q in zip(weights, wanted, strict=True)
        )
        verdicts.append(Verdict.WORKS if same else Verdict.DIFFERENT)
    return Found(name, tuple(verdicts), drift, STEPS.get(name, Step.ELEMENTWISE), error)


def _takes_sparse(name: str) -> bool:
    """Whether it steps on a sparse gradient."""
    p = nn.Parameter(torch.ones(3, 2))
    p.grad = torch.ones(3, 2).to_sparse()
    try:
        getattr(torch.optim, name)([p], lr=0.05).step()
    except (RuntimeError, TypeError, ValueError):
        return False
    return True


def _trained(name: str, *, where: str = "", by_hand: bool = False) -> tuple[list[torch.Tensor], float]:
    """The weights after some steps, and how far their means drifted."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False)).double()
    weights = [model[0].weight, model[2].weight]
    x, y = torch.randn(16, 12).double(), torch.randn(16, 3).double()
    cls: Callable[..., Any] = getattr(torch.optim, name)
    options = {"lr": 0.05, **OPTIONS.get(name, {})}
    if "weight_decay" in inspect.signature(cls).parameters:
        options["weight_decay"] = 0.0
    optimizer = cls(model.parameters(), **options)
    attached = gct.attach(optimizer, model, where=where) if where else None
    start = [w.detach().clone() for w in weights]

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        for w in weights if by_hand else ():
            assert w.grad is not None
            w.grad -= w.grad.sum(1, keepdim=True) / w.shape[1]
        return loss

    for _ in range(ROUNDS):
        if name == "LBFGS":
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    if attached is not None:
        attached.remove()
    moved = max(float((w.detach() - s).abs().max()) for w, s in zip(weights, start, strict=True))
    drift = max(float((w.detach() - s).mean(1).abs().max()) for w, s in zip(weights, start, strict=True))
    return [w.detach().clone() for w in weights], drift / moved

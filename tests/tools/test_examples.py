"""The light ones of examples/tools: GC works in each, and would be missed. The others: examples/tools/test_heavy.py"""

import re
from pathlib import Path

import equinox as eqx
import numpy as np
import optax
import pytest
import torch
from jax import tree

from examples.tools import check, compiled, equinox_loop, flax_nnx, grad_scaler, timm_style

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/tools.md").read_text()


def plain_adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=torch.tensor(2e-3))


def plain_sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def test_timm_style():
    model, optimizer, losses = timm_style.train()
    assert check.left(check.of_torch(model, optimizer)) < check.ROUNDING
    assert losses[-1] < losses[0]
    model, optimizer, _ = timm_style.train(lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3))
    assert check.left(check.of_torch(model, optimizer)) > check.FAIR_PART


def test_grad_scaler():
    model, optimizer, losses, skipped = grad_scaler.train()
    assert check.left(check.of_torch(model, optimizer)) < check.ROUNDING
    assert skipped[0] and not skipped[-1]
    assert losses[-1] < losses[0]
    model, optimizer, *_ = grad_scaler.train(plain_sgd)
    assert check.left(check.of_torch(model, optimizer)) > check.FAIR_PART


# PyTorch's compiler still uses what it deprecates.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiled():
    model, optimizer, losses = compiled.train(backend="aot_eager")
    assert check.left(check.of_torch(model, optimizer)) < check.ROUNDING
    assert losses[-1] < losses[0]
    model, optimizer, _ = compiled.train(plain_adamw, backend="eager")
    assert check.left(check.of_torch(model, optimizer)) > check.FAIR_PART


def nnx_moments(optimizer):
    kernels = [leaf for leaf in tree.leaves(optax.tree.get(optimizer.opt_state, "mu")) if leaf.ndim == 2]
    assert len(kernels) == 2
    return [(kernel, 0) for kernel in kernels]  # stored (in, out)


def test_flax_nnx():
    _, optimizer, losses = flax_nnx.train()
    assert check.left(nnx_moments(optimizer)) < check.ROUNDING
    assert losses[-1] < losses[0]
    _, optimizer, _ = flax_nnx.train(lambda model: optax.adamw(3e-3))
    assert check.left(nnx_moments(optimizer)) > check.FAIR_PART


def moved(start, end):
    """How far the mean of a weight vector went, over how far its weights did."""
    before, after = (eqx.filter([layer.weight for layer in model.layers], eqx.is_array) for model in (start, end))
    steps = [np.asarray(b, np.float64) - np.asarray(a, np.float64) for a, b in zip(before, after, strict=True)]
    return max(np.abs(step.mean(1)).max() / np.abs(step).mean() for step in steps)


def test_equinox():
    start, end, losses = equinox_loop.train()
    assert moved(start, end) < check.ROUNDING
    assert losses[-1] < losses[0]
    start, end, _ = equinox_loop.train(lambda model: optax.sgd(0.3, momentum=0.9))
    assert moved(start, end) > check.FAIR_PART


# ---- docs/tools.md


def test_what_the_page_shows_of_the_others_is_in_them():
    shown = re.findall(r"# not run: in (examples/tools/\w+\.py), by make test-all\n(.*?)```", PAGE, re.S)
    assert len(shown) == PAGE.count("# not run") == 4
    for file, block in shown:
        lines = {line.strip() for line in (ROOT / file).read_text().splitlines()}
        assert [line for line in block.splitlines() if line.strip() not in lines] == []


def test_the_page_names_every_example():
    files = {file.name for file in (ROOT / "examples/tools").glob("*.py")}
    assert set(re.findall(r"\| `(\w+\.py)` \|", PAGE)) == files - {"check.py", "digits.py", "test_heavy.py"}

"""200 steps of a small convolutional net follow the restatement, on every path."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import gc_torch as gct

from . import restatement
from .cases import KINDS, PATHS

# Written by hand: how GC sees each parameter of the net.
VIEWS = {
    "conv.weight": ((6, 2, 3, 3), (1, 2, 3)),
    "conv.bias": ((6,), None),
    "norm.weight": ((6,), None),
    "norm.bias": ((6,), None),
    "up.weight": ((2, 3, 2, 2, 2), (1, 3, 4)),  # stored (6, 2, 2, 2): 2 groups of 3 channels in, 2 out
    "up.bias": ((4,), None),
    "head.weight": ((3, 64), (1,)),
    "head.bias": ((3,), None),
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2)
        self.head = nn.Linear(64, 3)
        self.double()

    def forward(self, x):
        x = self.up(torch.tanh(self.norm(self.conv(x))))
        return self.head(torch.tanh(x).flatten(1))


def batch(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 2, 4, 4, dtype=torch.float64, generator=generator)
    return x, torch.randint(3, (8,), generator=generator)


def gradients(net, step):
    x, y = batch(step)
    net.zero_grad()
    nn.functional.cross_entropy(net(x), y).backward()
    return {name: p.grad.numpy().copy() for name, p in net.named_parameters()}


OPTIONS = {
    "SGD": {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2},
    "Adam": {"lr": 1e-3, "weight_decay": 1e-2},
    "AdamW": {"lr": 1e-3, "weight_decay": 1e-1},
}


def train(kind, options, steps=200, plan=None):
    """Largest difference from the restatement, by parameter, over all steps.

    Both see the same batches. The restatement's gradients are taken in a net of its own, at its own weights; but a
    bias in front of a BatchNorm gets the same as ours: its gradient is zero and its rounding noise, of which Adam makes
    steps."""
    ours = Net()
    theirs = copy.deepcopy(ours)
    rule = {key: value for key, value in options.items() if key not in ("foreach", "fused")}
    run = restatement.Run(kind, {n: p.detach().numpy().copy() for n, p in theirs.named_parameters()}, VIEWS, **rule)
    optimizer = getattr(gct, kind)(ours, plan=plan and plan(ours), **options)
    worst = dict.fromkeys(VIEWS, 0.0)
    for step in range(steps):
        noise = gradients(ours, step)["conv.bias"]
        optimizer.step()
        run.step({**gradients(theirs, step), "conv.bias": noise})
        with torch.no_grad():
            for name, p in theirs.named_parameters():
                p.copy_(torch.from_numpy(run.params[name].reshape(p.shape)))
        for name, p in ours.named_parameters():
            worst[name] = max(worst[name], np.abs(run.seen(name, p) - run.params[name]).max())
    return worst


@pytest.mark.parametrize("gc_on", ["gradient", "update"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_200_steps_follow_the_restatement_to_1e_11(kind, path, gc_on):
    worst = train(kind, {**OPTIONS[kind], "gc_on": gc_on, **PATHS[path]})
    assert max(worst.values()) < 1e-11, worst


def test_the_plan_of_this_net():
    plan = gct.plan(Net())
    assert {row.name: (row.view, row.axes) for row in plan.rows} == VIEWS
    for row in plan.rows:
        assert math.prod(row.view) == math.prod(row.shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [{"up.weight": (0, 2, 3)}, {"head.weight": None}, {"conv.weight": 0}])
def test_a_wrong_axis_of_one_layer_leaves_the_course(kind, wrong):
    worst = train(kind, {**OPTIONS[kind], "gc_on": "gradient"}, steps=5, plan=lambda net: gct.plan(net, wrong))
    assert max(worst.values()) > 1e-6

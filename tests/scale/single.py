"""What one process gets, and how far from it N processes may be."""

from functools import cache

import torch
from torch import nn

import gc_torch as gct

BATCH, LENGTH, STEPS = 8, 5, 4
OPTIMIZERS = {
    "SGD, L2": lambda params, **more: gct.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.05, nesterov=True, **more),
    "Adam, L2": lambda params, **more: gct.Adam(params, lr=0.01, weight_decay=0.05, **more),
    "AdamW": lambda params, **more: gct.AdamW(params, lr=0.01, weight_decay=0.05, **more),
    "AdamW, on the update": lambda params, **more: gct.AdamW(
        params, lr=0.01, weight_decay=0.05, gc_on="update", **more
    ),
}


class Block(nn.Module):
    """Weights stored out first and in first, in groups."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(8, 10)
        self.norm = nn.LayerNorm(10)
        self.mix = nn.ConvTranspose1d(10, 6, 3, groups=2)

    def forward(self, x):
        return self.mix(self.norm(nn.functional.gelu(self.up(x))).mT).tanh()


class Net(nn.Module):
    """Of sizes that neither 2 nor 4 divides."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.block = Block()
        self.down = nn.Linear(6, 7)

    def forward(self, tokens):
        return self.down(self.block(self.embed(tokens)).mean(-1))


def network():
    torch.manual_seed(1)
    return Net().double()


def batches():
    torch.manual_seed(2)
    return [(torch.randint(11, (BATCH, LENGTH)), torch.randint(7, (BATCH,))) for _ in range(STEPS)]


def loss(model, tokens, targets):
    return nn.functional.cross_entropy(model(tokens), targets)


def train(model, optimizer, data, noise=0.0):
    for tokens, targets in data:
        optimizer.zero_grad()
        loss(model, tokens, targets).backward()
        for p in model.parameters() if noise else ():
            p.grad += noise * p.grad.abs().max() * torch.randn_like(p)
        optimizer.step()


@cache
def trained(kind, noise=0.0):
    """The weights after one process has seen all the data."""
    model = network()
    torch.manual_seed(3)
    train(model, OPTIMIZERS[kind](model), batches(), noise)
    return {name: p.detach() for name, p in model.named_parameters()}


def distance(a, b):
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


@cache
def bound(kind):
    """How far rounding can carry the weights.

    N processes sum in another order: a gradient that is a sum of n numbers moves by at most n·u of the sum of their
    sizes, with u = 2⁻⁵³. How much of that arrives in the weights, one process tells, whose gradients are moved by a
    known amount that is far from rounding and still small.
    """
    known = 2.0**-30
    arrives = distance(trained(kind), trained(kind, noise=known)) / known
    summed = BATCH * LENGTH * 10  # of each weight's gradient, and of each mean: batch, positions and fan-in
    cancelled = 16  # the sum of the sizes over the largest gradient
    allowed = arrives * summed * cancelled * 2.0**-53

    # Without GC, or with GC over other axes, the weights are elsewhere by far.
    for wrong in ({"*": None}, {"block.mix.weight": 0}, {"block.up.weight": 0}, {"embed.weight": 1}):
        model = network()
        train(model, OPTIMIZERS[kind](model, plan=gct.plan(model, overrides=wrong)), batches())
        weights = {name: p.detach() for name, p in model.named_parameters()}
        assert distance(weights, trained(kind)) > 1e3 * allowed, wrong
    return allowed


def check_equal(weights, kind):
    """The weights that N processes got are those of one."""
    assert distance(weights, trained(kind)) <= bound(kind), (distance(weights, trained(kind)), bound(kind))

"""A model that keeps tensors: after its plan was read on shapes alone, it computes as if nothing had been."""

import functools

import pytest
import torch
from torch import nn

import gc_torch as gct

CACHE = {}


@functools.lru_cache
def ones(n):
    return torch.ones(n, n)


class Keeps(nn.Module):
    """In a cache of a function, a global dict, and an attribute."""

    def __init__(self):
        super().__init__()
        self.layer, self.mask = nn.Linear(4, 4), None

    def forward(self, x):
        if self.mask is None:
            self.mask = torch.ones(4)
        if "scale" not in CACHE:
            CACHE["scale"] = torch.full((4,), 2.0)
        return self.layer(x) @ ones(4) * CACHE["scale"] * self.mask


class KeepsInAList(nn.Module):
    seen = []  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        self.seen.append(torch.ones(2))
        return self.layer(x)


@pytest.mark.parametrize("how", ["batch", "verify"])
def test_what_a_model_keeps_has_values(how):
    CACHE.clear()
    ones.cache_clear()
    model, x = Keeps(), torch.randn(2, 4)
    optimizer = gct.SGD(model, lr=0.1, plan=gct.plan(model, **{how: x}))
    y = model(x)
    y.square().sum().backward()
    optimizer.step()
    for tensor in (y, model.layer.weight.grad, model.mask, CACHE["scale"], ones(4)):
        assert type(tensor) in (torch.Tensor, nn.Parameter)
    assert torch.equal(y.detach(), 2 * (y.detach() / 2))


def test_what_cannot_be_taken_back_is_said():
    with pytest.warns(gct.GCWarning, match=r"kept 1 tensors without values, of shapes \(2,\)"):
        gct.plan(KeepsInAList(), batch=torch.randn(2, 4))
    KeepsInAList.seen.clear()


def test_a_gradient_without_values_is_refused():
    from torch._subclasses.fake_tensor import FakeTensorMode

    layer = nn.Linear(3, 2)
    optimizer = gct.SGD(layer, lr=0.1)
    with FakeTensorMode():
        fake = torch.ones(2, 3)
    layer.weight.grad, before = fake, layer.weight.detach().clone()
    with pytest.raises(TypeError, match="weight: the gradient must have values"):
        optimizer.step()
    assert torch.equal(layer.weight, before)

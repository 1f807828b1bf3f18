"""Low-rank factors: A is the layer's weight, B is left alone, by whatever names and in whatever form."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import gc_torch as gct
from gc_core.reasons import Reason, Verification, reason_of

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))


class Beside(nn.Module):
    """As PEFT has it: a layer, and two layers for its update, in dicts by adapter."""

    def __init__(self, names=("lora_A", "lora_B"), dicts=True):
        super().__init__()
        self.base = nn.Linear(6, 3).requires_grad_(False)
        self.names = names
        a, b = nn.Linear(6, 2, bias=False), nn.Linear(2, 3, bias=False)
        nn.init.zeros_(b.weight)
        for name, layer in zip(names, (a, b), strict=True):
            setattr(self, name, nn.ModuleDict({"default": layer}) if dicts else layer)
        self.dicts = dicts

    def forward(self, x):
        a, b = (getattr(self, name) for name in self.names)
        return self.base(x) + (b["default"](a["default"](x)) if self.dicts else b(a(x)))


class Merged(nn.Module):
    """As loralib and parametrizations have it: two raw factors, whose product is added to the weight."""

    def __init__(self, names=("lora_A", "lora_B")):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6))
        self.names = names
        for name, shape in zip(names, ((2, 6), (3, 2)), strict=True):
            setattr(self, name, nn.Parameter(torch.randn(shape)))

    def forward(self, x):
        a, b = (getattr(self, name) for name in self.names)
        return F.linear(x, self.weight + 0.5 * (b @ a))


def quiet(make, *args, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gct.GCWarning)
        return make(*args, **how)


@pytest.mark.parametrize("names", [("lora_A", "lora_B"), ("lora_a", "lora_b"), ("lora_down", "lora_up")])
@pytest.mark.parametrize("make", [Beside, lambda names: Beside(names, dicts=False), Merged])
@pytest.mark.parametrize("batch", [None, X])
def test_factors_by_their_names(names, make, batch):
    plan = quiet(gct.plan, make(names), batch=batch)
    a, b = ([row for row in plan.rows if name in row.name] for name in names)
    assert [row.axes for row in a] == [(1,)] and [row.axes for row in b] == [None]
    assert reason_of(b[0].why) is Reason.FACTOR


def test_a_product_of_parameters_is_read_as_what_it_is():
    """Without names to go by: the program multiplies two parameters, and then the data."""
    plan = quiet(gct.plan, Merged(("p", "q")), batch=X)
    assert (plan["p"].axes, plan["q"].axes, plan["weight"].axes) == ((1,), None, (1,))
    assert reason_of(plan["p"].why) is Reason.FACTOR_IN and reason_of(plan["q"].why) is Reason.FACTOR


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(2, 5), st.integers(2, 5), st.booleans(), st.booleans())
def test_products_of_any_shape(rank, out, in_, scaled, transposed):
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.p, self.q = nn.Parameter(torch.randn(rank, in_)), nn.Parameter(torch.randn(out, rank))

        def forward(self, x):
            w = self.q @ self.p
            w = 2 * w if scaled else w
            return x @ w.T.contiguous() if transposed else F.linear(x, w)

    plan = quiet(gct.plan, Product(), batch=torch.ones(1, in_))
    assert (plan["p"].axes, plan["q"].axes) == ((1,), None)


def test_verify_says_what_products_are():
    """That a factor of the output's side has weight vectors along the rank was once called proven."""
    model = Merged(("p", "q"))
    plan = quiet(gct.plan, model, {"p": 1}, verify=X)
    assert reason_of(plan["p"].verification) is Verification.FACTOR
    assert plan["weight"].verification == "candidate: the batch sums over axis 1 (6), override with 1"
    with pytest.raises(ValueError, match=r"q: multiplied by another parameter.*p.*overrides=\{'q': None\}"):
        quiet(gct.plan, model, {"q": 1}, verify=X)


def test_products_of_more_than_two_are_left_alone():
    class Hadamard(nn.Module):
        """As LoHa has it."""

        def __init__(self):
            super().__init__()
            for name, shape in {"a": (3, 2), "b": (2, 6), "c": (3, 2), "d": (2, 6)}.items():
                setattr(self, name, nn.Parameter(torch.randn(shape)))

        def forward(self, x):
            return F.linear(x, (self.a @ self.b) * (self.c @ self.d))

    plan = quiet(gct.plan, Hadamard(), batch=X)
    assert {row.axes for row in plan.rows} == {None}
    assert {reason_of(plan[name].why) for name in "bd"} == {Reason.PRODUCT}


def test_what_is_looked_up_by_a_factor():
    class Table(nn.Module):
        """As PEFT has it for embeddings."""

        def __init__(self):
            super().__init__()
            self.lora_embedding_A = nn.ParameterDict({"default": nn.Parameter(torch.randn(2, 9))})
            self.lora_embedding_B = nn.ParameterDict({"default": nn.Parameter(torch.randn(4, 2))})
            self.lora_magnitude_vector = nn.ParameterDict({"default": nn.Parameter(torch.randn(4))})

    plan = quiet(gct.plan, Table())
    reasons = [reason_of(row.why) for row in plan.rows]
    assert reasons == [Reason.EMBEDDING, Reason.FACTOR, Reason.MAGNITUDE]


def test_start_in_the_hyperplane():
    for model in (Beside(), Merged()):
        if isinstance(model, Merged):
            with pytest.raises(ValueError, match="lora_B must be zero still"):
                gct.center_low_rank(model)
            nn.init.zeros_(model.lora_B)
        before = model(X)
        (name,) = gct.center_low_rank(model)
        a = dict(model.named_parameters())[name]
        assert a.sum(1).abs().max() <= 6 * 2 * torch.finfo(a.dtype).eps * a.abs().max()
        assert torch.equal(model(X), before)
    with pytest.raises(ValueError, match="none were found"):
        gct.center_low_rank(nn.Linear(3, 2))


def trained(model, plan, steps=100):
    """How far the sums of the rows of the merged update have drifted, after training in float64."""
    target = torch.randn(16, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    factors = [p for name, p in model.named_parameters() if "lora" in name]
    optimizer = gct.SGD(factors, lr=0.05, momentum=0.9, plan=plan)
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(model(x), target).backward()
        optimizer.step()
    a, b = model.lora_A["default"].weight, model.lora_B["default"].weight
    return (b @ a).sum(1).abs().max().item(), (b @ a).abs().max().item()


def test_the_sums_of_the_merged_rows_are_conserved():
    torch.manual_seed(0)
    model = Beside().double()
    gct.center_low_rank(model)
    drift, size = trained(model, gct.plan(model))
    assert drift < 1e-13 < 0.01 < size
    torch.manual_seed(0)
    model = Beside().double()
    gct.center_low_rank(model)
    wrong = gct.plan(model, {"*lora_A*": None, "*lora_B*": 1})  # by shape alone, B over the rank
    drift, size = trained(model, wrong)
    assert drift > 1e-3

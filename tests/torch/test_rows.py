"""Whose weight it is: the rows of parameters that an optimizer or an attachment was not made with."""

import copy
import gc
import pickle
import warnings
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gc_torch as gct
from gc_core.reasons import Reason


class Odd(nn.Module):
    """Every layer that the shape alone gets wrong."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(6, 4)
        self.up = nn.ConvTranspose1d(4, 6, 3, groups=2)
        self.head = nn.Linear(6, 2)

    def forward(self, ids):
        return self.head(self.up(self.table(ids).transpose(1, 2)).transpose(1, 2))


def told(plan):
    return {row.name: (row.view, row.axes) for row in plan.rows}


@pytest.mark.parametrize("cls", [gct.SGD, gct.Adam, gct.AdamW])
def test_bare_parameters_of_gpt2_are_known_by_their_layers(cls):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=20, n_positions=8)
    model = transformers.GPT2LMHeadModel(config)
    wanted = told(gct.plan(model))
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim < 2]
    for form in (
        model.parameters(),
        [p for p in model.parameters() if p.requires_grad],
        [{"params": decayed}, {"params": rest, "weight_decay": 0.0}],
    ):
        assert told(cls(form, lr=0.1).plan) == wanted
    assert wanted["transformer.h.0.attn.c_attn.weight"][1] == (0,)  # stored (in, out)
    assert wanted["transformer.wte.weight"][1] is None


def test_parameters_of_several_models_have_names_of_their_own():
    a, b = Odd(), nn.Sequential(nn.Linear(3, 2))
    optimizer = gct.SGD([*a.parameters(), *b.parameters()], lr=0.1)
    assert optimizer.plan.row_of(a.up.weight).view == (2, 2, 3, 3)
    assert optimizer.plan.row_of(b[0].weight).axes == (1,)
    assert len(set(optimizer.plan)) == 6 - 1 + 2


def test_a_list_of_models():
    a, b = Odd(), Odd()
    optimizer = gct.Adam([a, b])
    assert optimizer.plan["1.up.weight"].view == (2, 2, 3, 3) and optimizer.plan.row_of(b.table.weight).axes is None


def test_what_is_guessed_is_said_once_and_may_be_meant():
    weight = nn.Parameter(torch.ones(2, 3))
    with pytest.warns(gct.GCWarning, match=r"group0.0 \(2, 3\), by shape alone") as said:
        optimizer = gct.SGD([weight], lr=0.1)
    assert len(said) == 1 and said[0].filename == __file__
    assert "1 of 1 parameters (1 by shape alone)" in repr(optimizer)
    for shape in ((5, 3), (7, 3)):  # put in its place again and again
        optimizer.param_groups[0]["params"] = [nn.Parameter(torch.ones(shape))]
        optimizer.param_groups[0]["params"][0].grad = torch.ones(shape)
        optimizer.step()
    assert len(optimizer.plan) == 1
    gct.SGD([weight], lr=0.1, plan="out_first")
    gct.SGD([weight], lr=0.1, gc_on=None)


def test_nothing_to_centralize_is_said():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Parameter(torch.ones(3, 3))

    for make in (gct.SGD, gct.Adam, gct.AdamW):
        with pytest.warns(gct.GCWarning, match="GC applies to nothing that trains"):
            make(Mine(), lr=0.1)
    gct.SGD(Mine(), lr=0.1, gc_on=None)
    gct.SGD(nn.LayerNorm(3).parameters(), lr=0.1)  # nobody expects GC there


def test_another_plan_in_mid_run():
    model = nn.Linear(3, 2, bias=False)
    optimizer = gct.SGD(model, lr=1.0)
    model.weight.grad = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    for plan, axes in (
        (gct.plan(model, {"weight": 0}), (0,)),
        (gct.plan(model, {"weight": None}), None),
        ("out_first", (1,)),
    ):
        optimizer.plan = plan
        before = model.weight.detach().clone()
        optimizer.step()
        grad = model.weight.grad
        wanted = grad if axes is None else grad - grad.mean(axes, keepdim=True)
        assert torch.allclose(before - model.weight, wanted, atol=1e-6)
    with pytest.raises(ValueError, match="none of them is here"):
        optimizer.plan = gct.plan(nn.Linear(3, 2))
    with pytest.raises(TypeError, match="plan must be"):
        optimizer.plan = None
    assert optimizer.plan.row_of(model.weight).axes == (1,)


def test_a_checkpoint_of_the_parameters_that_train():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    state = torch.optim.AdamW(trained).state_dict()
    gct.AdamW(trained).load_state_dict(state)
    with pytest.raises(ValueError, match="parameter group") as caught:
        gct.AdamW(model).load_state_dict(state)
    assert "if p.requires_grad" in caught.value.__notes__[0]


def test_a_place_of_gc_that_a_checkpoint_changes_is_said():
    model = nn.Linear(3, 2)
    state = gct.SGD(model, lr=0.1, gc_on="update").state_dict()
    optimizer = gct.SGD(model, lr=0.1)
    with pytest.warns(gct.GCWarning, match="gc_on='update' for group 0, which had 'gradient'"):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["gc_on"] == "update"
    optimizer.load_state_dict(state)


def test_a_head_that_is_swapped_and_a_layer_that_is_parametrized():
    model = Odd()
    optimizer = gct.SGD(model, lr=0.1)
    model.head = nn.Embedding(2, 6)  # of the same shape
    optimizer.param_groups[0]["params"][-2:] = list(model.head.parameters())
    assert optimizer.plan.row_of(model.head.weight).axes is None
    nn.utils.parametrizations.orthogonal(model.table)
    assert optimizer.plan.row_of(model.table.parametrizations.weight.original).axes is None


def test_tensors_are_swapped_and_die():
    model = nn.Linear(3, 2)
    optimizer = gct.Adam(model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    for _ in range(3):
        optimizer.step()
    model.weight.grad = None
    torch.utils.swap_tensors(model.weight, nn.Parameter(torch.zeros(2, 3)))
    optimizer.step()
    old = weakref.ref(model.weight)
    optimizer.state.pop(model.weight)
    optimizer.param_groups[0]["params"] = [model.bias]
    model.weight = nn.Parameter(torch.ones(2, 3))
    gc.collect()
    assert old() is None


def test_containers_of_tensors_are_tensors():
    weights = nn.ParameterList([nn.Parameter(torch.ones(2, 3))])
    with pytest.warns(gct.GCWarning, match="by shape alone"):
        one = gct.SGD(weights, lr=0.1)
    with pytest.warns(gct.GCWarning, match="by shape alone"):
        other = gct.SGD(list(weights), lr=0.1)
    assert one.plan.rows == other.plan.rows


@pytest.mark.parametrize("where", ["step", "backward"])
def test_attached_before_layers_are_unfrozen_replaced_and_added(where):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attached = gct.attach(optimizer, model, where=where)
    assert "2 of" in repr(attached)
    model[0].requires_grad_(True)
    model[2] = nn.Linear(8, 3).double()
    model.append(nn.Linear(3, 3).double())
    optimizer.add_param_group({"params": [*model[2].parameters(), *model[3].parameters()]})
    del optimizer.param_groups[0]["params"][2:]
    model(torch.randn(5, 4, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    for i in (0, 2, 3):
        assert model[i].weight.grad.abs().max() > 1e-3 and model[i].weight.grad.mean(1).abs().max() < 1e-14
    assert "3 of" in repr(attached)
    attached.remove()
    optimizer.zero_grad()
    model(torch.randn(5, 4, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    assert model[0].weight.grad.mean(1).abs().max() > 1e-6 and repr(attached).startswith("removed: ")


@pytest.mark.parametrize("how", ["step(closure)", "two steps"])
def test_sharpness_aware_steps_read_centralized_gradients(how):
    class Climb(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {})
            self.read = []

        def note(self):
            self.read += [p.grad.clone() for group in self.param_groups for p in group["params"]]

        def first_step(self):
            self.note()

        def second_step(self):
            self.note()

        def step(self, closure):
            self.first_step()
            closure()
            self.second_step()

    layer, x = nn.Linear(4, 3, bias=False).double(), torch.randn(5, 4, dtype=torch.float64)
    optimizer = Climb(layer.parameters())
    attached = gct.attach(optimizer, layer)

    def closure():
        layer.zero_grad()
        layer(x).square().sum().backward()

    closure()
    if how == "two steps":
        optimizer.first_step()
        closure()
        optimizer.second_step()
    else:
        optimizer.step(closure)
    assert len(optimizer.read) == 2 and all(grad.mean(1).abs().max() < 1e-14 for grad in optimizer.read)
    attached.remove()
    closure()
    optimizer.first_step()
    assert optimizer.read[-1].mean(1).abs().max() > 1e-6


def test_a_stale_weight_is_an_error_in_backward():
    torch.manual_seed(0)
    for options in ({}, {"fused": True}, {"foreach": True}, {"gc_on": None}, {"momentum": 0.9}):
        layer = nn.Linear(4, 4)
        optimizer = gct.SGD(layer, lr=0.1, **options)
        loss = layer(layer(torch.randn(3, 4))).square().sum()
        for p in layer.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_without_warnings_where_all_is_known():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Odd()
        optimizer = gct.AdamW(model.parameters(), lr=0.1)
        model(torch.tensor([[1, 2, 3]])).sum().backward()
        optimizer.step()


@given(st.permutations(["embedding", "linear", "transposed", "convolution"]), st.integers(2, 4))
@settings(max_examples=20)
def test_models_that_share_a_weight_and_read_it_in_different_ways(kinds, count):
    """Whichever of them is given: no rule by shape decides what two layers say differently."""
    made = {
        "embedding": nn.Embedding(4, 4),
        "linear": nn.Linear(4, 4, bias=False),
        "transposed": nn.ConvTranspose2d(4, 4, 1, bias=False),
        "convolution": nn.Conv2d(4, 4, 1, bias=False),
    }
    models = [nn.Sequential(made[kind]) for kind in kinds[:count]]
    shared = models[0][0].weight
    sharing = [model for model in models if model[0].weight.shape == shared.shape]
    for model in sharing:
        model[0].weight = shared
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gct.GCWarning)  # of an embedding alone
        axes = {gct.plan(model).rows[0].axes for model in sharing}
        row = gct.SGD([shared], lr=0.1).plan.rows[0]
    if len(axes) > 1:
        assert row.axes is None and row.why.reason in (Reason.SHARED, Reason.SHARED_TABLE)
    else:
        assert row.axes == axes.pop()


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"]
)
def test_a_layer_that_is_exchanged_just_before_or_after_a_copy(how, before):
    """Neither the old optimizer nor the new one has looked at its parameters in between."""
    pair = nn.Sequential(nn.Embedding(5, 5), nn.Linear(5, 5)), None
    pair = pair[0], gct.SGD(pair[0], lr=0.1)
    pair = pair if before else how(pair)
    model, optimizer = pair
    model[0] = nn.Linear(5, 5, bias=False)
    optimizer.param_groups[0]["params"][0] = model[0].weight
    _, optimizer = how(pair) if before else pair
    assert optimizer.plan.rows[0].axes == (1,)

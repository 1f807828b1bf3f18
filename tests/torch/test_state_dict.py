"""Checkpoints go both ways between torch.optim and gc_torch, and never change which axes are centralized."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import gc_core
import gc_torch as gct

from .cases import KINDS, PATHS, Tensors, bits, everything, same_state

# Parameters of no module, and plans without GC, are used here: that this is said is tested elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore::gc_core.GCWarning")

EXTRA = {"SGD": {"momentum": 0.9}, "Adam": {"amsgrad": True}, "AdamW": {}}


def steps(model, optimizer, first, count=3):
    for step in range(first, first + count):
        model.set_grads(step)
        optimizer.step()


def weights(model):
    return [bits(p) for p in model.parameters()]


def saved(state_dict):
    """A state_dict after a file that allows no code."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_may_switch_in_the_middle(kind, path):
    """torch.optim, ours without GC, and torch.optim again are torch.optim all along, to the last bit."""
    options = {"lr": 0.1, **EXTRA[kind], **PATHS[path]}
    theirs, ours = getattr(torch.optim, kind), getattr(gct, kind)
    one = Tensors()
    reference = theirs(one.parameters(), **options)
    steps(one, reference, 0, 9)

    model = Tensors()
    first = theirs(model.parameters(), **options)
    steps(model, first, 0)
    second = ours(model, gc_on=None, plan=model.plan, lr=7.0)
    second.load_state_dict(saved(first.state_dict()))
    assert second.param_groups[0]["lr"] == 0.1 and second.param_groups[0]["gc_on"] is None
    steps(model, second, 3)
    third = theirs(model.parameters(), lr=7.0)
    third.load_state_dict(saved(second.state_dict()))
    steps(model, third, 6)
    assert weights(model) == weights(one)
    assert same_state(third, reference)


@pytest.mark.parametrize("gc_on", ["gradient", "update"])
@pytest.mark.parametrize("kind", KINDS)
def test_gc_goes_on_after_a_checkpoint_of_torch(kind, gc_on):
    """The state is taken over, and GC with the same axes as before."""
    options = {"lr": 0.1, **EXTRA[kind]}
    model = Tensors()
    plain = getattr(torch.optim, kind)(model.parameters(), **options)
    steps(model, plain, 0)
    other = copy.deepcopy(model)

    loaded = getattr(gct, kind)(model, plan=model.plan, gc_on=gc_on)
    loaded.load_state_dict(plain.state_dict())
    by_hand = getattr(gct, kind)(other, plan=other.plan, gc_on=gc_on, **options)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        by_hand.state[q] = copy.deepcopy(plain.state[p])
    assert loaded.param_groups[0]["gc_on"] == gc_on
    steps(model, loaded, 3)
    steps(other, by_hand, 3)
    assert weights(model) == weights(other)
    without = copy.deepcopy(model)
    steps(model, loaded, 6)
    assert weights(model) != weights(without)


def run_with(kind, change):
    """Six steps, with a change in the middle, which gives the optimizer and the model to go on with."""
    model = Tensors()
    optimizer = getattr(gct, kind)(model, lr=0.1, plan=model.plan, **EXTRA[kind])
    steps(model, optimizer, 0)
    model, optimizer = change(model, optimizer)
    steps(model, optimizer, 3)
    return weights(model)


def nothing(model, optimizer):
    return model, optimizer


def load_own(model, optimizer):
    optimizer.load_state_dict(saved(optimizer.state_dict()))
    return model, optimizer


def load_without_gc_on(model, optimizer):
    state = saved(optimizer.state_dict())
    for group in state["param_groups"]:
        del group["gc_on"]
    optimizer.load_state_dict(state)
    return model, optimizer


def new_optimizer(model, optimizer):
    new = type(optimizer)(model, plan=model.plan)
    new.load_state_dict(saved(optimizer.state_dict()))
    return model, new


def deepcopied(model, optimizer):
    return copy.deepcopy((model, optimizer))


def pickled(model, optimizer):
    return pickle.loads(pickle.dumps((model, optimizer)))


def added_group(model, optimizer):
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3, 3))]})
    return model, optimizer


def added_then_loaded(model, optimizer):
    added_group(model, optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    return model, optimizer


def all_of_them(model, optimizer):
    for change in (deepcopied, load_own, added_then_loaded, pickled, load_without_gc_on):
        model, optimizer = change(model, optimizer)
    return model, optimizer


CHANGES = [
    load_own, load_without_gc_on, new_optimizer, deepcopied, pickled, added_group, added_then_loaded, all_of_them,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_which_axes_are_centralized(kind, change):
    assert run_with(kind, change) == run_with(kind, nothing)


def test_a_plan_that_is_lost_is_noticed():
    def lost(model, optimizer):
        optimizer.plan = gct.plan(model, {"*": None})
        return model, optimizer

    def shape_rule(model, optimizer):
        new = type(optimizer)(model.parameters())
        new.load_state_dict(optimizer.state_dict())
        return model, new

    for change in (lost, shape_rule):
        assert run_with("SGD", change) != run_with("SGD", nothing)


def test_a_copy_is_independent():
    model = Tensors()
    optimizer = gct.Adam(model, plan=model.plan)
    steps(model, optimizer, 0)
    before = everything(optimizer)
    other, copied = copy.deepcopy((model, optimizer))
    steps(other, copied, 3)
    assert everything(optimizer) == before
    alone = copy.deepcopy(optimizer)  # of the optimizer alone: its parameters are copied with it
    row = alone.plan.row_of(alone.param_groups[0]["params"][3])
    assert row is not None and row.name == "linear" and row.axes == (1,)


@pytest.mark.filterwarnings("ignore::gc_core.GCWarning")  # its module is one that nobody knows
@pytest.mark.parametrize("kind", KINDS)
def test_the_state_dict_is_torch_s_but_for_our_options(kind):
    model = Tensors()
    ours, theirs = getattr(gct, kind)(model), getattr(torch.optim, kind)(model.parameters())
    a, b = ours.state_dict(), theirs.state_dict()
    assert a.keys() == b.keys()
    ours_alone = {"gc_on": "gradient", "low_precision": None, "seed": 0}
    assert a["param_groups"][0] == {**b["param_groups"][0], **ours_alone}
    steps(model, ours, 0, 1)
    steps(model, theirs, 0, 1)
    for x, y in zip(ours.state_dict()["state"].values(), theirs.state_dict()["state"].values(), strict=True):
        assert {k: (v.shape, v.dtype) for k, v in x.items() if v is not None} == {
            k: (v.shape, v.dtype) for k, v in y.items() if v is not None
        }


def test_options_of_a_loaded_group_are_the_saved_ones():
    model = Tensors()
    a = gct.AdamW(model, lr=0.3, gc_on="update", plan=model.plan)
    b = gct.AdamW(model, lr=0.1, gc_on="gradient", plan=model.plan)
    b.load_state_dict(a.state_dict())
    assert b.param_groups[0]["lr"] == 0.3 and b.param_groups[0]["gc_on"] == "update"


@pytest.mark.filterwarnings("ignore::gc_core.GCWarning")  # its module is one that nobody knows
def test_groups_of_another_number_or_size_are_refused():
    model = Tensors()
    one = gct.SGD(model)
    params = list(model.parameters())
    two = gct.SGD([{"params": params[:2]}, {"params": params[2:]}])
    before = everything(one)
    with pytest.raises(ValueError, match="groups"):
        one.load_state_dict(two.state_dict())
    with pytest.raises(ValueError, match="size"):
        one.load_state_dict(gct.SGD(params[:3]).state_dict())
    assert everything(one) == before


def test_named_parameters():
    layer = nn.Sequential(nn.Linear(3, 2), nn.ConvTranspose1d(4, 2, 3, groups=2))
    optimizer = gct.SGD(layer.named_parameters(), lr=0.1)
    names = [name for name, _ in layer.named_parameters()]
    assert optimizer.param_groups[0]["param_names"] == names
    assert list(optimizer.plan) == names
    assert optimizer.plan["1.weight"].view == (2, 2, 1, 3)  # the layer that owns it says so
    with_plan = gct.SGD(layer.named_parameters(), lr=0.1, plan=gct.plan(layer))
    assert with_plan.plan["1.weight"].view == (2, 2, 1, 3)
    groups = [{"params": [(name, p)], "weight_decay": 0.1} for name, p in layer.named_parameters()]
    grouped = gct.SGD(groups, lr=0.1, plan=gct.plan(layer))
    assert [group["param_names"] for group in grouped.param_groups] == [[name] for name in names]
    grouped.load_state_dict(saved(torch.optim.SGD(groups, lr=0.3).state_dict()))
    assert grouped.param_groups[1]["param_names"] == ["0.bias"] and grouped.param_groups[1]["lr"] == 0.3
    assert grouped.plan["1.weight"].view == (2, 2, 1, 3)


def test_parameters_that_the_plan_does_not_know_get_the_shape_rule():
    model = nn.Sequential(nn.Linear(3, 2))
    optimizer = gct.SGD(model, lr=0.1)
    late, tied = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(3, 1))
    optimizer.add_param_group({"params": [late, tied]})
    assert [row.axes for row in optimizer.plan.rows] == [(1,), None, (1,), None]
    assert [row.name for row in optimizer.plan.rows][2:] == ["group1.0", "group1.1"]
    optimizer.plan = gct.plan(model)  # a parameter put in by hand is learnt in the step
    late.grad = torch.tensor([[3.0, 1.0], [0.0, 0.0]])
    optimizer.step()
    torch.testing.assert_close(late.data, torch.tensor([[0.9, 1.1], [1.0, 1.0]]))


def test_a_view_is_kept_with_the_checkpoint_of_another_process():
    """No axes of the stored shape can say how a grouped transposed convolution is seen."""
    model = nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False)
    optimizer = gct.SGD(model, lr=1.0)
    optimizer.load_state_dict(saved(torch.optim.SGD(model.parameters(), lr=1.0).state_dict()))
    before = model.weight.detach().clone()
    grad = torch.randn(model.weight.shape, generator=torch.Generator().manual_seed(0))
    model.weight.grad = grad.clone()
    optimizer.step()
    change = (before - model.weight).detach()
    for group in range(2):  # of 2 channels in
        for out in range(3):
            g = grad[2 * group : 2 * group + 2, out]
            torch.testing.assert_close(change[2 * group : 2 * group + 2, out], g - g.sum() / 8, rtol=0, atol=1e-6)
    assert optimizer.plan["weight"] == gc_core.Row(
        "weight", (4, 3, 2, 2), (2, 2, 3, 2, 2), (1, 3, 4), "ConvTranspose2d, stored (in, out/2, k, k), 2 groups"
    )

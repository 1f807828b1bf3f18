"""The step in backward: the same bits as after it, no gradients left, and a clear no to what needs all of them."""

import copy
import gc
import warnings
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gc_torch as gct


def model_of(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)


def backward(model, i=0):
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(i)).to(model[0].weight.dtype)
    model(x).square().sum().backward()


def train(model, optimizer, steps=4, schedule=None):
    for i in range(steps):
        optimizer.zero_grad()
        backward(model, i)
        optimizer.step()
        if schedule is not None:
            schedule.step()


def same(one, two):
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


OURS = [
    (gct.SGD, dict(lr=0.1, momentum=0.9, weight_decay=0.1)),
    (gct.AdamW, dict(lr=0.1, gc_on="update")),
    (gct.AdamW, dict(lr=0.1, foreach=True)),
    (gct.Adam, dict(lr=0.1, amsgrad=True, foreach=False)),
]


@pytest.mark.parametrize(("make", "options"), OURS, ids=lambda one: getattr(one, "__name__", None))
def test_bits_are_those_of_a_step_after_backward(make, options):
    model, other = model_of(), model_of()
    optimizer, usual = make(model, **options), make(other, **options)
    in_backward = gct.step_in_backward(model, optimizer)
    schedules = [torch.optim.lr_scheduler.StepLR(one, 2, 0.5) for one in (optimizer, usual)]
    train(model, optimizer, schedule=schedules[0])
    train(other, usual, schedule=schedules[1])
    assert same(model, other) and optimizer.param_groups[0]["lr"] == 0.1 / 4
    saved, wanted = optimizer.state_dict(), usual.state_dict()
    assert saved["param_groups"] == wanted["param_groups"] and saved["state"].keys() == wanted["state"].keys()
    for key, state in wanted["state"].items():
        assert all(torch.equal(saved["state"][key][name], x) for name, x in state.items())
    in_backward.remove()  # and goes on as ever
    train(model, optimizer)
    train(other, usual)
    assert same(model, other)


@pytest.mark.parametrize("way", ["kahan", "stochastic"])
def test_low_precision_has_the_same_bits_too(way):
    model, other = model_of(torch.bfloat16), model_of(torch.bfloat16)
    optimizer, usual = (gct.SGD(one, lr=0.1, low_precision=way) for one in (model, other))
    gct.step_in_backward(model, optimizer)
    train(model, optimizer)
    train(other, usual)
    assert same(model, other)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop", "Adagrad"])
def test_optimizers_of_torch_with_gc_in_front(name):
    model, other = model_of(), model_of()
    optimizer, usual = (getattr(torch.optim, name)(one.parameters(), lr=0.01) for one in (model, other))
    gct.step_in_backward(model, optimizer)
    gct.attach(optimizer, model, where="backward")
    gct.attach(usual, other)
    train(model, optimizer)
    train(other, usual)
    assert same(model, other)


def test_gradients_are_gone_and_their_memory_too():
    model = model_of()
    optimizer = gct.SGD(model, lr=0.1)
    in_backward = gct.step_in_backward(model, optimizer)
    assert str(in_backward) == "SGD steps in backward, on 6 parameters" and "steps in backward" in repr(optimizer)
    alive = []
    model[0].weight.register_hook(lambda grad: alive.append([p.grad is not None for p in model[4].parameters()]))
    backward(model)
    assert alive == [[True, True]]  # what stands there
    for p in model.parameters():
        assert type(p.grad) is not torch.Tensor and p.grad.shape == p.shape
        assert "used for its step in backward" in repr(p.grad)
        with pytest.raises(RuntimeError):
            p.grad.untyped_storage().data_ptr()
    optimizer.step()
    assert all(p.grad is None for p in model.parameters())
    in_backward.remove()
    in_backward.remove()
    assert str(in_backward).startswith("removed")


def test_parameters_that_are_unfrozen_later_are_updated_in_step():
    model, other = model_of(), model_of()
    for one in (model, other):
        one[0].weight.requires_grad_(False)
    optimizer, usual = (gct.SGD(one, lr=0.1) for one in (model, other))
    gct.step_in_backward(model, optimizer)
    for one in (model, other):
        one[0].weight.requires_grad_(True)
    train(model, optimizer)
    train(other, usual)
    assert same(model, other)


WANTED = {
    "clipping by norm needs all gradients at once": lambda m, o: nn.utils.clip_grad_norm_(m.parameters(), 1.0),
    "clipping comes too late": lambda m, o: nn.utils.clip_grad_value_(m.parameters(), 1.0),
    "gradients cannot be accumulated": lambda m, o: backward(m),
    "a GradScaler scales the loss": lambda m, o: torch.amp.GradScaler("cpu").scale(m(torch.ones(1, 6)).sum()),
    "mean() comes too late": lambda m, o: m[0].weight.grad.mean(),
}


@pytest.mark.parametrize("said", WANTED)
@pytest.mark.parametrize("make", [gct.SGD, torch.optim.SGD])
def test_what_needs_all_gradients_is_refused_by_name_and_changes_nothing(make, said):
    model = model_of()
    optimizer = make(model if make is gct.SGD else model.parameters(), lr=0.1)
    in_backward = gct.step_in_backward(model, optimizer)
    backward(model)
    before = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match="remove\\(\\) the step in backward") as raised:
        WANTED[said](model, optimizer)
    assert said in str(raised.value) and same(model, before)
    in_backward.remove()
    optimizer.zero_grad()
    backward(model)
    WANTED[said](model, optimizer)  # now it may


def test_a_scaler_of_another_model_is_left_alone():
    gc.collect()  # what other tests have left
    model, other = model_of(), model_of()
    optimizer = gct.SGD(model, lr=0.1)
    in_backward = gct.step_in_backward(model, optimizer)
    torch.amp.GradScaler("cpu").scale(other(torch.ones(1, 6)).sum()).backward()
    in_backward.remove()
    assert torch.amp.GradScaler.scale.__module__ == "torch.amp.grad_scaler"
    assert not hasattr(torch.amp.GradScaler.scale, "__wrapped__")


def test_zero_grad_may_fill_with_zeros():
    model = model_of()
    optimizer = gct.SGD(model, lr=0.1)
    gct.step_in_backward(model, optimizer)
    for i in range(2):
        backward(model, i)
        optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is None for p in model.parameters())


def test_a_second_derivative_needs_the_gradient():
    model = model_of()
    optimizer = gct.SGD(model, lr=0.1)
    gct.step_in_backward(model, optimizer)
    before = copy.deepcopy(model)
    warnings.simplefilter("ignore", UserWarning)  # of PyTorch, about a cycle
    with pytest.raises(RuntimeError, match="create_graph=True"):
        model(torch.ones(1, 6)).sum().backward(create_graph=True)
    assert same(model, before)


class Elsewhere(torch.optim.SGD):
    """An optimizer that nobody here knows."""


def test_what_is_refused_at_once():
    model = model_of()
    params = list(model.parameters())
    for optimizer, error, said in (
        (torch.optim.LBFGS(params), ValueError, "LBFGS needs all gradients at once"),
        (Elsewhere(params, lr=0.1), ValueError, "independent=True"),
        (gct.SGD(model, lr=0.1, differentiable=True), ValueError, "differentiable must be False"),
        (gct.SGD(model_of(), lr=0.1), ValueError, "none of the model's parameters"),
        (model, TypeError, "optimizer must be a torch.optim.Optimizer"),
    ):
        with pytest.raises(error) as raised:
            gct.step_in_backward(model, optimizer)
        assert said in str(raised.value)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        gct.step_in_backward(params, gct.SGD(model, lr=0.1))
    attached = torch.optim.SGD(params, lr=0.1)
    gct.attach(attached, model)
    with pytest.raises(ValueError, match='where="backward"'):
        gct.step_in_backward(model, attached)
    optimizer = Elsewhere(params, lr=0.1)
    gct.step_in_backward(model, optimizer, independent=True).remove()
    ours = gct.SGD(model, lr=0.1)
    in_backward = gct.step_in_backward(model, ours)
    with pytest.raises(ValueError, match="in backward already"):
        gct.step_in_backward(model, optimizer, independent=True)
    in_backward.remove()
    plain = torch.optim.SGD(params, lr=0.1)
    gct.step_in_backward(model, plain)
    with pytest.raises(ValueError, match='where="backward"'):
        gct.attach(plain, model)
    other = model_of()
    backward(other)
    with pytest.raises(ValueError, match="there are gradients already"):
        gct.step_in_backward(other, gct.SGD(other, lr=0.1))


def test_nothing_is_kept_alive():
    model = model_of()
    optimizer = gct.SGD(model, lr=0.1)
    gct.step_in_backward(model, optimizer)
    train(model, optimizer, 1)
    gone = [weakref.ref(one) for one in (optimizer, model, model[0].weight)]
    del model, optimizer
    gc.collect()
    assert [one() for one in gone] == [None, None, None]


def _reverse(model, optimizer):
    optimizer.param_groups.reverse()


def _remove_a_group(model, optimizer):
    if len(optimizer.param_groups) > 1:
        del optimizer.param_groups[0]


def _move_to_another_group(model, optimizer):
    if len(optimizer.param_groups[0]["params"]) > 1:
        optimizer.param_groups[-1]["params"].append(optimizer.param_groups[0]["params"].pop(0))


def _take_out(model, optimizer):
    optimizer.param_groups[0]["params"] = optimizer.param_groups[0]["params"][1:]


def _put_copies_of_groups(model, optimizer):
    optimizer.param_groups = [dict(group) for group in optimizer.param_groups][::-1]


def _other_data(model, optimizer):
    """Pruned by `.data`, as many do; states of the old shape would fit in no optimizer."""
    optimizer.state.clear()
    for layer in model:
        layer.weight.data = layer.weight.data[:, : layer.weight.shape[1]].clone()
    model[-1].weight.data = model[-1].weight.data[:-1].clone() if len(model[-1].weight) > 2 else model[-1].weight.data


def _to_double(model, optimizer):
    optimizer.state.clear()
    model.double()


CHANGES = [
    _reverse, _remove_a_group, _move_to_another_group, _take_out, _put_copies_of_groups, _other_data, _to_double,
]  # fmt: skip


@given(
    st.lists(st.sampled_from(CHANGES), max_size=4),
    st.sampled_from(["gct.SGD", "gct.AdamW", "torch.SGD", "torch.AdamW"]),
    st.booleans(),
)
@settings(max_examples=30)
def test_whatever_becomes_of_the_groups(changes, which, closure):
    """As the same optimizer without it, whose gradients come one backward pass at a time."""
    results = []
    for in_backward in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(4)))
        groups = [{"params": [model[0].weight, model[1].weight], "lr": 0.1}, {"params": [model[2].weight], "lr": 1e-3}]
        groups.append({"params": [model[3].weight], "lr": 0.01})
        package, name = which.split(".")
        options = {"momentum": 0.9} if name == "SGD" else {}
        optimizer = getattr(gct if package == "gct" else torch.optim, name)(groups, lr=0.1, **options)
        if in_backward:
            gct.step_in_backward(model, optimizer)
        for change in [None, *changes]:
            if change is not None:
                change(model, optimizer)

            def loss(model=model):
                model.zero_grad()
                x = torch.ones(2, 4, dtype=model[0].weight.dtype)
                found = model(x).square().sum()
                found.backward()
                return found

            if closure:
                optimizer.step(loss)
            else:
                loss()
                optimizer.step()
        results.append([p.detach().clone() for p in model.parameters()])
    for mine, theirs in zip(*results, strict=True):
        assert torch.equal(mine, theirs)

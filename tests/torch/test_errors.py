"""Bad calls of the optimizers: an error that names what was wrong, and nothing has changed, in no group."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

import gc_core
import gc_torch as gct
from gc_torch import step_checks

from .cases import KINDS, PATHS, Tensors, everything

NAN, INF = math.nan, math.inf

# Parameters of no module are put into groups here: that their rows are guessed is tested elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore::gc_core.GCWarning")
NUMBER = [
    (NAN, ValueError, "nan"),
    (INF, ValueError, "inf"),
    (-0.1, ValueError, "-0.1"),
    ("0.1", TypeError, "'0.1'"),
    (None, TypeError, "None"),
    (True, TypeError, "True"),
    (1j, TypeError, "1j"),
    (torch.ones(2), TypeError, "(2,)"),
    (torch.tensor(-1.0), ValueError, "-1.0"),
    (torch.tensor([NAN]), ValueError, "nan"),
    (torch.tensor(1j), TypeError, "complex64"),
]
BOTH = [
    *(({"lr": value}, error, ["lr", word]) for value, error, word in NUMBER),
    *(({"weight_decay": value}, error, ["weight_decay", word]) for value, error, word in NUMBER),
    ({"gc_on": "weights"}, ValueError, ["gc_on", "'gradient'", "'update'", "None", "'weights'"]),
    ({"gc_on": True}, TypeError, ["gc_on", "True"]),
    ({"gc_on": 1}, TypeError, ["gc_on", "1"]),
    ({"gc_on": ["update"]}, TypeError, ["gc_on", "update"]),
]
SGD = [
    *BOTH,
    *(({"momentum": value}, error, ["momentum", word]) for value, error, word in NUMBER),
    ({"dampening": NAN}, ValueError, ["dampening", "nan"]),
    ({"dampening": "0"}, TypeError, ["dampening", "'0'"]),
    ({"nesterov": True, "momentum": 0}, ValueError, ["nesterov", "momentum=0"]),
    ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, ValueError, ["nesterov", "dampening", "0.1"]),
]
ADAM = [
    *BOTH,
    *(({"eps": value}, error, ["eps", word]) for value, error, word in NUMBER),
    *(({"betas": (value, 0.9)}, error, ["betas[0]", word]) for value, error, word in NUMBER),
    *(({"betas": (0.9, value)}, error, ["betas[1]", word]) for value, error, word in NUMBER),
    ({"betas": (0.9, 1.0)}, ValueError, ["betas[1]", "1.0"]),
    ({"betas": (1.0, 0.9)}, ValueError, ["betas[0]", "1.0"]),
    ({"betas": (0.9,)}, ValueError, ["betas", "two"]),
    ({"betas": (0.9, 0.9, 0.9)}, ValueError, ["betas", "two"]),
    ({"betas": 0.9}, TypeError, ["betas", "0.9"]),
]
OPTIONS = {"SGD": SGD, "Adam": ADAM, "AdamW": ADAM}
ROWS = [(kind, *row) for kind in KINDS for row in OPTIONS[kind]]
STATE = {"SGD": {"momentum": 0.9}, "Adam": {"amsgrad": True}, "AdamW": {}}


def name(value):
    return re.sub(r"\W+", "-", str(value))[:40] if isinstance(value, dict) else None


def refused(error, words, call, *args, **kwargs):
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    for word in words:
        assert word in text, f"{text!r} does not say {word!r}"
    return text


def three_groups(kind, steps=1, **options):
    """An optimizer over three groups, some steps old, with a gradient for the next one."""
    model = Tensors(names=("bias", "linear", "conv2d", "grouped", "last", "alone"))
    params = list(model.parameters())
    groups = [{"params": params[:2]}, {"params": params[2:4], "gc_on": "update"}, {"params": params[4:]}]
    optimizer = getattr(gct, kind)(groups, **{"lr": 0.1, **STATE[kind], **options}, plan=model.plan)
    for step in range(steps):
        model.set_grads(step)
        optimizer.step()
    model.set_grads(steps)
    return model, optimizer


@pytest.mark.parametrize(("kind", "options", "error", "words"), ROWS, ids=name)
def test_a_bad_option(kind, options, error, words):
    """When the optimizer is made, when a group is added, and when an option is changed between steps."""
    cls = getattr(gct, kind)
    w = torch.ones(2, 3)
    refused(error, words, cls, [w], **options)
    refused(error, words, cls, [{"params": [w], **options}])
    _, optimizer = three_groups(kind)
    before = everything(optimizer)
    refused(error, words, optimizer.add_param_group, {"params": [w], **options})
    assert everything(optimizer) == before and optimizer.plan.row_of(w) is None
    optimizer.param_groups[-1].update(options)
    before = everything(optimizer)
    if lives_in_a_step(options):
        optimizer.step()
        assert everything(optimizer) != before
    else:
        refused(error, words, optimizer.step)
        assert everything(optimizer) == before


def lives_in_a_step(options):
    """Whether PyTorch's own optimizers live with it between steps: finite numbers of any sign, Nesterov's options."""
    numbers = {key: value for key, value in options.items() if key in ("lr", "weight_decay", "momentum", "eps")}
    negative = any(
        (type(x) is float and math.isfinite(x)) or (torch.is_tensor(x) and (x == -1).all()) for x in numbers.values()
    )
    return negative or (options.get("nesterov") is True and options.keys() <= {"nesterov", "momentum", "dampening"})


@pytest.mark.parametrize("kind", KINDS)
def test_what_torch_refuses(kind):
    cls, w = getattr(gct, kind), torch.ones(2, 3)
    refused(TypeError, ["centralise"], cls, [w], centralise=True)
    refused(TypeError, [], cls, w)
    refused(TypeError, [], cls, 3)
    refused(TypeError, [], cls, [np.ones((2, 3))])
    refused(ValueError, ["empty"], cls, [])
    refused(ValueError, ["leaf"], cls, [w.requires_grad_() * 2])
    refused(ValueError, [], cls, [{"params": [w]}, {"params": [w]}])
    refused(RuntimeError, ["fused", "foreach"], cls, [w], fused=True, foreach=True)
    refused(RuntimeError, ["fused", "differentiable"], cls, [w], fused=True, differentiable=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_plan(kind):
    cls, model = getattr(gct, kind), nn.Linear(2, 3)
    refused(ValueError, ["plan must be 'out_first', what", "'out_last'"], cls, model, plan="out_last")
    for plan in ({"weight": 1}, 1, gc_core.Plan([])):
        refused(TypeError, ["plan must be what gc_torch.plan(model) gives"], cls, model, plan=plan)
    refused(ValueError, ["plan", "parameters"], cls, model, plan=gct.plan(nn.Linear(2, 3)))
    refused(ValueError, ["lazy"], cls, nn.Sequential(nn.LazyLinear(3)))
    refused(ValueError, ["lazy"], cls, nn.Sequential(nn.LazyLinear(3)).parameters())
    optimizer = cls(model)
    rows = optimizer.plan.rows
    refused(ValueError, ["lazy"], optimizer.add_param_group, {"params": list(nn.LazyLinear(3).parameters())})
    assert len(optimizer.param_groups) == 1 and optimizer.plan.rows == rows


# ---- Nothing is partly applied


def sparse_grad(model, optimizer):
    model.last.grad = model.last.grad.to_sparse()
    return TypeError, ["last: the gradient", "sparse"]


def grad_of_another_dtype(model, optimizer):
    model.last.data = model.last.data.float()
    return ValueError, ["last: the gradient", "float64", "float32"]


def grad_of_another_shape(model, optimizer):
    model.last.data = model.last.data[:2].clone()
    return ValueError, ["last: the gradient", "(3, 4)", "(2, 4)"]


def of_no_plan(model, optimizer):
    """Put into the group by hand."""
    p = nn.Parameter(torch.ones(2, 3))
    p.grad = torch.ones(2, 3).to_sparse()
    optimizer.param_groups[-1]["params"].append(p)
    return TypeError, ["the gradient", "sparse"]


def field_of(optimizer):
    return {"SGD": "momentum_buffer", "Adam": "max_exp_avg_sq", "AdamW": "exp_avg_sq"}[type(optimizer).__name__]


def state_of_another_shape(model, optimizer):
    field = field_of(optimizer)
    optimizer.state[model.last][field] = torch.ones(4, 3, dtype=torch.float64)
    return ValueError, [f"last: the state's {field}", "(4, 3)", "(3, 4)"]


def state_of_another_dtype(model, optimizer):
    field = field_of(optimizer)
    optimizer.state[model.last][field] = torch.ones(3, 4)
    return ValueError, [f"last: the state's {field}", "float32", "float64"]


def state_of_another_device(model, optimizer):
    field = field_of(optimizer)
    optimizer.state[model.last][field] = torch.ones(3, 4, dtype=torch.float64, device="meta")
    return ValueError, [f"last: the state's {field}", "meta", "cpu"]


def sparse_state(model, optimizer):
    field = field_of(optimizer)
    optimizer.state[model.last][field] = torch.ones(3, 4, dtype=torch.float64).to_sparse()
    return TypeError, [f"last: the state's {field}", "sparse"]


def state_that_is_no_tensor(model, optimizer):
    field = field_of(optimizer)
    optimizer.state[model.last][field] = np.ones((3, 4))
    return TypeError, [f"last: the state's {field}", "ndarray"]


def state_of_another_kind(model, optimizer):
    optimizer.state[model.last] = {"square_avg": torch.ones(3, 4, dtype=torch.float64)}
    return TypeError, ["last: ", "state", type(optimizer).__name__, "square_avg"]


def state_without_a_step(model, optimizer):
    del optimizer.state[model.last]["step"]
    return TypeError, ["last: ", "step"]


def state_with_a_step_that_is_no_number(model, optimizer):
    optimizer.state[model.last]["step"] = "one"
    return TypeError, ["last: ", "step", "one"]


def state_with_two_steps(model, optimizer):
    optimizer.state[model.last]["step"] = torch.ones(2)
    return TypeError, ["last: ", "step", "one number", "[1., 1.]"]


def amsgrad_without_its_state(model, optimizer):
    optimizer.param_groups[-1]["amsgrad"] = True
    optimizer.state[model.last].pop("max_exp_avg_sq", None)
    return ValueError, ["last: ", "amsgrad", "max_exp_avg_sq"]


def complex_parameter(model, optimizer):
    p = nn.Parameter(torch.ones(2, 3, dtype=torch.complex64))
    p.grad = torch.ones_like(p)
    optimizer.add_param_group({"params": [p]})
    return TypeError, ["group3.0: ", "complex"]


OF_TENSORS = [
    sparse_grad, grad_of_another_dtype, grad_of_another_shape, of_no_plan, state_of_another_shape,
    state_of_another_dtype, state_of_another_device, sparse_state, state_that_is_no_tensor, state_of_another_kind,
]  # fmt: skip
OF_ADAM = [
    state_without_a_step, state_with_a_step_that_is_no_number, state_with_two_steps, amsgrad_without_its_state,
    complex_parameter,
]  # fmt: skip
BREAKS = [(kind, spoil) for kind in KINDS for spoil in (OF_TENSORS if kind == "SGD" else OF_TENSORS + OF_ADAM)]


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("kind", "spoil"), BREAKS)
def test_one_bad_tensor_in_the_last_group_changes_nothing(kind, spoil, path, steps):
    if not steps and "state" in spoil.__name__:
        steps = 1  # otherwise there is none
    model, optimizer = three_groups(kind, steps, **PATHS[path])
    error, words = spoil(model, optimizer)
    before = everything(optimizer)
    refused(error, words, optimizer.step)
    assert everything(optimizer) == before


def test_a_group_may_have_what_a_schedule_has_made_of_the_lr():
    optimizer = gct.AdamW([nn.Parameter(torch.ones(2))], lr=0.1)
    optimizer.param_groups[0]["lr"] = -1e-19
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": optimizer.param_groups[0]["lr"]})
    for options in ({"lr": -1e-3}, {"lr": optimizer.param_groups[0]["lr"], "weight_decay": -1.0}):
        with pytest.raises(ValueError, match="must be a finite number >= 0"):
            optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], **options})


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_is_partly_applied_is_noticed(kind, monkeypatch):
    """The check of one group at a time would step the first ones."""
    model, optimizer = three_groups(kind)
    state_of_another_shape(model, optimizer)
    before = everything(optimizer)
    monkeypatch.setattr(step_checks, "group", lambda optimizer, options, rows: None)
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        optimizer.step()
    assert everything(optimizer) != before


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_dict_of_another_kind(kind):
    """Refused by name, and what was there is kept."""
    other = "Adam" if kind == "SGD" else "SGD"
    _, theirs = three_groups(other)
    _, optimizer = three_groups(kind)
    before = everything(optimizer)
    refused(TypeError, ["state", kind], optimizer.load_state_dict, theirs.state_dict())
    assert everything(optimizer) == before


@pytest.mark.parametrize("kind", KINDS)
def test_without_gc_a_gradient_is_torch_s_business(kind):
    """gc_on=None refuses no more than PyTorch does."""
    p = nn.Parameter(torch.ones(2, 3, dtype=torch.complex64))
    p.grad = torch.ones_like(p)
    getattr(gct, kind)([p], gc_on=None).step()
    assert not torch.equal(p, torch.ones_like(p))

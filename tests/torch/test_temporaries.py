"""PyTorch's own fused step on temporaries, as where Numba is absent, with every tensor large enough to be cut."""

import itertools

import numpy as np
import pytest
import torch

import gc_torch as gct
from gc_torch import path, pieces, temporaries

from . import restatement
from .cases import KINDS, MEMORY, PATHS, Tensors, as_it_is, channels_last, grads, moved, numbers
from .test_errors import BREAKS, everything, refused, three_groups
from .test_optimizer_rules import HALVES, OPTIONS, assert_follows, follow, follow_in_half_precision

# Parameters of no module, and plans without GC, are used here: that this is said is tested elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore::gc_core.GCWarning")


@pytest.fixture(autouse=True, params=["cut", "read twice"])
def small_pieces(request, monkeypatch):
    """ "read twice": with a decay inside Φ, tensors whose means a piece does not show are left whole."""
    monkeypatch.setattr(path, "KERNELS", {})
    monkeypatch.setattr(pieces, "_AT_A_TIME", {"cpu": 5})
    monkeypatch.setattr(pieces, "_SHARED", 0 if request.param == "cut" else 1 << 22)


@pytest.mark.parametrize("gc_on", ["gradient", "update"])
@pytest.mark.parametrize("taken", ["unset", "fused"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_rule(kind, taken, gc_on):
    for options, maximize in itertools.product(OPTIONS[kind], (False, True)):
        follow(kind, {**options, "maximize": maximize, "gc_on": gc_on, **PATHS[taken]})
    for memory in MEMORY:
        follow(kind, {**OPTIONS[kind][-1], "gc_on": gc_on, **PATHS[taken]}, memory=memory)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(kind, dtype):
    follow_in_half_precision(kind, dtype, "fused")


def test_tensors_are_cut(monkeypatch):
    sizes = []
    step = temporaries._step

    def noted(*args):
        sizes.append([p.shape for p in args[3][0]])
        step(*args)

    monkeypatch.setattr(temporaries, "_step", noted)
    p = torch.nn.Parameter(torch.ones(3, 4))
    optimizer = gct.Adam([p])
    for _ in range(2):
        p.grad = torch.ones(3, 4)
        optimizer.step()
    assert sizes == [[(1, 4)]] * 6 and optimizer.state[p]["step"] == 2


def test_a_count_of_steps_that_is_changed_is_that_of_all_parts():
    params = [torch.nn.Parameter(torch.ones(3, 4)) for _ in range(2)]
    optimizers = [gct.Adam(params[:1], lr=0.1), gct.Adam(params[1:], lr=0.1, foreach=False)]
    for step in range(4):
        for p, optimizer in zip(params, optimizers, strict=True):
            p.grad = numbers((3, 4), step).float()
            if step == 2:
                optimizer.state[p]["step"].fill_(50)
            optimizer.step()
    torch.testing.assert_close(params[0], params[1], rtol=0, atol=1e-6)


def without_clones(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "clone", lambda x: x)


def means_of_pieces(monkeypatch):
    all_of = temporaries.pieces
    monkeypatch.setattr(
        temporaries, "pieces", lambda *args, **how: [piece._replace(across=False) for piece in all_of(*args, **how)]
    )


def decay_of_pieces(monkeypatch):
    plus = temporaries._plus
    monkeypatch.setattr(temporaries, "_plus", lambda x, f, w, out: x if out is None else plus(x, f, w, out))


def sign_of_decay(monkeypatch):
    plus = temporaries._plus
    monkeypatch.setattr(temporaries, "_plus", lambda x, f, w, out: plus(x, -f if out is None else f, w, out))


@pytest.mark.parametrize(
    ("kind", "breaks"),
    [("Adam", without_clones), ("AdamW", means_of_pieces), ("SGD", decay_of_pieces), ("SGD", sign_of_decay)],
)
def test_a_piece_that_is_stepped_on_wrongly_is_noticed(kind, breaks, monkeypatch):
    monkeypatch.setattr(pieces, "_SHARED", 0)
    breaks(monkeypatch)
    with pytest.raises(AssertionError):
        follow(kind, {**OPTIONS[kind][-1], "gc_on": "gradient"})


@pytest.mark.parametrize("gc_on", ["gradient", "update"])
@pytest.mark.parametrize("kind", KINDS)
def test_where_an_infinity_was_found_nothing_changes(kind, gc_on):
    model = Tensors()
    optimizer = getattr(gct, kind)(model, plan=model.plan, gc_on=gc_on, **OPTIONS[kind][-1])
    for step in range(3):
        model.set_grads(step)
        before = everything(optimizer)
        optimizer.found_inf = torch.tensor(float(step == 2))
        optimizer.step()
        assert (everything(optimizer) == before) == (step == 2)


# ---- A group that is recognized


@pytest.mark.parametrize(("kind", "spoil"), BREAKS)
def test_one_bad_tensor_changes_nothing(kind, spoil):
    model, optimizer = three_groups(kind, 2)
    assert optimizer._kept._of_group
    error, words = spoil(model, optimizer)
    before = everything(optimizer)
    refused(error, words, optimizer.step)
    assert everything(optimizer) == before


def follow_changes(kind):
    """A parameter and a state in other memory, of other strides, an option, a gradient that is missing."""
    model = Tensors()
    options = {**OPTIONS[kind][-1], "lr": 0.1, "gc_on": "gradient"}
    expected = restatement.Run(
        kind, {n: p.detach().numpy().copy() for n, p in model.named_parameters()}, model.views, **options
    )
    optimizer = getattr(gct, kind)(model, plan=model.plan, **options)
    state = "momentum_buffer" if kind == "SGD" else "exp_avg"

    def moved(x):
        return x.t().contiguous().t()

    def other_memory():
        model.conv2d.data = model.conv2d.data.clone()
        optimizer.state[model.conv2d][state] = optimizer.state[model.conv2d][state].clone()

    def other_strides():
        model.linear.data = moved(model.linear.data)

    def other_strides_of_the_states():
        state = optimizer.state[model.linear]
        state.update({name: moved(x) for name, x in state.items() if x.ndim})

    def another_lr():
        optimizer.param_groups[0]["lr"] = expected.options["lr"] = 0.01

    changes = [None, None, other_memory, other_strides, other_strides_of_the_states, another_lr, None]
    for step, change in enumerate(changes):
        if change is not None:
            change()
        model.set_grads(step)
        expected.step(grads(model))
        optimizer.step()
        assert_follows(optimizer, model, expected, 1e-12, f"after {change}")
    del model.linear.grad
    before = model.linear.detach().clone(), model.conv2d.detach().clone()
    optimizer.step()
    assert torch.equal(model.linear, before[0]) and not torch.equal(model.conv2d, before[1])


@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_between_steps_is_seen(kind):
    follow_changes(kind)


# ---- Small tensors that are alike


ALIKE = [(3, 4), (2, 3, 2, 2), (3, 4), (5,), (3, 4), (2, 3, 2, 2), (4, 3)]


def follow_alike(kind, options, memory=as_it_is):
    params = [torch.nn.Parameter(memory(numbers(shape, i))) for i, shape in enumerate(ALIKE)]
    views = {str(i): (s, tuple(range(1, len(s))) if len(s) > 1 else None) for i, s in enumerate(ALIKE)}
    start = {str(i): p.detach().numpy().copy() for i, p in enumerate(params)}
    expected = restatement.Run(kind, start, views, lr=0.1, **options)
    optimizer = getattr(gct, kind)(params, lr=0.1, **options)
    for step in range(3):
        for i, p in enumerate(params):
            p.grad = memory(numbers(p.shape, 100 * step + i))
        expected.step({str(i): p.grad.numpy() for i, p in enumerate(params)})
        kept = [p.grad.clone() for p in params]
        optimizer.step()
        assert all(torch.equal(p.grad, grad) for p, grad in zip(params, kept, strict=True))
    for i, p in enumerate(params):
        np.testing.assert_allclose(p.detach().numpy(), expected.params[str(i)], 0, 1e-12)


@pytest.mark.parametrize("gc_on", ["gradient", "update"])
@pytest.mark.parametrize("kind", KINDS)
def test_small_tensors_that_are_alike(kind, gc_on, monkeypatch):
    monkeypatch.setattr(pieces, "_AT_A_TIME", {"cpu": 1000})
    for options, maximize, memory in itertools.product(OPTIONS[kind], (False, True), (as_it_is, moved, channels_last)):
        follow_alike(kind, {**options, "maximize": maximize, "gc_on": gc_on}, memory)


def test_they_are_seen_as_one_and_a_wrong_axis_is_noticed(monkeypatch):
    monkeypatch.setattr(pieces, "_AT_A_TIME", {"cpu": 1000})
    stacked, stack = [], torch.stack

    def on_the_wrong_side(tensors):
        stacked.append(len(tensors))
        return stack(tensors, 1).transpose(0, 1).flip(0)

    monkeypatch.setattr(torch, "stack", on_the_wrong_side)
    with pytest.raises(AssertionError):
        follow_alike("SGD", {"gc_on": "gradient"})
    assert stacked[:2] == [3, 2]

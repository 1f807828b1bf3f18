"""Every rule through the optimizers, for every option, on every path, against the restatement."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import gc_torch as gct

from . import restatement
from .cases import KINDS, MEMORY, PATHS, VIEWS, Tensors, as_it_is, channels_last, grads, moved, numbers

# Parameters of no module, and plans without GC, are used here: that this is said is tested elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore::gc_core.GCWarning")

SGD = [
    dict(zip(("momentum", "dampening", "nesterov", "weight_decay"), values, strict=True))
    for values in (
        (0.0, 0.0, False, 0.0),
        (0.0, 0.5, False, 0.3),
        (0.9, 0.0, False, 0.0),
        (0.9, 0.9, False, 0.3),
        (0.9, 0.0, True, 0.0),
        (0.9, 0.0, True, 0.3),
    )
]
ADAM = [
    {"amsgrad": amsgrad, "weight_decay": decay, "betas": betas, "eps": eps}
    for amsgrad in (False, True)
    for decay in (0.0, 0.3)
    for betas, eps in (((0.9, 0.999), 1e-8), ((0.0, 0.5), 1e-2))
]
OPTIONS = {"SGD": SGD, "Adam": ADAM, "AdamW": ADAM}


def states_of(kind, state):
    """The state as the restatement has it."""
    if kind == "SGD":
        return {"momentum_buffer": state}
    return dict(zip(("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"), state, strict=True))


def assert_follows(optimizer, model, expected, atol, what=""):
    """Parameters and states are those of the restatement."""
    for name, p in model.named_parameters():
        np.testing.assert_allclose(expected.seen(name, p), expected.params[name], 0, atol, err_msg=f"{name} {what}")
        for key, wanted in states_of(expected.kind, expected.state[name]).items():
            got = optimizer.state[p].get(key)
            if key == "step":
                assert int(got) == wanted
            elif got is not None:
                np.testing.assert_allclose(expected.seen(name, got), wanted, 0, atol, err_msg=f"{name}.{key} {what}")


def follow(kind, options, *, memory=(as_it_is, as_it_is), steps=4, atol=1e-12, plan=None):
    """Take steps with our optimizer and with the restatement, and compare after each."""
    model = Tensors(memory=memory[0]).requires_grad_(not options.get("differentiable", False))
    start = {name: p.detach().numpy() for name, p in model.named_parameters()}
    how = ("foreach", "fused", "capturable", "differentiable")
    rule = {key: value for key, value in options.items() if key not in how}
    expected = restatement.Run(kind, {name: x.copy() for name, x in start.items()}, model.views, lr=0.1, **rule)
    optimizer = getattr(gct, kind)(model, lr=0.1, plan=model.plan if plan is None else plan(model), **options)
    for step in range(steps):
        model.set_grads(step, memory[1])
        expected.step(grads(model))
        optimizer.step()
        # ĝ is off by some units of 2e-16 and, under Adam, divided by √v: no element of these numbers is below 1e-3
        assert_follows(optimizer, model, expected, atol, f"{options} step {step}")


@pytest.mark.parametrize("gc_on", ["gradient", "update", None])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_rule(kind, path, gc_on):
    for options, maximize in itertools.product(OPTIONS[kind], (False, True)):
        follow(kind, {**options, "maximize": maximize, "gc_on": gc_on, **PATHS[path]})


@pytest.mark.parametrize("gc_on", ["gradient", "update"])
@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_capturable(kind, gc_on):
    for options in ADAM:
        follow(kind, {**options, "gc_on": gc_on, "capturable": True, "fused": True})


@pytest.mark.parametrize("gc_on", ["gradient", "update"])
@pytest.mark.parametrize("kind", KINDS)
def test_differentiable(kind, gc_on):
    """PyTorch's own differentiable step has bias corrections in float32, and fails with amsgrad."""
    for options in OPTIONS[kind]:
        if not options.get("amsgrad"):
            follow(kind, {**options, "gc_on": gc_on, "differentiable": True})


@pytest.mark.parametrize("gc_on", ["gradient", "update"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_memory_of_weights_and_gradients(kind, path, gc_on):
    for memory in MEMORY:
        follow(kind, {**OPTIONS[kind][-1], "gc_on": gc_on, **PATHS[path]}, memory=memory)


@pytest.mark.parametrize("kind", KINDS)
def test_groups_with_options_of_their_own(kind):
    model = Tensors()
    names = list(VIEWS)
    parts = [names[0::3], names[1::3], names[2::3]]
    own = [{"gc_on": "update", "weight_decay": 0.3}, {"gc_on": "gradient", "lr": 0.05}, {"gc_on": None}]
    groups = [{"params": [model.get_parameter(n) for n in part], **o} for part, o in zip(parts, own, strict=True)]
    optimizer = getattr(gct, kind)(groups, lr=0.1, plan=model.plan)
    runs = [
        restatement.Run(
            kind,
            {n: model.get_parameter(n).detach().numpy().copy() for n in part},
            model.views,
            **{"lr": 0.1, **o},
        )
        for part, o in zip(parts, own, strict=True)
    ]
    for step in range(3):
        model.set_grads(step)
        optimizer.step()
        for part, run in zip(parts, runs, strict=True):
            run.step({n: model.get_parameter(n).grad.numpy() for n in part})
            for n in part:
                np.testing.assert_allclose(run.seen(n, model.get_parameter(n)), run.params[n], 0, 1e-12)


@pytest.mark.parametrize("gc_on", ["gradient", "update"])
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_may_be_tensors(kind, gc_on):
    """Of float64 here, so that they are the same numbers."""

    def number(value):
        return torch.tensor(value, dtype=torch.float64)

    if kind == "SGD":
        options = {"lr": 0.1, "weight_decay": 0.3, "momentum": 0.9}
        tensors = {"lr": number(0.1), "weight_decay": number(0.3)}
        paths = ("unset", "foreach", "for-loop")
    else:
        options = {"lr": 0.1, "weight_decay": 0.3, "betas": (0.9, 0.99)}
        tensors = {"lr": number(0.1), "betas": (number(0.9), number(0.99))}
        paths = ("unset", "fused", "for-loop")
    for path, (key, tensor) in itertools.product(paths, tensors.items()):
        model = Tensors()
        start = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
        expected = restatement.Run(kind, start, model.views, gc_on=gc_on, **options)
        given = {**options, key: tensor, "gc_on": gc_on, **PATHS[path]}
        optimizer = getattr(gct, kind)(model, plan=model.plan, **given)
        for step in range(3):
            model.set_grads(step)
            expected.step(grads(model))
            optimizer.step()
        assert_follows(optimizer, model, expected, 1e-12, f"{path} {key}")


@pytest.mark.parametrize("gc_on", ["gradient", "update"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_more_numbers_than_are_centralized_at_a_time(kind, path, gc_on):
    """Large tensors and small ones between them, of both dtypes: each keeps to its own temporary."""
    shapes = [(5,), (550, 1000), (3, 4), (40, 5000), (2, 2, 2), (1, 100_000), (7, 3)]
    dtypes = [torch.float64, torch.float32, torch.float32, torch.float64, torch.float64, torch.float32, torch.float64]
    pairs = list(zip(shapes, dtypes, strict=True))
    params = [nn.Parameter(numbers(shape, i).to(dtype)) for i, (shape, dtype) in enumerate(pairs)]
    start = {str(i): p.detach().double().numpy().copy() for i, p in enumerate(params)}
    views = {str(i): (s, tuple(range(1, len(s))) if len(s) > 1 else None) for i, s in enumerate(shapes)}
    options = {"lr": 0.1, "weight_decay": 0.1, "gc_on": gc_on, **({} if kind == "SGD" else {"eps": 0.1})}
    expected = restatement.Run(kind, start, views, **options)
    optimizer = getattr(gct, kind)(params, **options, **PATHS[path])
    for step in range(2):
        for i, p in enumerate(params):
            p.grad = numbers(p.shape, 100 * (step + 1) + i).to(p.dtype)
        expected.step({str(i): p.grad.double().numpy() for i, p in enumerate(params)})
        optimizer.step()
    for i, p in enumerate(params):
        # float32: as below
        atol = 1e-12 if p.dtype == torch.float64 else 3.6e-4
        np.testing.assert_allclose(p.detach().double().numpy(), expected.params[str(i)], 0, atol)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_float32(kind, path):
    """With eps 0.1 every number here is of magnitude 10 at most, and every quotient a product with 10 at most: a step
    has some 20 roundings, so that three are off by less than 3 · 20 · 10 · 10 units of 6e-8."""
    extra = {} if kind == "SGD" else {"eps": 0.1}
    for gc_on, memory in itertools.product(("gradient", "update"), MEMORY[:3]):
        model = Tensors(torch.float32, memory[0])
        options = {"lr": 0.1, "weight_decay": 0.1, "gc_on": gc_on, **extra}
        start = {name: p.detach().numpy() for name, p in model.named_parameters()}
        expected = restatement.Run(kind, {n: x.copy() for n, x in start.items()}, model.views, **options)
        optimizer = getattr(gct, kind)(model, plan=model.plan, **options, **PATHS[path])
        for step in range(3):
            model.set_grads(step, memory[1])
            expected.step(grads(model))
            optimizer.step()
        assert_follows(optimizer, model, expected, 3.6e-4)


# ---- Half precision


def between(got, exact, error, dtype):
    """Whether each number is one that lies between (exact ± error), rounded once."""
    low, high = (torch.from_numpy(np.asarray(exact + sign * error)).to(dtype) for sign in (-1, 1))
    return bool(((got >= low) & (got <= high)).all())


def follow_in_half_precision(kind, dtype, path):
    """From half-precision weights, gradients and states, each result is the exact one, rounded to half precision.

    Weights, gradients and m are below 40, and a step has less than 20 operations in float32: 20 · 40 · 6e-8 = 5e-5.
    Under Adam ĝ's error is divided by eps = 0.1 at most, and multiplied by lr = 0.1. v = 0.001 g² is below 5: 1e-5."""
    extra = {"momentum": 0.9} if kind == "SGD" else {"eps": 0.1, "amsgrad": True}
    names = ("bias", "linear", "last", "alone", "conv2d", "grouped", "scalar")
    for gc_on, decay, memory in itertools.product(("gradient", "update"), (0.0, 0.1), (as_it_is, channels_last, moved)):
        model = Tensors(dtype, memory, names)
        shift(model.parameters())
        options = {"lr": 0.1, "weight_decay": decay, "gc_on": gc_on, **extra}
        optimizer = getattr(gct, kind)(model, plan=model.plan, **options, **PATHS[path])
        for step in range(3):
            start = {n: p.detach().double().numpy() for n, p in model.named_parameters()}
            expected = restatement.Run(kind, start, model.views, **options)
            for name, p in model.named_parameters():
                if step:
                    state = [expected.seen(name, x) for key, x in optimizer.state[p].items() if key != "step"]
                    expected.state[name] = state[0] if kind == "SGD" else (step, *state)
            model.set_grads(step)
            shift(p.grad for p in model.parameters())
            expected.step(grads(model))
            optimizer.step()
            for name, p in model.named_parameters():
                assert p.dtype == dtype
                seen = p.detach().reshape(expected.views[name][0])
                assert between(seen, expected.params[name], 5e-5, dtype), (name, options, step)
                for key, wanted in states_of(kind, expected.state[name]).items():
                    if key != "step":
                        got = optimizer.state[p][key]
                        assert got.dtype == dtype
                        error = 1e-5 if "sq" in key else 5e-5
                        assert between(got.reshape(wanted.shape), wanted, error, dtype), (name, key, options, step)


def shift(tensors):
    """Far from zero, so that |mean| ≫ spread."""
    with torch.no_grad():
        for x in tensors:
            x.add_(20)


HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_float32_arithmetic_rounded_once(kind, path, dtype):
    follow_in_half_precision(kind, dtype, path)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", KINDS)
def test_arithmetic_in_half_precision_is_noticed(kind, dtype, monkeypatch):
    from gc_torch import prepare

    monkeypatch.setattr(prepare, "is_half", lambda x: False)
    with pytest.raises(AssertionError):
        follow_in_half_precision(kind, dtype, "for-loop")


def test_a_mean_in_half_precision_is_noticed():
    grad = (numbers_near(20)).bfloat16()
    exact = restatement.phi(grad.double().numpy(), (1,))
    assert between(gct.centralize(grad, 1), exact, 5e-5, torch.bfloat16)
    assert not between(grad - grad.mean(1, keepdim=True), exact, 5e-5, torch.bfloat16)


def numbers_near(mean):
    return torch.randn(4, 33, generator=torch.Generator().manual_seed(0)) + mean


# ---- Non-finite numbers, and what is conserved


@pytest.mark.parametrize("gc_on", ["gradient", "update"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_non_finite_gradient_spoils_its_own_weight_vector_and_no_other(kind, path, gc_on):
    for bad in (math.nan, math.inf, -math.inf):
        model = Tensors()
        optimizer = getattr(gct, kind)(model, lr=0.1, plan=model.plan, gc_on=gc_on, **PATHS[path])
        model.set_grads(0)
        model.linear.grad[1, 2] = bad
        model.last.grad[2, 3] = bad
        model.bias.grad[0] = bad
        optimizer.step()
        assert model.linear.isfinite().all(1).tolist() == [True, False, True, True]
        assert model.last.isfinite().all(0).tolist() == [True, True, True, False]
        assert model.bias.isfinite()[1:].all()
        spoiled = {"linear", "last", "bias"}
        assert all(p.isfinite().all() for name, p in model.named_parameters() if name not in spoiled)


def means(model):
    """The mean of every weight vector that GC is for, where its fan-in is over 1."""
    return {
        name: p.detach().double().reshape(VIEWS[name][1]).mean(VIEWS[name][2])
        for name, p in model.named_parameters()
        if VIEWS[name][2] is not None and p.numel()
    }


def drift(kind, options, steps=5):
    model = Tensors()
    before = means(model)
    optimizer = getattr(gct, kind)(model, lr=0.1, plan=model.plan, **options)
    for step in range(steps):
        model.set_grads(step)
        optimizer.step()
    return {name: (mean - before[name]).abs().max().item() for name, mean in means(model).items()}, before, means(model)


@pytest.mark.parametrize("path", PATHS)
def test_the_means_of_weight_vectors_are_conserved(path):
    conserved = [
        ("SGD", {"momentum": 0.9, "weight_decay": 0.1, "gc_on": "gradient"}),
        ("SGD", {"momentum": 0.9, "nesterov": True, "gc_on": "gradient", "maximize": True}),
        ("SGD", {"momentum": 0.9, "weight_decay": 0.1, "gc_on": "update"}),
        ("Adam", {"weight_decay": 0.1, "gc_on": "update"}),
        ("AdamW", {"weight_decay": 0.1, "gc_on": "update"}),
        ("AdamW", {"weight_decay": 0.1, "gc_on": "update", "amsgrad": True, "maximize": True}),
    ]
    for kind, options in conserved:
        assert max(drift(kind, {**options, **PATHS[path]})[0].values()) < 1e-14, (kind, options)
    # Without GC, and under Adam on the gradient, they move by parts of a step: lr is 0.1.
    for kind, options in (("SGD", {"gc_on": None}), ("Adam", {"gc_on": "gradient"}), ("AdamW", {"gc_on": None})):
        assert min(drift(kind, {**options, **PATHS[path]})[0].values()) > 1e-5, (kind, options)


def test_sgd_from_a_fresh_state_is_the_same_for_both_places():
    for options in SGD:
        results = []
        for gc_on in ("gradient", "update"):
            model = Tensors()
            optimizer = gct.SGD(model, lr=0.1, plan=model.plan, gc_on=gc_on, **options)
            for step in range(4):
                model.set_grads(step)
                optimizer.step()
            results.append([p.detach() for p in model.parameters()])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


# ---- The comparison notices a wrong variant


def wrong_axes(model):
    return gct.plan(model, {name: 0 for name, (shape, _, axes) in VIEWS.items() if axes and len(shape) > 1})


def no_axes(model):
    return gct.plan(model, {"*": None})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plan", [wrong_axes, no_axes])
def test_wrong_axes_are_noticed(kind, plan):
    with pytest.raises(AssertionError, match="Not equal"):
        follow(kind, {"gc_on": "gradient"}, plan=plan)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_place_of_decay_is_noticed(kind, monkeypatch):
    phi = restatement.phi
    follow(kind, {"weight_decay": 0.3, "gc_on": "gradient"})
    if kind == "AdamW":  # decay inside Φ where it must be outside
        monkeypatch.setattr(restatement, "phi", lambda x, axes: phi(x, axes) - 0.3 * x)
    else:  # decay after Φ: the mean of λ w stays

        def sgdm(w, g, *state, weight_decay, axis, **options):
            return sgdm_rule(w, phi(g, axis) + weight_decay * w, *state, axis=None, **options)

        def adam(w, g, *state, weight_decay, axis, **options):
            return adam_rule(w, phi(g, axis) + weight_decay * w, *state, axis=None, **options)

        sgdm_rule, adam_rule = restatement.sgdm, restatement.adam
        monkeypatch.setattr(restatement, "sgdm", sgdm)
        monkeypatch.setattr(restatement, "adam", adam)
    with pytest.raises(AssertionError, match="Not equal"):
        follow(kind, {"weight_decay": 0.3, "gc_on": "gradient"})

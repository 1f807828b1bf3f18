"""SGD, Adam and AdamW over a dict of arrays: the functions for each parameter, and a run that can be resumed."""

import copy
import pickle

import numpy as np
import pytest

import gc_core as gc

from .cases import REAL, frozen, random

KINDS = [
    (gc.SGD, {"lr": 0.1}),
    (gc.SGD, {"lr": 0.1, "momentum": 0.5, "dampening": 0.5, "weight_decay": 0.1, "decoupled": True, "gc_on": "update"}),
    (gc.SGD, {"lr": 0.1, "nesterov": True, "weight_decay": 0.1}),
    (gc.Adam, {}),
    (gc.Adam, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 0.1, "weight_decay": 0.1, "amsgrad": True, "gc_on": "update"}),
    (gc.AdamW, {}),
    (gc.AdamW, {"lr": 0.1, "weight_decay": 0.1, "amsgrad": True}),
]
AXES = {"a": 1, "b": None, "c": (-1, 1), "d": 0}


def params():
    return {
        "a": random((2, 3)),
        "b": random((4,)),
        "c": random((3, 2, 2), np.float32),
        "d": random((5, 2), REAL[1]),
    }


def gradients(seed):
    return {name: random(w.shape, w.dtype, seed=seed) for name, w in params().items()}


def by_functions(kind, options, steps):
    """The same run with the pure functions."""
    weights, states = params(), {}
    for seed in range(steps):
        for name, grad in gradients(seed).items():
            w = weights[name]
            if kind is gc.SGD:
                state = states.get(name) or gc.sgdm_init(w)
                weights[name], states[name] = gc.sgdm_update(w, grad, state, axis=AXES[name], **options)
            else:
                decay = {"weight_decay": 0.01 if kind is gc.AdamW else 0.0, **options}
                state = states.get(name) or gc.adam_init(w, amsgrad=options.get("amsgrad", False))
                weights[name], states[name] = gc.adam_update(
                    w, grad, state, axis=AXES[name], decoupled=kind is gc.AdamW, **decay
                )
    return weights, states


def arrays(weights, states):
    return frozen(*weights.values(), *(x for state in states.values() for x in state if isinstance(x, np.ndarray)))


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_every_parameter_is_updated_as_by_the_functions(kind, options):
    weights = params()
    optimizer = kind(weights, AXES, **options)
    for seed in range(4):
        optimizer.step(gradients(seed))
    assert optimizer.params is weights
    assert arrays(weights, optimizer.state) == arrays(*by_functions(kind, options, 4))


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_the_arrays_given_stay_as_they_are(kind, options):
    weights, grads = params(), gradients(0)
    given, before = list(weights.values()), frozen(*weights.values(), *grads.values())
    kind(weights, AXES, **options).step(grads)
    assert frozen(*given, *grads.values()) == before
    assert not any(np.shares_memory(a, b) for a, b in zip(given, weights.values(), strict=True))


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_no_gradient_leaves_parameter_and_state_as_they_are(kind, options):
    optimizer = kind(params(), AXES, **options)
    optimizer.step(gradients(0))
    w, state = optimizer.params["c"], optimizer.state["c"]
    optimizer.step({**gradients(1), "c": None})
    assert optimizer.params["c"] is w and optimizer.state["c"] is state
    assert not np.array_equal(optimizer.params["a"], params()["a"])


@pytest.mark.parametrize("through", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_run_resumes_from_its_state_dict(kind, options, through):
    one = kind(params(), AXES, **options)
    for seed in range(3):
        one.step(gradients(seed))
    saved, weights = through(one.state_dict()), dict(one.params)
    defaults = {"lr": 9.0} if kind is gc.SGD else {}
    other = kind(weights, AXES, **defaults)  # every option comes from the state_dict
    other.load_state_dict(saved)
    assert other.hyper == one.hyper
    for seed in range(3, 6):
        one.step(gradients(seed))
        other.step(gradients(seed))
    assert arrays(one.params, one.state) == arrays(other.params, other.state)
    if kind is not gc.SGD:
        assert [state.step for state in other.state.values()] == [6] * 4


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_loading_copies_and_a_saved_state_stays(kind, options):
    one = kind(params(), AXES, **options)
    one.step(gradients(0))
    saved = one.state_dict()
    kept = copy.deepcopy(saved)
    other = kind(params(), AXES, **options)
    other.load_state_dict(saved)
    for mine, theirs in zip(one.state.values(), other.state.values(), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert not (isinstance(a, np.ndarray) and np.shares_memory(a, b))
    one.step(gradients(1))
    other.step(gradients(2))
    other.hyper["lr"] = 5.0
    assert pickle.dumps(kept) == pickle.dumps(copy.deepcopy(saved))


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_the_axes_are_not_part_of_a_state_dict(kind, options):
    one = kind(params(), AXES, **options)
    other = kind(params(), dict.fromkeys(AXES), **options)
    other.load_state_dict(one.state_dict())
    assert other.axes == dict.fromkeys(AXES)
    assert one.axes == {"a": (1,), "b": None, "c": (1, 2), "d": (0,)}


def test_options_may_be_changed_between_steps():
    """As a schedule of the learning rate does."""
    optimizer = gc.SGD(params(), AXES, lr=0.1)
    optimizer.hyper["lr"] = 0.0
    before = frozen(*optimizer.params.values())
    optimizer.step(gradients(0))
    assert frozen(*optimizer.params.values()) == before


def test_defaults_are_pytorchs():
    torch = pytest.importorskip("torch")
    tensor = [torch.zeros(1)]
    for kind, theirs in ((gc.Adam, torch.optim.Adam(tensor)), (gc.AdamW, torch.optim.AdamW(tensor))):
        hyper = kind(params(), AXES).hyper
        assert {key: theirs.defaults[key] for key in hyper if key != "gc_on"} == {
            key: value for key, value in hyper.items() if key != "gc_on"
        }
        assert hyper["gc_on"] == "gradient"


def test_adam_with_l2_and_adamw_differ():
    runs = [kind(params(), AXES, weight_decay=0.1) for kind in (gc.Adam, gc.AdamW)]
    for one in runs:
        one.step(gradients(0))
    assert not np.array_equal(runs[0].params["a"], runs[1].params["a"])


def test_repr_names_the_options_and_where_gc_is_on():
    text = repr(gc.AdamW(params(), AXES, lr=0.5))
    for word in ("AdamW(", "lr=0.5", "weight_decay=0.01", "gc_on='gradient'", "GC on 3 of 4 parameters"):
        assert word in text


def test_no_parameters_at_all():
    optimizer = gc.Adam({}, {})
    optimizer.step({})
    assert optimizer.state_dict()["state"] == {}

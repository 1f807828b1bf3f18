"""Weights in float16 and bfloat16: each path stores what gc_core stores, bit for bit where nothing else is rounded."""

import copy
import warnings
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

import gc_conformance
import gc_core
import gc_torch as gct
from gc_core import low_precision as reference
from gc_torch import low_precision

WAYS = ("kahan", "stochastic")
PATHS = {"kernel": {}, "fused": {"fused": True}, "foreach": {"foreach": True}, "loop": {"foreach": False}}
NUMPY = {torch.bfloat16: ml_dtypes.bfloat16, torch.float16: np.float16}


def to_numpy(x):
    return x.detach().contiguous().view(torch.uint16).numpy().view(NUMPY[x.dtype]).copy()


def exact_steps(shape, dtype, count=5):
    """A weight and gradients whose steps of SGD float32 has: nothing is rounded but what is stored."""
    rng = np.random.default_rng(1)
    w = torch.tensor(1 + rng.integers(0, 64, shape) / 64, dtype=torch.float64).to(dtype)
    half = rng.integers(-4, 5, (count, shape[0], shape[1] // 2))
    return w, [torch.tensor(np.concatenate([g, -g], 1), dtype=torch.float64).to(dtype) for g in half]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("dtype", NUMPY, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_each_path_stores_the_bits_of_the_reference(way, dtype, name):
    w, grads = exact_steps((5, 34), dtype)
    lr = 2.0**-13 if dtype == torch.bfloat16 else 2.0**-15
    want = gc_core.SGD({"w": to_numpy(w)}, {"w": 1}, lr=lr, momentum=0.0, low_precision=way, seed=9)
    p = nn.Parameter(w.clone())
    options = dict(low_precision=way, seed=9, plan="out_first", **PATHS[name])
    optimizer = gct.SGD([p], lr=lr, **options)
    for grad in grads:
        p.grad = grad
        optimizer.step()
        want.step({"w": to_numpy(grad)})
        assert np.array_equal(to_numpy(p), want.params["w"])
    if way == "kahan":
        assert np.array_equal(to_numpy(optimizer.state[p]["compensation"]), want.kept["w"])
    else:
        assert optimizer.state[p]["step"].item() == want.kept["w"] == len(grads)


@pytest.mark.parametrize("dtype", NUMPY, ids=str)
def test_random_bits_and_roundings_are_those_of_the_reference(dtype):
    places = torch.arange(-50, 500, dtype=torch.int32)
    stream = low_precision.streams(1, {"seed": 2**64 - 1}, [3])[0]
    assert stream == reference.stream(2**64 - 1, 1, 3)
    bits = low_precision.random_bits(stream, torch.tensor(7.0), places)
    assert np.array_equal(bits.numpy(), reference.random_bits(stream, 7, places.numpy()))
    value = torch.cat([torch.randn(500) * 10.0 ** torch.arange(-30, 20).repeat(10), torch.zeros(50)])
    value[-50:-46] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0])
    got = low_precision.rounded_stochastically(value, dtype, bits)
    want = reference.rounded_stochastically(value.numpy(), NUMPY[dtype], bits.numpy())
    assert np.array_equal(to_numpy(got), want, equal_nan=True)
    assert np.array_equal(np.signbit(to_numpy(got)[-46:]), np.signbit(want[-46:]))


def stepped(p, grads, threads, **options):
    now = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        optimizer = gct.AdamW([p], lr=1e-3, plan="out_first", **options)
        for grad in grads:
            p.grad = grad
            optimizer.step()
    finally:
        torch.set_num_threads(now)
    return p.detach()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(40, 1000), (300, 300)])
def test_bits_hang_on_no_number_of_threads(way, shape):
    w = torch.randn(shape).to(torch.bfloat16)
    grads = [torch.randn(shape).to(torch.bfloat16) for _ in range(2)]
    one, two = (stepped(nn.Parameter(w.clone()), grads, n, low_precision=way) for n in (1, 2))
    assert torch.equal(one, two)


def test_parts_of_a_large_weight_have_the_places_of_the_whole():
    p = torch.empty(6, 4).t()
    whole = low_precision.places_in(p)
    assert sorted(whole.flatten().tolist()) == list(range(24))
    assert torch.equal(low_precision.places_in(p, p.narrow(1, 2, 3)), whole.narrow(1, 2, 3))


# ---- Port


class Optimizer:
    """gc_torch's optimizers, as the suite asks for one."""

    def __init__(self, kind, params, axes, **hyper):
        kinds = {"sgd": gct.SGD, "adam": gct.Adam, "adamw": gct.AdamW}
        self._params = {name: nn.Parameter(w) for name, w in params.items()}
        holder = nn.Module()
        for name, p in self._params.items():
            holder.register_parameter(name.replace(".", "_"), p)
        overrides = {name.replace(".", "_"): axis for name, axis in axes.items()}
        self._optimizer = kinds[kind](holder, plan=gct.plan(holder, overrides), **hyper)

    def step(self, grads):
        for name, p in self._params.items():
            p.grad = grads[name]
        self._optimizer.step()

    def params(self):
        return {name: p.detach() for name, p in self._params.items()}


def test_the_suite():
    port = SimpleNamespace(
        optimizer=Optimizer, from_numpy=gct.from_numpy, to_numpy=gct.to_numpy, rounding=WAYS,
        dtypes=("float16", "bfloat16", "float32"), sgd_first_step="undamped",
    )  # fmt: skip
    only = [id for id in gc_conformance.PROPERTIES if "kahan" in id or "stochastic" in id]
    result = gc_conformance.run(port, only=only, profile="quick")
    assert [(one.id, one.message) for one in result.failed] == [] and len(result.passed) == len(only) == 4


# ---- State


def model_of(dtype=torch.bfloat16):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2)).to(dtype)


def train(model, optimizer, first, last):
    for i in range(first, last):
        x = torch.randn(4, 6, generator=torch.Generator().manual_seed(i)).to(model[0].weight.dtype)
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("make", [gct.SGD, gct.AdamW])
@pytest.mark.parametrize("way", WAYS)
def test_a_run_goes_on_as_if_it_had_not_stopped(way, make):
    whole, first = model_of(), model_of()
    optimizer = make(whole, lr=1e-2, low_precision=way, seed=3)
    train(whole, optimizer, 0, 6)
    one = make(first, lr=1e-2, low_precision=way, seed=3)
    train(first, one, 0, 3)
    second = copy.deepcopy(first)
    other = make(second, lr=1.0, low_precision=way)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    train(second, other, 3, 6)
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), second.parameters(), strict=True))


def test_a_state_goes_without_the_option_and_back_and_nothing_is_lost():
    model = model_of()
    optimizer = gct.SGD(model, lr=1e-2, low_precision="kahan")
    train(model, optimizer, 0, 2)
    kept = [optimizer.state[p]["compensation"].clone() for p in model.parameters()]
    plain = torch.optim.SGD(model.parameters(), lr=1e-2)
    plain.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, plain, 2, 3)
    back = gct.SGD(model, lr=1e-2, low_precision="kahan")
    back.load_state_dict(plain.state_dict())
    assert all(torch.equal(back.state[p]["compensation"], c) for p, c in zip(model.parameters(), kept, strict=True))

    without = gct.SGD(model_of(), lr=1e-2)
    with pytest.warns(gct.GCWarning, match="has low_precision='kahan' for group 0, which had None: it is loaded"):
        without.load_state_dict(optimizer.state_dict())
    fresh = gct.SGD(model, lr=1e-2, low_precision="kahan")
    fresh.load_state_dict(torch.optim.SGD(model.parameters(), lr=1e-2).state_dict())  # it knows no such option
    assert fresh.param_groups[0]["low_precision"] == "kahan"
    train(model, fresh, 3, 4)


# ---- What is said, and what is refused


def test_an_optimizer_says_what_rounding_does():
    said = repr(gct.AdamW(model_of(), lr=1e-3))
    assert "4 parameters in bfloat16, rounded to the nearest: steps below 2**-9 of a weight are lost" in said
    assert "low_precision='kahan' or 'stochastic' keeps them" in said
    mixed = nn.Sequential(nn.Linear(6, 8).to(torch.bfloat16), nn.Linear(8, 2))
    assert "low_precision='kahan' for 2 of 4 parameters" in repr(gct.AdamW(mixed, low_precision="kahan"))
    said = repr(gct.AdamW(mixed, low_precision="stochastic", seed=4))
    assert "low_precision='stochastic', seed=4 for 2 of 4 parameters" in said
    assert "rounded to the nearest" not in repr(gct.AdamW(nn.Linear(6, 8)))


def test_float32_parameters_have_nothing_of_it_and_their_bits_stay():
    models = [model_of(torch.float32) for _ in range(2)]
    with pytest.warns(gct.GCWarning, match="has nothing to do: no parameter is float16 or bfloat16"):
        optimizer = gct.AdamW(models[0], low_precision="kahan")
    train(models[0], optimizer, 0, 3)
    train(models[1], gct.AdamW(models[1]), 0, 3)
    assert all(torch.equal(p, q) for p, q in zip(*(m.parameters() for m in models), strict=True))
    assert all("compensation" not in optimizer.state[p] for p in models[0].parameters())


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (dict(low_precision="Kahan"), ValueError, "low_precision must be one of 'kahan', 'stochastic', or None"),
        (dict(low_precision=True), TypeError, "got True"),
        (dict(low_precision="stochastic", seed=None), TypeError, "seed must be an int from 0 to 2**64 - 1; got None"),
        (dict(low_precision="stochastic", seed=-1), ValueError, "got -1"),
        (dict(low_precision="kahan", differentiable=True), ValueError, "rounding has no derivative"),
    ],
)
def test_what_is_refused(options, error, said):
    with pytest.raises(error) as raised:
        gct.SGD(model_of(), lr=0.1, **options)
    assert said in str(raised.value)


def test_a_wrong_compensation_is_refused_before_anything_changes():
    model = model_of()
    optimizer = gct.SGD(model, lr=1e-2, low_precision="kahan")
    train(model, optimizer, 0, 1)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.state[model[1].weight]["compensation"] = torch.zeros(3, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"1\.weight: the state's compensation has shape"):
        train(model, optimizer, 1, 2)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_without_gc_it_works_as_well(way):
    model = model_of()
    optimizer = gct.SGD(model, lr=1e-4, gc_on=None, low_precision=way)
    want = model_of(torch.float64)
    with warnings.catch_warnings():
        plain = torch.optim.SGD(want.parameters(), lr=1e-4)
    for _ in range(30):
        for p, q in zip(model.parameters(), want.parameters(), strict=True):
            p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
        optimizer.step()
        plain.step()
    # A step is far below what bfloat16 can hold at a weight of its size; 30 of them are half the distance and more.
    moved = sum((p.double() - q).sum() for p, q in zip(model.parameters(), want.parameters(), strict=True))
    assert abs(moved) / sum(p.numel() for p in model.parameters()) < 30 * 1e-4 / 2

"""plan(model, batch=…): the axes that operations sum over, against what autograd finds out about single weights."""

import math
import random
import re
import warnings

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

import gc_torch as gct
from gc_core import axes as ax
from gc_core.reasons import Reason, Verification, reason_of
from gc_torch import operations, products, program, reader, tree

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
IMAGES = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(2))
IDS = torch.arange(12).view(1, 12)


class Raw(nn.Module):
    """A module nobody knows, with one raw parameter `w`."""

    def __init__(self, shape, use):
        super().__init__()
        self.w = nn.Parameter(0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(3)))
        self.use = use

    def forward(self, x):
        return self.use(x, self.w)


def plan(model, batch, **how):
    """The plan, where nothing is left out that is warned of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "GC (applies to nothing|leaves out)", gct.GCWarning)
        return gct.plan(model, batch=batch, **how)


def seen(model, batch):
    """Name -> axes; with the view in front where it is not the stored shape."""
    return {r.name: r.axes if r.view == r.shape else (r.view, r.axes) for r in plan(model, batch).rows}


# ---- Any way to a weight: reshapes, transposes, slices and joins by chance, and a product at the end


@st.composite
def ways(draw):
    """A parameter's shape, operations that lead from it to a matrix, and what a product then sums over."""
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=2, max_size=4))
    x, steps = torch.empty(shape), []
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["permute", "view", "slice", "select", "scale", "cat", "mask", "expand", "unbind"]))
        if kind == "permute":
            order = draw(st.permutations(range(x.ndim)))
            step = lambda w, order=order: w.permute(order)  # noqa: E731
        elif kind == "view":
            sizes, rest = [], x.numel()
            while rest > 1 and len(sizes) < 3:
                sizes.append(draw(st.sampled_from([n for n in range(1, rest + 1) if rest % n == 0])))
                rest //= sizes[-1]
            sizes.append(rest)
            step = lambda w, sizes=tuple(sizes): w.reshape(sizes)  # noqa: E731
        elif kind == "slice":
            dim = draw(st.integers(0, x.ndim - 1))
            parts = draw(st.sampled_from([n for n in (1, 2, 3) if x.shape[dim] % n == 0]))
            which = draw(st.integers(0, parts - 1))
            step = lambda w, dim=dim, parts=parts, which=which: w.chunk(parts, dim)[which]  # noqa: E731
        elif kind in ("select", "unbind"):
            if x.ndim < 3:
                continue
            dim = draw(st.integers(0, x.ndim - 1))
            index = draw(st.integers(0, x.shape[dim] - 1))
            if kind == "select":
                step = lambda w, dim=dim, index=index: w.select(dim, index)  # noqa: E731
            else:
                step = lambda w, dim=dim, index=index: w.unbind(dim)[index]  # noqa: E731
        elif kind == "scale":
            step = lambda w: 0.5 * w.double()  # noqa: E731
        elif kind == "mask":
            step = lambda w: w * torch.ones(w.shape)  # noqa: E731
        elif kind == "expand":
            step = lambda w: w.unsqueeze(0).expand(2, *w.shape)  # noqa: E731
        else:
            step = lambda w: torch.cat([w, torch.ones(w.shape)], 0)  # noqa: E731
        x = step(x)
        steps.append(step)
    where = draw(st.integers(0, x.ndim - 1))
    return shape, steps, where


def way(steps, where):
    def use(x, w):
        for step in steps:
            w = step(w)
        w = w.movedim(where, -1)
        y = (0.5 + torch.rand(w.shape[-1], 2, generator=torch.Generator().manual_seed(0))).to(w.dtype) + 0 * x.sum()
        return w @ y if w.ndim > 1 else w.unsqueeze(0) @ y

    return use


def weight_vectors(model, x):
    """By autograd: the sets of weights that feed one output, in places of the flattened parameter."""
    y = model(x)
    sets = set()
    for one in y.reshape(-1):
        (grad,) = torch.autograd.grad(one, model.w, retain_graph=True)
        sets.add(frozenset(grad.reshape(-1).nonzero().reshape(-1).tolist()))
    return sets


def of_view(row):
    kept = [axis for axis in range(len(row.view)) if axis not in row.axes]
    places = np.arange(math.prod(row.shape)).reshape(row.view).transpose(*kept, *row.axes)
    return {frozenset(one) for one in places.reshape(-1, row.fan_in).tolist()}


def agrees(shape, steps, where):
    """Whether the plan is what autograd finds, for a parameter that is reached in whole or in whole vectors."""
    model, x = Raw(shape, way(steps, where)), X
    row = plan(model, x)["w"]
    sets = weight_vectors(model, x) - {frozenset()}
    if reason_of(row.why) is Reason.UNCLEAR:
        return True  # it is said, and left alone
    if row.axes is None:
        return all(len(one) == 1 for one in sets)
    return sets <= of_view(row)


SLOW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@SLOW
@given(ways())
def test_any_way_to_a_weight(drawn):
    assert agrees(*drawn)


def test_most_ways_are_read():
    """Left alone as unclear are few: of ways by chance more than nine in ten."""
    unclear = total = 0

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(ways())
    def count(drawn):
        nonlocal unclear, total
        shape, steps, where = drawn
        total += 1
        unclear += reason_of(plan(Raw(shape, way(steps, where)), X)["w"].why) is Reason.UNCLEAR

    count()
    assert unclear <= total / 10


def wrong_view(axes, shape, new):
    return tuple(axes[i] if i < len(axes) else () for i in range(len(new)))


@pytest.mark.parametrize(
    ("mutant", "owner", "name", "replacement"),
    [
        ("transposes do nothing", operations, "_permuted", None),
        ("views keep axes in their places", ax, "reshaped", wrong_view),
        ("a slice is the whole", ax, "sliced", lambda axis, *_: axis),
        ("the first axis is summed over", products.Trace, "sum_over", None),
    ],
)
def test_a_wrong_reader_is_found(monkeypatch, mutant, owner, name, replacement):
    if name == "_permuted":
        monkeypatch.setitem(operations.STRUCTURE, torch.ops.aten.permute, lambda axes, x, out, order: axes)
        monkeypatch.setitem(operations.STRUCTURE, torch.ops.aten.transpose, lambda axes, x, out, *_: axes)
    elif name == "sum_over":
        right = owner.sum_over
        monkeypatch.setattr(owner, name, lambda self, made, dims, operation: right(self, made, [0], operation))
    else:
        monkeypatch.setattr(owner, name, replacement)
    caught = []

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(ways())
    def run(drawn):
        if caught:
            return
        try:
            right = agrees(*drawn)
        except Exception:
            right = False
        if not right:
            caught.append(drawn)

    run()
    assert caught


# ---- Kinds of models: axes by hand, and classes and program must agree


class Fused(nn.Module):
    """Query, key and value in one parameter, and heads in axes of their own."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Parameter(torch.randn(18, 6))
        self.out = nn.Parameter(torch.randn(2, 3, 6))

    def forward(self, x):
        q, k, v = (F.linear(x, w).unflatten(-1, (2, 3)).transpose(1, 2) for w in self.qkv.chunk(3))
        return torch.einsum("bhtd,hdo->bto", F.scaled_dot_product_attention(q, k, v), self.out)


class Experts(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 3, 6))
        self.way = way

    def forward(self, x):
        if self.way == "einsum":
            return torch.einsum("bti,eoi->bteo", x, self.w)
        if self.way == "loop":
            return sum(F.linear(x, w) for w in self.w)
        if self.way == "gathered":
            return torch.bmm(self.w[torch.tensor([1, 3])], x.transpose(1, 2))
        return torch.bmm(x[:, 0].expand(4, 2, 6), self.w.mT)


class Scales(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.ones(1, 1, 6)), nn.Parameter(torch.zeros(5, 6))
        self.token, self.rate = nn.Parameter(torch.zeros(1, 1, 6)), nn.Parameter(torch.zeros(6))
        self.gate = nn.Parameter(torch.ones(6))

    def forward(self, x):
        x = F.layer_norm(x * self.gain + self.shift, (6,), self.gate)
        return torch.cat([self.token.expand(len(x), -1, -1), x], 1) * torch.exp(-self.rate)


class Queries(nn.Module):
    """Learned queries go through a layer as data would."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(3, 6))
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.key = nn.Linear(6, 6, bias=False)

    def forward(self, x):
        queries = self.key(self.queries).expand(len(x), -1, -1)
        return self.attention(queries, x, x)[0]


class Standardized(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, w, self.bias)


class Half(nn.Module):
    def forward(self, x):
        return x / 2


class Graph(nn.Module):
    """Attention of a graph layer: a product element by element, and a sum."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.randn(1, 2, 3))

    def forward(self, x):
        return (x.unflatten(-1, (2, 3)) * self.a).sum(-1)


def tied():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9, bias=False))
    model[1].weight = model[0].weight
    return model


def halved():
    return parametrize.register_parametrization(nn.Linear(6, 3), "weight", Half())


KINDS = {
    "fused attention": (Fused, X, {"qkv": (1,), "out": (0, 1)}),
    "experts, einsum": (lambda: Experts("einsum"), X, {"w": (2,)}),
    "experts, one by one": (lambda: Experts("loop"), X, {"w": (2,)}),
    "experts, gathered": (lambda: Experts("gathered"), X, {"w": (2,)}),
    "experts, batched": (lambda: Experts("bmm"), X, {"w": (2,)}),
    "scales, shifts and tokens": (Scales, X, dict.fromkeys(["gain", "shift", "token", "rate", "gate"])),
    "learned queries": (
        Queries,
        X,
        {"queries": None, "attention.in_proj_weight": (1,), "attention.in_proj_bias": None,
         "attention.out_proj.weight": (1,), "attention.out_proj.bias": None, "key.weight": (1,)},
    ),
    "standardized weights": (lambda: Standardized(4, 3, 2), IMAGES, {"weight": (1, 2, 3), "bias": None}),
    "a parametrization nobody knows": (
        halved, X, {"bias": None, "parametrizations.weight.original": (1,)},
    ),
    "a table that is the head": (tied, IDS[:, :9], {"0.weight": None}),
    "graph attention": (Graph, X, {"a": (2,)}),
    "bilinear": (lambda: nn.Bilinear(6, 6, 3), (X, X), {"weight": (1, 2), "bias": None}),
    "transposed convolution, 2 groups": (
        lambda: nn.ConvTranspose2d(4, 6, 2, groups=2), IMAGES,
        {"weight": ((2, 2, 3, 2, 2), (1, 3, 4)), "bias": None},
    ),
    "convolution, 2 groups": (lambda: nn.Conv2d(4, 6, 2, groups=2), IMAGES, {"weight": (1, 2, 3), "bias": None}),
    "depthwise 1×1": (lambda: nn.Conv2d(4, 4, 1, groups=4), IMAGES, {"weight": None, "bias": None}),
    "a flat weight": (
        lambda: Raw((18,), lambda x, w: F.linear(x, w.view(3, 6))), X, {"w": ((3, 6), (1,))},
    ),
    "a weight in halves": (
        lambda: Raw((6, 3), lambda x, w: torch.stack([x[..., :3] @ w[:3], x[..., 3:] @ w[3:]])), X,
        {"w": ((2, 3, 3), (1,))},
    ),
    "spectral norm": (
        lambda: parametrizations.spectral_norm(nn.Linear(6, 3)), X,
        {"bias": None, "parametrizations.weight.original": (1,)},
    ),
    "spectral norm, the older": (
        lambda: nn.utils.spectral_norm(nn.Linear(6, 3)), X, {"bias": None, "weight_orig": (1,)},
    ),
    "weight norm": (
        lambda: parametrizations.weight_norm(nn.Linear(6, 3)), X,
        {"bias": None, "parametrizations.weight.original0": None, "parametrizations.weight.original1": (1,)},
    ),
    "orthogonal": (
        lambda: parametrizations.orthogonal(nn.Linear(6, 6)), X,
        {"bias": None, "parametrizations.weight.original": None},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_model(kind):
    make, batch, wanted = KINDS[kind]
    assert seen(make(), batch) == wanted


# Nothing of these is unknown: the program must say what the classes say, and say it of everything it reaches.
LAYERS = {
    "Conv3d": (lambda: nn.Conv3d(2, 3, (2, 1, 2)), torch.randn(1, 2, 3, 3, 3)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(5, 4, 3), X),
    "RNN": (lambda: nn.RNN(6, 3, num_layers=2), X),
    "LSTM": (lambda: nn.LSTM(6, 4, proj_size=2, num_layers=2, bidirectional=True), X),
    "GRU": (lambda: nn.GRU(6, 4, batch_first=True), X),
    "cells": (lambda: nn.LSTMCell(6, 4), X[0]),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(6, 2, kdim=4, vdim=3, add_bias_kv=True),
        (X, X[..., :4], X[..., :3]),
    ),
    "encoder": (lambda: nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), X),
    "decoder": (lambda: nn.TransformerDecoderLayer(6, 2, 8), (X, X)),
    "norms": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.PReLU(4), nn.RMSNorm(5)),
        IMAGES,
    ),
    "embedding bag": (lambda: nn.Sequential(nn.EmbeddingBag(20, 4), nn.Linear(4, 3)), IDS),
    "GPT-2": (
        lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=20)),
        (IDS,),
    ),
    "XLNet": (
        lambda: transformers.XLNetModel(
            transformers.XLNetConfig(n_layer=1, d_model=8, n_head=2, d_inner=12, vocab_size=20)
        ),
        (IDS,),
    ),
    "Mixtral": (
        lambda: transformers.MixtralForCausalLM(
            transformers.MixtralConfig(
                hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, vocab_size=20,
                num_key_value_heads=1, num_local_experts=3,
            )
        ),
        (IDS,),
    ),
    "Llama 4": (
        lambda: transformers.Llama4ForCausalLM(
            transformers.Llama4TextConfig(
                hidden_size=8, intermediate_size=12, intermediate_size_mlp=12, num_hidden_layers=1,
                num_attention_heads=2, num_key_value_heads=1, head_dim=4, vocab_size=20, num_local_experts=3,
                pad_token_id=0,
            )
        ),
        (IDS,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS)
def test_classes_and_program_agree(kind):
    make, batch = LAYERS[kind]
    model = make()
    read, known = plan(model, batch), plan(model, None)
    for row in read.rows:
        assert (row.view, row.axes) == (known[row.name].view, known[row.name].axes), row
        assert reason_of(row.verification) in (Verification.READ, Verification.NOT_REACHED)
        assert row.axes is None or row.verification == "read from the program"


def test_a_plan_that_was_read_is_never_refused_by_the_numbers():
    """A sum that comes after a product is not seen in one operation; nothing is claimed of it."""
    read = plan(Graph(), X, verify=X)
    assert read["a"].axes == (2,) and reason_of(read["a"].verification) is Verification.UNCLEAR
    for kind, (make, batch, _) in KINDS.items():
        for row in plan(make(), batch, verify=batch).rows:
            assert reason_of(row.verification) is not Verification.CANDIDATE, (kind, row)


# ---- What is no weight, or cannot be said, is left alone and named

LEFT_ALONE = {
    "read in two ways": ((6, 6), lambda x, w: (x @ w).relu() @ w.T, Reason.DIFFERENT),
    "looked up and summed over": ((12, 6), lambda x, w: (w[IDS[0, :5]] + x) @ w.T, Reason.TIED_TABLE),
    "experts, all of whose products come first": (
        (4, 6, 3),
        lambda x, w: (x[:, :1] * x[:, 1, :4, None]).flatten(1) @ w.flatten(0, 1),
        Reason.UNCLEAR,
    ),
    "experts, mixed first": (
        (4, 6, 3),
        lambda x, w: torch.einsum("bti,eio,be->bto", x, w, x[:, 1, :4]),
        Reason.UNCLEAR,
    ),
    "kernels, mixed for each image": (
        (4, 3 * 5 * 2),
        lambda x, w: F.conv1d(x.reshape(1, -1, 6), (x[:, 1, :4] @ w).view(-1, 5, 2), groups=2),
        Reason.UNCLEAR,
    ),
    "through a function": ((6, 3), lambda x, w: x @ torch.softmax(w, 0), Reason.FUNCTION),
    "parts of weight vectors": ((3, 6), lambda x, w: F.linear(x[..., :4], w[:, :4]), Reason.UNCLEAR),
    "by an operation that is no sum": ((5, 6), lambda x, w: torch.maximum(x, w), Reason.NOT_LINEAR),
    "added": ((5, 6), lambda x, w: x + w, Reason.ADDED),
    "multiplied": ((5, 6), lambda x, w: x * w, Reason.SCALE),
    "the input of another layer": ((1, 2, 6), lambda x, w: torch.cat([w.expand(2, 2, 6), x], 1), Reason.INPUT),
    "looked up": ((12, 6), lambda x, w: w[IDS[0, :5]] + x, Reason.EMBEDDING),
}


@pytest.mark.parametrize("kind", LEFT_ALONE)
def test_what_is_left_alone_and_why(kind):
    shape, use, reason = LEFT_ALONE[kind]
    row = plan(Raw(shape, use), X)["w"]
    assert row.axes is None and reason_of(row.why) is reason
    if reason in (Reason.FUNCTION, Reason.PRODUCT):
        assert "override with 0" in row.why


@pytest.mark.parametrize("equation", ["bti,eio->beto", "beti,eio->beto"])
def test_experts_whose_outputs_are_mixed_are_read(equation):
    """Each has given its output before the gates come, or before they are sent back to their places."""

    def mixed(x, w):
        inputs = x if "e" not in equation.split(",")[0] else torch.stack([x] * 4, 1)
        return torch.einsum("beto,bse->bso", torch.einsum(equation, inputs, w), x[..., :4])

    assert plan(Raw((4, 6, 3), mixed), X)["w"].axes == (1,)


def test_what_the_batch_does_not_reach_is_said_and_not_guessed():
    model = nn.ModuleDict({"a": nn.Linear(6, 3), "b": nn.Linear(6, 3)})
    model["c"] = Raw((6, 3), lambda x, w: x @ w)
    read = plan(model, lambda model: model["a"](X))
    assert read["a.weight"].verification == "read from the program"
    assert read["b.weight"].verification == read["c.w"].verification == "not reached by the batch"
    assert read["b.weight"].axes == (1,) and read["c.w"].axes is None
    assert "2 of 5 were read from what the model does" in " ".join(read.to_text(200).split())


def test_a_layer_that_does_something_else_is_warned_of():
    class Transposed(nn.Linear):
        def forward(self, x):
            return x @ self.weight

    with pytest.warns(gct.GCWarning, match=r"not what its layers say.*weight: its layer says axis 1.*axis 0"):
        read = gct.plan(Transposed(6, 6, bias=False), batch=X)
    assert read["weight"].axes == (0,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gct.plan(nn.Linear(6, 6), batch=X)["weight"].axes == (1,)


def test_an_override_has_the_last_word():
    model = Raw((6, 3), lambda x, w: x @ w)
    assert plan(model, X, overrides={"w": 1})["w"].axes == (1,)
    assert plan(model, X, overrides={"w": None})["w"].axes is None


# ---- Nothing is computed, and nothing is changed


class Busy(nn.Module):
    """It draws random numbers, keeps caches, writes to buffers and parameters, and replaces buffers."""

    def __init__(self, fails=False):
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 3), nn.BatchNorm1d(3)
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("steps", torch.tensor(0))
        self.cache, self.kept, self.fails = {}, [], fails

    def forward(self, x):
        x = self.layer(x[0]) + torch.rand(3) + random.random() + np.random.rand()  # noqa: NPY002
        self.norm.train()
        x = self.norm(x)
        with torch.no_grad():
            self.layer.bias.add_(1)
        self.seen.copy_(x[0])
        self.steps = self.steps + 1
        self.cache["x"], self.last = x, x
        self.kept.append(x)
        if self.fails:
            raise ZeroDivisionError
        return x


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("real", [False, True])
def test_everything_is_as_it_was(fails, real):
    model = Busy(fails)
    model.norm.eval()
    if real:  # what cannot run on shapes runs once really
        model.layer.register_forward_hook(lambda module, args, out: out * float(out.detach().sum().item() > 0))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    attributes = {module: dict(vars(module)) for module in model.modules()}
    buffers = dict(model.named_buffers())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    if fails:
        with pytest.raises(ZeroDivisionError) as caught:
            plan(model, X)
        assert "raised while gc_torch.plan ran the model" in caught.value.__notes__[0]
    elif real:
        with pytest.warns(gct.GCWarning, match="ran the model once on the batch, in eval mode"):
            assert plan(model, X)["layer.weight"].verification == "read from the program"
    else:
        assert plan(model, X)["layer.weight"].verification == "read from the program"
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(buffers[name] is x for name, x in model.named_buffers())
    for module, its in attributes.items():
        assert vars(module).keys() == its.keys()
        assert [name for name in its if vars(module)[name] is not its[name]] == []
    assert model.cache == {} and model.kept == []
    assert model.training and not model.norm.training
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[2])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002


def test_nothing_is_computed_and_no_memory_taken():
    """A model of a million million weights, which no machine could run."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(10**6, 10**6), nn.ReLU(), Raw((10**6, 10**6), lambda x, w: x @ w))
    assert seen(model, torch.empty(1, 10**6)) == {"0.weight": (1,), "0.bias": None, "2.w": (0,)}


def test_a_batch_that_the_model_does_not_take():
    with pytest.raises(RuntimeError) as caught:
        plan(nn.Linear(6, 3), torch.ones(5))
    assert "gc_torch.plan" in caught.value.__notes__[0]
    with pytest.raises(TypeError, match="batch must be a tensor, a tuple"):
        plan(nn.Linear(6, 3), [X])


@pytest.mark.parametrize("batch", [X, (X,), {"input": X}, lambda model: model(X)])
def test_forms_of_a_batch(batch):
    assert plan(nn.Linear(6, 3), batch)["weight"].verification == "read from the program"


def test_control_flow_that_depends_on_values():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(6, 3))

        def forward(self, x):
            return x @ self.w if x.sum() > 0 else x

    with pytest.warns(gct.GCWarning, match="ran the model once on the batch, in eval mode"):
        read = gct.plan(Gated(), batch=torch.ones(1, 6))
    assert read["w"].axes == (0,)


def test_precisions_and_autocast():
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert seen(Raw((6, 3), lambda x, w: x @ w).to(dtype), X.to(dtype)) == {"w": (0,)}

    def autocast(model):
        with torch.autocast("cpu", torch.bfloat16):
            model(X)

    assert seen(Raw((6, 3), lambda x, w: x @ w), autocast) == {"w": (0,)}
    model = Raw((6, 3), lambda x, w: x @ w)
    model.w = nn.Parameter(torch.ones(6, 3, dtype=torch.complex64))
    assert seen(model, X.to(torch.complex64)) == {"w": (0,)}


# ---- Models whose classes are gone


@pytest.fixture
def plain():
    return nn.Sequential(nn.Conv2d(4, 8, 2), nn.ConvTranspose2d(8, 6, 2, groups=2), nn.Flatten(), nn.Linear(150, 3))


def in_order(plan):
    return [(row.view, row.axes) for row in plan.rows]


def test_exported_models_carry_their_program(plain):
    exported = torch.export.export(plain, (IMAGES,)).module()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert in_order(gct.plan(exported)) == in_order(gct.plan(plain)) == in_order(gct.plan(exported, batch=IMAGES))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_scripted_models_carry_the_names_of_their_classes(plain, how):
    scripted = torch.jit.script(plain) if how == "script" else torch.jit.trace(plain, IMAGES)
    assert in_order(gct.plan(scripted, batch=IMAGES)) == in_order(gct.plan(plain))
    if how == "script":
        assert in_order(gct.plan(scripted)) == in_order(gct.plan(plain))


def test_a_traced_graph_of_layers(plain):
    assert in_order(gct.plan(torch.fx.symbolic_trace(plain))) == in_order(gct.plan(plain))


def test_a_compiled_model(plain):
    assert in_order(gct.plan(torch.compile(plain, backend="eager"), batch=IMAGES)) == in_order(gct.plan(plain))


# ---- The page itself


def test_every_rule_is_about_operations_that_exist():
    assert all(re.match(r"\w+$", packet.__name__) for packet in reader._RULES)
    assert program.Batch is not None and tree.views(nn.Linear(2, 3))

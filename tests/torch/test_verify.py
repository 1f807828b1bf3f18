"""plan(model, verify=batch): every kind of layer is verified on its right axes, and on no others."""

import itertools
import math
import random
import re

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

import gc_torch as gct

# Most of these models are one raw parameter that is left alone.
pytestmark = pytest.mark.filterwarnings("ignore::gc_core.GCWarning")
X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
IMAGES = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(2))
WRONG = "the plan is not what the model does with this batch"


class Raw(nn.Module):
    """A module nobody knows, with one raw parameter `w`."""

    def __init__(self, shape, use):
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(3)))
        self.use = use

    def forward(self, x):
        return self.use(x, self.w)


def proofs(model, batch, overrides=None):
    return {
        name: row.verification for name, row in gct.plan(model, overrides, verify=batch).items() if row.verification
    }


# ---- Every layer that is known


class LearnedQueries(nn.Module):
    """Queries that are parameters go through a layer, as data would."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Embedding(3, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        queries = self.queries.weight.expand(len(x), -1, -1)
        return self.attention(queries, x, x)[0]


class TablePositions(nn.Module):
    """A layer on a constant table, whose result is added to the data."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 6)
        self.register_buffer("table", torch.randn(5, 4))

    def forward(self, x):
        return x + self.layer(self.table)


def encoder(**options):
    return nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, **options)


@pytest.fixture
def old_weight_norm():
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.utils.weight_norm(nn.Conv2d(4, 3, 2))


LAYERS = {
    "Linear": (lambda: nn.Linear(6, 3), X),
    "Linear without bias": (lambda: nn.Linear(6, 3, bias=False), X),
    "Linear on one row": (lambda: nn.Linear(6, 3), X[0, 0]),
    "Conv1d": (lambda: nn.Conv1d(5, 4, 3), X),
    "Conv2d": (lambda: nn.Conv2d(4, 3, 2), IMAGES),
    "Conv2d larger than the image": (lambda: nn.Conv2d(4, 3, 7, padding=3), IMAGES[..., :2, :2]),
    "Conv2d with stride, padding, dilation": (lambda: nn.Conv2d(4, 3, 2, stride=2, padding=1, dilation=2), IMAGES),
    "Conv2d, 2 groups": (lambda: nn.Conv2d(4, 6, 2, groups=2), IMAGES),
    "Conv2d, depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), IMAGES),
    "Conv2d, pointwise": (lambda: nn.Conv2d(4, 3, 1), IMAGES),
    "Conv3d": (lambda: nn.Conv3d(2, 3, (2, 1, 2)), torch.randn(1, 2, 3, 3, 3)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(5, 4, 3), X),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1), IMAGES),
    "ConvTranspose2d whose numbers never meet": (lambda: nn.ConvTranspose2d(4, 3, 2, stride=2), IMAGES),
    "ConvTranspose2d, 2 groups": (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), IMAGES),
    "ConvTranspose2d, depthwise": (lambda: nn.ConvTranspose2d(4, 4, 2, groups=4), IMAGES),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 3, 2), torch.randn(1, 2, 2, 2, 2)),
    "Bilinear": (lambda: nn.Bilinear(6, 6, 3), (X, X)),
    "RNN": (lambda: nn.RNN(6, 3, num_layers=2), X),
    "LSTM": (lambda: nn.LSTM(6, 4, bidirectional=True), X),
    "LSTM with projections": (lambda: nn.LSTM(6, 4, proj_size=2, num_layers=2), X),
    "GRU": (lambda: nn.GRU(6, 4, batch_first=True), X),
    "LSTMCell": (lambda: nn.LSTMCell(6, 4), X[0]),
    "GRUCell": (lambda: nn.GRUCell(6, 4), X[0]),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(6, 2), (X, X, X)),
    "MultiheadAttention of two inputs": (lambda: nn.MultiheadAttention(6, 2), (X, X + 1, X + 1)),
    "MultiheadAttention with sizes of its own": (
        lambda: nn.MultiheadAttention(6, 2, kdim=4, vdim=3, add_bias_kv=True),
        (X, X[..., :4], X[..., :3]),
    ),
    "TransformerEncoderLayer, fast path": (encoder, X),
    "TransformerDecoderLayer": (lambda: nn.TransformerDecoderLayer(6, 2, 8), (X, X)),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(6, 3)), X),
    "weight_norm of a transposed convolution": (
        lambda: parametrizations.weight_norm(nn.ConvTranspose1d(5, 4, 2), dim=1),
        X,
    ),
    "spectral_norm": (lambda: parametrizations.spectral_norm(nn.Linear(6, 3)), X),
    "spectral_norm, the older": (lambda: nn.utils.spectral_norm(nn.Linear(6, 3)), X),
    "queries that are learned": (LearnedQueries, X),
    "a table of positions": (TablePositions, X),
}


def vectors(shape, view, axes):
    """Which weights are together, as a set of sets of places in the flattened parameter."""
    kept = [axis for axis in range(len(view)) if axis not in axes]
    places = np.arange(math.prod(shape)).reshape(view).transpose(*kept, *axes)
    return {frozenset(row) for row in places.reshape(-1, math.prod(view[axis] for axis in axes)).tolist()}


def others(row):
    """All sets of axes of the stored shape that would put the weights together in another way."""
    right = vectors(row.shape, row.view, row.axes)
    for size in range(1, len(row.shape) + 1):
        for axes in itertools.combinations(range(len(row.shape)), size):
            if vectors(row.shape, row.shape, axes) != right:
                yield axes


@pytest.mark.parametrize("kind", LAYERS)
def test_the_right_axes_are_verified_and_all_others_are_refused(kind):
    make, batch = LAYERS[kind]
    torch.manual_seed(0)
    model = make()
    plan = gct.plan(model, verify=batch)
    on = [row for row in plan.rows if row.axes is not None]
    assert on or "depthwise" in kind
    for row in on:
        assert row.verification == "verified", row
        for axes in others(row):
            with pytest.raises(ValueError, match=WRONG) as caught:
                gct.plan(model, {row.name: axes}, verify=batch)
            assert f"- {row.name}: the plan says" in str(caught.value)
            # What it tells to write instead is what the plan had.
            override = eval(re.search(r"overrides=(.*)$", str(caught.value))[1], {"gct": gct})
            again = gct.plan(model, override, verify=batch)[row.name]
            assert again.verification == "verified"
            assert math.prod(again.view[axis] for axis in again.axes) == row.fan_in


def test_the_older_weight_norm(old_weight_norm):
    assert proofs(old_weight_norm, IMAGES) == {"weight_v": "verified"}
    with pytest.raises(ValueError, match=r"weight_v: the plan says axis 0 \(3\), but an output sums over axes 1,2,3"):
        gct.plan(old_weight_norm, {"weight_v": 0}, verify=IMAGES)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_groups_of_a_transposed_convolution_must_be_right(groups):
    """Its stored shape (in, out/groups, k) looks the same for other numbers of groups."""
    layer = (
        nn.ConvTranspose1d(8, 3, 2, groups=1) if groups == 1 else nn.ConvTranspose1d(8, 3 * groups, 2, groups=groups)
    )
    batch = torch.randn(1, 8, 4)
    assert gct.plan(layer, verify=batch)["weight"].verification == "verified"
    for other in {1, 2, 4} - {groups}:
        view = gct.View((other, 8 // other, 3, 2), (1, 3))
        with pytest.raises(ValueError, match=WRONG):
            gct.plan(layer, {"weight": view}, verify=batch)


def test_the_whole_tensor_and_single_weights_are_no_weight_vectors():
    layer = nn.Linear(6, 3)
    for view in (gct.View((18,), (0,)), gct.View((3, 2, 3), (2,)), gct.View((9, 2), (1,)), gct.View((2, 9), (1,))):
        with pytest.raises(ValueError, match=r"overrides={'weight': 1}$"):
            gct.plan(layer, {"weight": view}, verify=X)


# ---- Experts


class Experts(nn.Module):
    """Each token goes through one of four experts, (out, in) each."""

    def __init__(self, way):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 4, 8))
        self.way = way

    def forward(self, x, chosen):
        if self.way == "one by one":
            out = x.new_zeros(len(x), 4)
            for expert in chosen.unique():
                out[chosen == expert] = F.linear(x[chosen == expert], self.w[expert])
            return out
        if self.way == "gathered":
            return torch.bmm(self.w[chosen], x.unsqueeze(-1)).squeeze(-1)
        if self.way == "all":
            return torch.einsum("ti,eoi->teo", x, self.w)[torch.arange(len(x)), chosen]
        x, order = x[chosen.argsort(stable=True)], chosen.bincount(minlength=4).cumsum(0)
        return torch._grouped_mm(x, self.w.transpose(1, 2), offs=order.int())


@pytest.mark.parametrize("way", ["one by one", "gathered", "all", "grouped"])
def test_experts_never_over_the_stack(way):
    if way == "grouped" and not hasattr(torch, "_grouped_mm"):
        pytest.skip("PyTorch has grouped products since 2.8")
    model, x, chosen = Experts(way), torch.randn(5, 8), torch.tensor([0, 1, 2, 3, 0])
    assert proofs(model, (x, chosen)) == {"w": "candidate: the batch sums over axis 2 (8), override with 2"}
    assert proofs(model, (x, chosen), {"w": 2}) == {"w": "verified"}
    for wrong in (0, 1, (0, 2), (1, 2), (0, 1, 2)):
        with pytest.raises(ValueError, match=r"sums over axis 2 \(8\): overrides={'w': 2}"):
            gct.plan(model, {"w": wrong}, verify=(x, chosen))


@pytest.mark.parametrize("way", ["one by one", "gathered", "grouped"])
def test_experts_that_no_token_reaches_are_not_verified(way):
    model, batch = Experts(way), (torch.randn(2, 8), torch.tensor([3, 1]))
    assert proofs(model, batch, {"w": 2}) == {"w": "verified for 8 of 16 outputs; the others were not reached"}
    with pytest.raises(ValueError, match=WRONG):
        gct.plan(model, {"w": (0, 2)}, verify=batch)


# ---- Parameters nobody knows


def nothing(x, w):
    return x


CANDIDATES = {
    "x @ W": ((6, 3), lambda x, w: x @ w, 0),
    "x @ W.T": ((3, 6), lambda x, w: x @ w.T, 1),
    "heads": ((6, 2, 4), lambda x, w: torch.einsum("bti,ihd->bhtd", x, w), 0),
    "two axes are summed over": ((2, 3, 4), lambda x, w: torch.einsum("bthd,hdo->bto", x.view(2, 5, 2, 3), w), (0, 1)),
    "one layer for each place": ((5, 6, 4), lambda x, w: torch.einsum("bti,tio->bto", x, w), 1),
    "cast, scaled, masked": ((6, 3), lambda x, w: x.double() @ (0.5 * w.double()), 0),
    "a sum of two": ((6, 3), lambda x, w: x @ (w + torch.ones(6, 3)), 0),
    "vector": ((6,), lambda x, w: x @ w, 0),
}


@pytest.mark.parametrize("use", CANDIDATES)
def test_a_raw_weight_is_a_candidate(use):
    shape, function, axes = CANDIDATES[use]
    model = Raw(shape, function)
    row = gct.plan(model, verify=X)["w"]
    assert row.axes is None  # it is left alone until somebody says otherwise
    assert row.verification.startswith("candidate: the batch sums over ax") and row.verification.endswith(
        f"override with {axes}"
    )
    assert proofs(model, X, {"w": axes}) == {"w": "verified"}


def test_a_candidate_that_needs_a_view():
    batch = torch.randn(1, 4, 6)
    model = Raw((4, 3, 2), lambda x, w: F.conv_transpose1d(x, w, groups=2))
    view = "gct.View((2, 2, 3, 2), (1, 3))"
    assert proofs(model, batch) == {
        "w": f"candidate: the batch sums over axes 1,3 (4) of 2×2×3×2, override with {view}"
    }
    assert proofs(model, batch, {"w": eval(view)}) == {"w": "verified"}
    # Groups that lie interleaved, and blocks of another axis
    model = Raw((6, 3), lambda x, w: torch.stack([x[..., i::2] @ w[i::2] for i in range(2)]))
    assert proofs(model, X)["w"].endswith("override with gct.View((3, 2, 3), (0,))")
    model = Raw((6, 3), lambda x, w: torch.stack([x[..., :3] @ w[:3], x[..., 3:] @ w[3:]]))
    assert proofs(model, X)["w"].endswith("override with gct.View((2, 3, 3), (1,))")


NO_CANDIDATES = {
    "scale": ((6,), lambda x, w: x * w, "not a weight: the batch shows no sum over it"),
    "scale of two axes": ((5, 6), lambda x, w: x * w, "not a weight: the batch shows no sum over it"),
    "token": ((1, 1, 6), lambda x, w: torch.cat([w.expand(2, 1, 6), x], 1), "not a weight: the batch shows no sum"),
    "position": ((1, 5, 6), lambda x, w: x + w, "not a weight: the batch shows no sum over it"),
    "rate": ((5, 6), lambda x, w: x * torch.exp(-w), "not a weight: the batch shows no sum over it"),
    "softmax over it": ((6,), lambda x, w: x @ torch.softmax(w, 0), "the batch cannot show it"),
    "read in two ways": ((6, 6), lambda x, w: x @ w + x @ w.T, "the batch cannot show it"),
    "unused": ((6, 3), nothing, "not reached by the batch"),
    "cut off": ((6, 3), lambda x, w: x @ (0 * w), "not reached by the batch"),
}


@pytest.mark.parametrize("use", NO_CANDIDATES)
def test_other_raw_parameters_are_no_candidates(use):
    shape, function, proof = NO_CANDIDATES[use]
    assert proofs(Raw(shape, function), X)["w"].startswith(proof)


@pytest.mark.parametrize("use", [use for use in NO_CANDIDATES if NO_CANDIDATES[use][2].startswith("not a weight")])
def test_centralizing_what_is_no_weight_is_refused(use):
    shape, function, _ = NO_CANDIDATES[use]
    with pytest.raises(ValueError, match=r"each weight has outputs of its own: overrides={'w': None}"):
        gct.plan(Raw(shape, function), {"w": len(shape) - 1}, verify=X)


def test_a_table_is_looked_up():
    ids = torch.tensor([[0, 3, 1]])
    model = nn.Sequential(nn.Embedding(4, 6), nn.Linear(6, 3))
    assert proofs(model, ids) == {"1.weight": "verified"}
    with pytest.raises(ValueError, match=r"0.weight: not a weight: looked up.*overrides={'0.weight': None}"):
        gct.plan(model, {"0.weight": 1}, verify=ids)
    model = Raw((4, 6), lambda x, w: F.linear(w[x], torch.ones(3, 6)))
    assert proofs(model, ids) == {"w": "not a weight: looked up, and the input of other layers"}


def test_a_matrix_read_in_two_ways_cannot_be_centralized():
    model = Raw((6, 6), lambda x, w: (x @ w).relu() @ w.T)
    for axes in (0, 1, (0, 1)):
        with pytest.raises(ValueError, match="no axes say which"):
            gct.plan(model, {"w": axes}, verify=X)


def test_parts_of_weight_vectors_that_are_reached():
    model = Raw((3, 6), lambda x, w: F.linear(x[..., :4], w[:, :4]))
    assert proofs(model, X, {"w": 1}) == {"w": "the batch cannot show it: it reaches parts of weight vectors"}


def test_an_unknown_parametrization_is_seen_through():
    class Half(nn.Module):
        def forward(self, x):
            return x / 2

    layer = parametrize.register_parametrization(nn.Linear(6, 3), "weight", Half())
    assert proofs(layer, X) == {
        "parametrizations.weight.original": "candidate: the batch sums over axis 1 (6), override with 1"
    }


def test_standardized_weights_are_verified_where_zero_is_no_value():
    class StandardizedConv2d(nn.Conv2d):
        def forward(self, x):
            w = self.weight.flatten(1)
            w = (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True)
            return F.conv2d(x, w.view_as(self.weight), self.bias)

    assert proofs(StandardizedConv2d(4, 3, 2), IMAGES) == {"weight": "verified"}
    with pytest.raises(ValueError, match=WRONG):
        gct.plan(StandardizedConv2d(4, 3, 2), {"weight": 0}, verify=IMAGES)


# ---- What is verified is the model as it is, and it stays so


class Busy(nn.Module):
    """It draws random numbers, writes to buffers and parameters, and puts new buffers in the place of old ones."""

    def __init__(self, fails=False):
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 3), nn.BatchNorm1d(3)
        self.average = nn.Parameter(torch.zeros(3))
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("none", None)
        self.fails = fails

    def forward(self, x):
        x = self.layer(x[0]) + torch.rand(3) + random.random() + np.random.rand()  # noqa: NPY002
        self.norm.train()
        x = self.norm(x)
        with torch.no_grad():
            self.average.data.mul_(0.9).add_(x.mean(0))
            self.layer.bias.add_(1)
        self.seen.copy_(x[0])
        self.steps = self.steps + 1
        if self.fails:
            raise ZeroDivisionError
        return x


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_as_it_was(fails):
    model = Busy(fails)
    model.norm.weight.grad = torch.ones(3)
    model.norm.eval()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    buffers = dict(model.named_buffers())
    training = [module.training for module in model.modules()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    kernels = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled, torch.backends.mha.get_fastpath_enabled()
    if fails:
        with pytest.raises(ZeroDivisionError):
            gct.plan(model, verify=X)
    else:
        assert proofs(model, X) == {"layer.weight": "verified", "average": "not reached by the batch"}
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert all(buffers[name] is x for name, x in model.named_buffers())
    assert [module.training for module in model.modules()] == training
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    assert torch.is_grad_enabled() and all(p.requires_grad for p in model.parameters())
    assert torch.equal(model.norm.weight.grad, torch.ones(3)) and model.layer.weight.grad is None
    assert kernels == (
        torch.backends.mkldnn.enabled,
        torch.backends.cudnn.enabled,
        torch.backends.mha.get_fastpath_enabled(),
    )
    assert not model._forward_pre_hooks and not model.layer._forward_pre_hooks


def test_a_row_that_is_wrong_leaves_everything_as_it_was_too():
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 6)), nn.BatchNorm1d(5))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(ValueError, match=WRONG):
        gct.plan(model, {"0.weight_orig": 0}, verify=X)
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    assert model.training and len(model[0]._forward_pre_hooks) == 1


def test_every_wrong_row_is_named_at_once():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    with pytest.raises(ValueError, match=WRONG) as caught:
        gct.plan(model, {"*.weight": 0}, verify=X)
    assert str(caught.value).splitlines()[1:] == [
        "- 0.weight: the plan says axis 0 (5), but an output sums over axis 1 (6): overrides={'0.weight': 1}",
        "- 2.weight: the plan says axis 0 (4), but an output sums over axis 1 (5): overrides={'2.weight': 1}",
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision(dtype):
    model = nn.Sequential(nn.Conv1d(5, 4, 3), nn.Linear(4, 7)).to(dtype)
    assert proofs(model, X.to(dtype)) == {"0.weight": "verified", "1.weight": "verified"}
    with pytest.raises(ValueError, match=WRONG):
        gct.plan(model, {"1.weight": 0}, verify=X.to(dtype))


def test_complex_numbers():
    model = Raw((6, 3), lambda x, w: x @ torch.complex(w, w))
    model.w = nn.Parameter(torch.ones(6, 3, dtype=torch.complex64))
    model.use = lambda x, w: x @ w
    assert proofs(model, X.to(torch.complex64)) == {"w": "candidate: the batch sums over axis 0 (6), override with 0"}


def test_zeros_in_the_data_hide_nothing():
    """One-hot data would show each weight of a layer by itself."""
    assert proofs(nn.Linear(6, 3), torch.eye(6)) == {"weight": "verified"}
    assert proofs(nn.Linear(6, 3), torch.zeros(1, 6)) == {"weight": "verified"}
    assert proofs(nn.Linear(6, 3), torch.full((1, 6), math.nan)) == {"weight": "verified"}
    dead = nn.Linear(6, 3)
    nn.init.zeros_(dead.weight)
    assert proofs(dead, X) == {"weight": "verified"}


def test_autocast_and_channels_last_and_a_compiled_model():
    model = nn.Sequential(nn.Conv2d(4, 3, 2), nn.Flatten(), nn.Linear(48, 5)).to(memory_format=torch.channels_last)
    wanted = {"0.weight": "verified", "2.weight": "verified"}
    assert proofs(model, IMAGES) == wanted

    def autocast(model):
        with torch.autocast("cpu", torch.bfloat16):
            model(IMAGES)

    assert proofs(model, autocast) == wanted
    compiled = torch.compile(model, backend="eager")
    assert proofs(compiled, IMAGES) == {f"_orig_mod.{name}": proof for name, proof in wanted.items()}


def test_frozen_parameters_are_verified_too():
    layer = nn.Linear(6, 3).requires_grad_(False)
    assert proofs(layer, X) == {"weight": "verified"}
    assert not layer.weight.requires_grad


def test_a_weight_that_two_layers_share():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight
    assert proofs(model, X) == {"0.weight": "verified"}


# ---- What is given


@pytest.mark.parametrize(
    "batch",
    [X, (X,), {"input": X}, lambda model: model(X), lambda model: [model(x) for x in X]],
    ids=["tensor", "tuple", "mapping", "function", "function that runs it twice"],
)
def test_forms_of_a_batch(batch):
    assert proofs(nn.Linear(6, 3), batch) == {"weight": "verified"}


def test_without_a_batch_nothing_is_verified():
    plan = gct.plan(nn.Linear(6, 3))
    assert plan["weight"].verification == "" and "verified" not in plan.to_text(100)


def test_an_override_afterwards_has_no_proof():
    plan = gct.plan(nn.Linear(6, 3), verify=X).override({"weight": 0})
    assert plan["weight"].verification == ""


def test_the_table_and_the_data_say_what_was_shown():
    model = nn.ModuleDict({"a": nn.Linear(6, 3), "b": nn.Linear(6, 3)})
    plan = gct.plan(model, verify=lambda model: model["a"](X))
    text = " ".join(plan.to_text(200).split())
    assert "Running the model has verified 1 of these 2." in text
    assert "Linear, stored (out, in); verified" in text and "Linear, stored (out, in); not reached by the batch" in text
    assert [one["verification"] for one in plan.to_dicts()] == ["verified", "", "not reached by the batch", ""]
    optimizer = gct.SGD(model, lr=0.1, plan=plan)  # it is a plan like any other
    assert optimizer.plan["a.weight"].axes == (1,)


@pytest.mark.parametrize(
    ("make", "batch", "error", "words"),
    [
        (lambda: nn.Linear(6, 3), [X], TypeError, ["verify must be", "list"]),
        (lambda: nn.Linear(6, 3), 3, TypeError, ["verify must be", "int"]),
        (lambda: nn.Linear(6, 3, device="meta"), X, ValueError, ["weight", "meta device"]),
        (lambda: nn.Linear(6, 3), torch.ones(5), RuntimeError, []),
    ],
)
def test_what_cannot_be_run(make, batch, error, words):
    with pytest.raises(error) as caught:
        gct.plan(make(), verify=batch)
    for word in words:
        assert word in str(caught.value)


# ---- Whole models


def transformer(name, experts=None, **options):
    sizes = dict(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=4)
    config = getattr(transformers, f"{name}Config")(**{**sizes, **options})
    heads = [f"{name}{head}" for head in ("ForCausalLM", "LMHeadModel") if hasattr(transformers, f"{name}{head}")]
    model = getattr(transformers, heads[0])._from_config(config, experts_implementation=experts)
    return model, {"input_ids": torch.arange(24).view(2, 12)}


MOE = dict(intermediate_size=24, num_key_value_heads=2, head_dim=4, num_experts_per_tok=2)
TRANSFORMERS = {
    "GPT2": {},
    "Mixtral": dict(**MOE, num_local_experts=4),
    "Qwen3Moe": dict(**MOE, num_experts=4, moe_intermediate_size=12),
    "GptOss": dict(**MOE, num_local_experts=4, layer_types=["full_attention", "sliding_attention"]),
    "JetMoe": dict(intermediate_size=24, num_key_value_heads=2, kv_channels=4, num_local_experts=4),
}


@pytest.mark.parametrize(
    ("name", "experts"),
    [
        ("GPT2", None),
        ("JetMoe", None),
        *itertools.product(["Mixtral", "Qwen3Moe", "GptOss"], ["eager", "batched_mm", "grouped_mm"]),
    ],
)
def test_transformers(name, experts):
    model, batch = transformer(name, experts, **TRANSFORMERS[name])
    plan = gct.plan(model, verify=batch)
    on = {name: row for name, row in plan.items() if row.axes is not None}
    assert {row.verification for row in on.values()} == {"verified"}
    # No matrix is left out but embeddings, and the head that is tied to one.
    left = {name.rpartition(".")[0] for name, row in plan.items() if row.axes is None and "bias" not in name}
    assert not [name for name in left if re.search(r"proj|router|gate$|experts|c_attn|c_fc", name)]
    for name in on:
        if "expert" in name and len(on[name].shape) == 3:
            (axis,) = on[name].axes
            for wrong in (0, 3 - axis, (0, axis)):
                with pytest.raises(ValueError, match=WRONG):
                    gct.plan(model, {name: wrong}, verify=batch)
            break

"""Plans of PyTorch models; the expected axes are written by hand, from how each layer's documentation stores it."""

import copy

import pytest
import torch
import transformers
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

import gc_core
import gc_torch as gct

# Many of these models are one layer, of which GC leaves all alone; what is warned of is tested in test_plan_warnings.
pytestmark = pytest.mark.filterwarnings("ignore::gc_core.GCWarning")


def seen(model, **how):
    """Name -> axes; with the view in front where it is not the stored shape."""
    plan = gct.plan(model, **how)
    assert [row.name for row in plan.rows] == [name for name, _ in model.named_parameters()]
    return {row.name: row.axes if row.view == row.shape else (row.view, row.axes) for row in plan.rows}


def reasons(model):
    return {row.name: row.why for row in gct.plan(model).rows}


# ---- Whole models


@pytest.fixture(scope="module")
def gpt2():
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=11, n_positions=7)
    return transformers.GPT2LMHeadModel(config)


def test_gpt2(gpt2):
    """Conv1D is stored (in, out); the head is the token embedding."""
    block = {
        "ln_1.weight": None,
        "ln_1.bias": None,
        "attn.c_attn.weight": (0,),  # (8, 24)
        "attn.c_attn.bias": None,
        "attn.c_proj.weight": (0,),
        "attn.c_proj.bias": None,
        "ln_2.weight": None,
        "ln_2.bias": None,
        "mlp.c_fc.weight": (0,),  # (8, 32)
        "mlp.c_fc.bias": None,
        "mlp.c_proj.weight": (0,),
        "mlp.c_proj.bias": None,
    }
    assert seen(gpt2) == {
        "transformer.wte.weight": None,
        "transformer.wpe.weight": None,
        **{f"transformer.h.{i}.{name}": axes for i in range(2) for name, axes in block.items()},
        "transformer.ln_f.weight": None,
        "transformer.ln_f.bias": None,
    }
    assert reasons(gpt2)["transformer.wte.weight"].startswith("shared with an embedding")
    assert "lm_head.weight" in reasons(gpt2)["transformer.wte.weight"]


def test_the_shape_alone_gets_gpt2_wrong(gpt2):
    """What the plan is for: bare parameters centralize the wrong axis, and the embeddings."""
    bare = gct.SGD(gpt2.parameters(), plan="out_first").plan
    right = gct.plan(gpt2)
    wrong = [row.name for row in right.rows if bare.row_of(gpt2.get_parameter(row.name)).axes != row.axes]
    assert len(wrong) == 10  # 4 Conv1D in each of 2 blocks, and 2 embeddings


class ScaledBlock(nn.Module):
    """A residual block with layer scale, as in ConvNeXt."""

    def __init__(self, width):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.BatchNorm2d(width)
        self.expand = nn.Conv2d(width, 4 * width, 1)
        self.reduce = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width, 1, 1), 1e-6))
        self.layer_scale = nn.Parameter(torch.full((1, width, 1, 1), 1e-6))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(ScaledBlock(8), ScaledBlock(8))
        self.down = nn.Conv2d(8, 16, 1, groups=8, bias=False)  # each output is fed by one channel
        self.gn = nn.GroupNorm(2, 16)
        self.head = nn.Linear(16, 5)


def test_a_resnet_with_layer_scale():
    block = {
        "gamma": None,
        "layer_scale": None,
        "depthwise.weight": (1, 2, 3),  # (8, 1, 3, 3): fan-in 9
        "depthwise.bias": None,
        "norm.weight": None,
        "norm.bias": None,
        "expand.weight": (1, 2, 3),
        "expand.bias": None,
        "reduce.weight": (1,),
        "reduce.bias": None,
    }
    model = ResNet()
    assert seen(model) == {
        "stem.weight": (1, 2, 3),
        "bn.weight": None,
        "bn.bias": None,
        **{f"blocks.{i}.{name}": axes for i in range(2) for name, axes in block.items()},
        "down.weight": None,
        "gn.weight": None,
        "gn.bias": None,
        "head.weight": (1,),
        "head.bias": None,
    }
    why = reasons(model)
    assert why["blocks.0.gamma"].startswith("layer scale") and why["blocks.1.layer_scale"].startswith("layer scale")
    assert why["down.weight"] == "one weight per output: GC would freeze it"
    assert gct.plan(model)["stem.weight"].fan_in == 147 and gct.plan(model)["blocks.0.depthwise.weight"].fan_in == 9


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, groups=2)])
        self.up = nn.ModuleList(
            [
                nn.ConvTranspose2d(16, 8, 2, stride=2),  # (16, 8, 2, 2)
                nn.ConvTranspose2d(16, 8, 2, stride=2, groups=4),  # (16, 2, 2, 2)
                nn.ConvTranspose2d(8, 8, 1, groups=8),  # (8, 1, 1, 1): fan-in 1
                nn.ConvTranspose2d(8, 8, 3, groups=8),  # (8, 1, 3, 3): fan-in 9
                nn.ConvTranspose1d(4, 6, 5, groups=2),  # (4, 3, 5)
                nn.ConvTranspose3d(4, 6, 2, groups=2),  # (4, 3, 2, 2, 2)
                nn.ConvTranspose1d(1, 6, 1),  # one channel in, one weight for each out
            ]
        )
        self.head = nn.Conv2d(8, 2, 1)


def test_a_unet_with_grouped_transposed_convolutions():
    plan = seen(UNet())
    assert {name: axes for name, axes in plan.items() if name.endswith("weight")} == {
        "down.0.weight": (1, 2, 3),
        "down.1.weight": (1, 2, 3),
        "up.0.weight": (0, 2, 3),
        "up.1.weight": ((4, 4, 2, 2, 2), (1, 3, 4)),
        "up.2.weight": None,
        "up.3.weight": ((8, 1, 1, 3, 3), (1, 3, 4)),
        "up.4.weight": ((2, 2, 3, 5), (1, 3)),
        "up.5.weight": ((2, 2, 3, 2, 2, 2), (1, 3, 4, 5)),
        "up.6.weight": None,
        "head.weight": (1, 2, 3),
    }
    assert all(axes is None for name, axes in plan.items() if name.endswith("bias"))


def test_experts_that_say_how_they_are_stored():
    """Stacked experts: each as one layer, never over the stack."""
    sizes = dict(
        hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        num_local_experts=3, num_experts_per_tok=1, vocab_size=11,
    )  # fmt: skip
    mixtral = gct.plan(transformers.MixtralModel(transformers.MixtralConfig(**sizes)))
    assert experts(mixtral) == {
        "gate_up_proj": ((3, 24, 8), (2,)),  # (expert, out, in)
        "down_proj": ((3, 8, 12), (2,)),
    }
    gpt_oss = gct.plan(transformers.GptOssModel(transformers.GptOssConfig(**sizes)))
    assert experts(gpt_oss) == {
        "gate_up_proj": ((3, 8, 24), (1,)),  # (expert, in, out)
        "gate_up_proj_bias": ((3, 24), None),
        "down_proj": ((3, 12, 8), (1,)),
        "down_proj_bias": ((3, 8), None),
    }


def experts(plan):
    return {row.name.split(".")[-1]: (row.shape, row.axes) for row in plan.rows if ".experts." in row.name}


# ---- One layer at a time


LAYERS = [
    (nn.Linear(3, 4), {"weight": (1,), "bias": None}),
    (nn.Linear(1, 4), {"weight": None, "bias": None}),
    (nn.Linear(4, 1), {"weight": (1,), "bias": None}),
    (nn.Conv1d(3, 4, 2), {"weight": (1, 2), "bias": None}),
    (nn.Conv3d(3, 4, 2), {"weight": (1, 2, 3, 4), "bias": None}),
    (nn.Conv2d(4, 4, 1, groups=4), {"weight": None, "bias": None}),
    (nn.Bilinear(3, 4, 2), {"weight": (1, 2), "bias": None}),
    (nn.Embedding(5, 3), {"weight": None}),
    (nn.EmbeddingBag(5, 3), {"weight": None}),
    (nn.LayerNorm((3, 4)), {"weight": None, "bias": None}),
    (nn.RMSNorm((3, 4)), {"weight": None}),
    (nn.InstanceNorm2d(3, affine=True), {"weight": None, "bias": None}),
    (nn.PReLU(3), {"weight": None}),
    (nn.RNNCell(3, 4), {"weight_ih": (1,), "weight_hh": (1,), "bias_ih": None, "bias_hh": None}),
    (
        nn.LSTM(3, 4, proj_size=2, bidirectional=True),
        {
            f"{name}_l0{end}": axes
            for end in ("", "_reverse")
            for name, axes in {
                "weight_ih": (1,), "weight_hh": (1,), "bias_ih": None, "bias_hh": None, "weight_hr": (1,),
            }.items()
        },
    ),
    (
        nn.GRU(3, 4, num_layers=2, bias=False),
        {f"weight_{name}_l{layer}": (1,) for layer in range(2) for name in ("ih", "hh")},
    ),
    (
        nn.MultiheadAttention(8, 2),
        {"in_proj_weight": (1,), "in_proj_bias": None, "out_proj.weight": (1,), "out_proj.bias": None},
    ),
    (
        nn.MultiheadAttention(8, 2, kdim=6, vdim=4, add_bias_kv=True),
        {
            "q_proj_weight": (1,), "k_proj_weight": (1,), "v_proj_weight": (1,), "in_proj_bias": None,
            "bias_k": None, "bias_v": None, "out_proj.weight": (1,), "out_proj.bias": None,
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "expected"), LAYERS, ids=lambda x: type(x).__name__)
def test_a_layer(layer, expected):
    assert seen(layer) == expected


def test_a_subclass_is_its_layer():
    class Mine(nn.Linear):
        def __init__(self):
            super().__init__(3, 4)
            self.extra = nn.Parameter(torch.ones(4, 3))

    assert seen(Mine()) == {"weight": (1,), "bias": None, "extra": None}
    assert reasons(Mine())["extra"].startswith("a parameter owned directly by a custom module")
    assert reasons(Mine())["weight"] == "Mine, stored (out, in)"


def test_raw_parameters_are_left_alone_and_the_plan_says_why():
    class Vit(nn.Module):
        def __init__(self):
            super().__init__()
            self.pos_embed = nn.Parameter(torch.ones(1, 5, 4))
            self.cls_token = nn.Parameter(torch.ones(1, 1, 4))
            self.relative_position_bias_table = nn.Parameter(torch.ones(9, 2))
            self.bias = nn.Parameter(torch.ones(2, 3))
            self.mix = nn.Parameter(torch.ones(4, 4))

    assert set(seen(Vit()).values()) == {None}
    why = reasons(Vit())
    assert why["pos_embed"].startswith("position") and why["cls_token"].startswith("token")
    assert why["relative_position_bias_table"].startswith("relative-position") and why["bias"] == "bias"
    assert why["mix"].startswith("a parameter owned directly by a custom module: skipped, override")
    assert seen(Vit(), overrides={"mix": 0})["mix"] == (0,)


# ---- Sharing, parametrizations, frozen and lazy


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 9, bias=False)
        self.embedding = nn.Embedding(9, 4)
        self.head.weight = self.embedding.weight


def test_a_table_that_is_tied_to_a_head_is_an_embedding_whichever_comes_first():
    assert seen(Tied()) == {"head.weight": None}
    assert reasons(Tied())["head.weight"] == "shared with an embedding: head.weight, embedding.weight"


def test_layers_that_share_a_weight():
    alike = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    alike[1].weight = alike[0].weight
    assert seen(alike) == {"0.weight": (1,)} and "also 1.weight" in reasons(alike)["0.weight"]
    unlike = nn.ModuleList([nn.Conv2d(4, 4, 1, bias=False), nn.ConvTranspose2d(4, 4, 1, bias=False)])
    unlike[1].weight = unlike[0].weight
    assert seen(unlike) == {"0.weight": None} and "different ways" in reasons(unlike)["0.weight"]
    layer = nn.Linear(4, 4)
    assert seen(nn.Sequential(layer, layer)) == {"0.weight": (1,), "0.bias": None}


def test_parametrizations():
    weight_norm = parametrizations.weight_norm(nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False))
    assert seen(weight_norm) == {
        "parametrizations.weight.original0": None,
        "parametrizations.weight.original1": ((2, 2, 3, 2, 2), (1, 3, 4)),
    }
    spectral = parametrizations.spectral_norm(nn.Linear(3, 4, bias=False))
    assert seen(spectral) == {"parametrizations.weight.original": (1,)}
    orthogonal = parametrizations.orthogonal(nn.Linear(3, 3, bias=False))
    assert seen(orthogonal) == {"parametrizations.weight.original": None}
    assert seen(old_spectral_norm(nn.Linear(3, 4))) == {"bias": None, "weight_orig": (1,)}
    pruned = prune.l1_unstructured(nn.Linear(3, 4, bias=False), "weight", 0.5)
    assert seen(pruned) == {"weight_orig": None}

    class Doubled(nn.Module):
        def forward(self, x):
            return 2 * x

    unknown = nn.Linear(3, 4, bias=False)
    parametrize.register_parametrization(unknown, "weight", Doubled())
    assert seen(unknown) == {"parametrizations.weight.original": None}
    assert "unknown parametrization: override" in reasons(unknown)["parametrizations.weight.original"]
    assert seen(unknown, overrides={"*.original": 1}) == {"parametrizations.weight.original": (1,)}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_the_older_weight_norm():
    assert seen(old_weight_norm(nn.Linear(3, 4, bias=False))) == {"weight_g": None, "weight_v": (1,)}


def test_frozen_parameters_say_so():
    layer = nn.Linear(3, 4).requires_grad_(False)
    assert reasons(layer) == {"weight": "Linear, stored (out, in)", "bias": "bias"}


def test_lazy_layers_have_no_plan_until_they_have_shapes():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(ValueError, match=r"0\.weight has no shape yet.*lazy.*run the model once"):
        gct.plan(model)
    model(torch.ones(1, 3, 4, 4))
    assert seen(model)["0.weight"] == (1, 2, 3) and seen(model)["2.weight"] == (1,)


# ---- Overrides, and the plan as a thing


def test_overrides():
    model = nn.Sequential(nn.Linear(3, 4), nn.ConvTranspose2d(4, 6, 2, groups=2))
    view = gc_core.View((2, 2, 3, 4), (1, 3), "")
    assert seen(model, overrides={"*.weight": None, "0.*": 0, "1.weight": view}) == {
        "0.weight": (0,),
        "0.bias": (0,),
        "1.weight": ((2, 2, 3, 4), (1, 3)),
        "1.bias": None,
    }
    assert gct.plan(model, {"0.weight": -1})["0.weight"] == gc_core.Row(
        "0.weight", (4, 3), (4, 3), (1,), "override '0.weight'"
    )


@pytest.mark.parametrize(
    ("overrides", "error", "text"),
    [
        ({"1.weights": None}, ValueError, r"pattern '1.weights' matches no parameter; the names are '0.weight'"),
        ({"0.weight": 2}, ValueError, r"overrides\['0.weight'\] for '0.weight': 2 is out of range"),
        ({"0.weight": ()}, ValueError, "at least one axis"),
        ({"0.weight": "out_first"}, TypeError, "must be an int"),
        ({"0.weight": gc_core.View((5, 3), (1,), "")}, ValueError, r"shape \(4, 3\) cannot be seen as \(5, 3\)"),
        ({3: None}, TypeError, "a pattern must be a string"),
        (["0.weight"], TypeError, "overrides must map"),
    ],
)
def test_bad_overrides(overrides, error, text):
    with pytest.raises(error, match=text):
        gct.plan(nn.Sequential(nn.Linear(3, 4)), overrides)


@pytest.mark.parametrize("model", [None, torch.ones(2, 3), [nn.Linear(2, 3), 3], [], nn.Linear, {}])
def test_a_plan_is_made_for_a_module(model):
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, or a list of them; got"):
        gct.plan(model)


def test_a_plan_changes_nothing_and_knows_its_parameters():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = copy.deepcopy(model.state_dict())
    plan = gct.plan(model)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    for name, p in model.named_parameters():
        assert plan.row_of(p) is plan[name]
    assert plan.row_of(nn.Parameter(torch.ones(4, 3))) is None
    copied_model, copied = copy.deepcopy((model, plan))
    assert copied.row_of(copied_model[0].weight) == plan["0.weight"]


# ---- Parameter groups


def names_of(model, groups):
    names = {p: name for name, p in model.named_parameters()}
    return [{names[p] for p in group["params"]} for group in groups]


def test_param_groups():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 4)
            self.pos_embed = nn.Parameter(torch.ones(1, 5, 4))
            self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
            self.norm = nn.LayerNorm((5, 4))
            self.depthwise = nn.Conv2d(4, 4, 1, groups=4)  # decayed, though GC is not for it
            self.gamma = nn.Parameter(torch.ones(4, 1, 1))
            self.normed = parametrizations.weight_norm(nn.Linear(4, 3))
            self.mix = nn.Parameter(torch.ones(4, 4))

    model = Model()
    decayed, rest = names_of(model, groups := gct.param_groups(model, weight_decay=0.1))
    assert decayed == {
        "attention.in_proj_weight", "attention.out_proj.weight", "depthwise.weight", "mix",
        "normed.parametrizations.weight.original1",
    }  # fmt: skip
    assert decayed | rest == {name for name, _ in model.named_parameters()} and not decayed & rest
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    optimizer = gct.AdamW(groups, lr=1e-3, plan=gct.plan(model))
    assert optimizer.plan.row_of(model.attention.in_proj_weight).axes == (1,)


def test_param_groups_of_gpt2(gpt2):
    """The head that is the token embedding is not decayed."""
    decayed, _ = names_of(gpt2, gct.param_groups(gpt2))
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert decayed == {f"transformer.h.{i}.{part}.weight" for i in range(2) for part in parts}
    assert sum(len(g["params"]) for g in gct.param_groups(gpt2)) == len(list(gpt2.parameters()))


def test_param_groups_of_a_lazy_model_and_of_no_model():
    with pytest.raises(ValueError, match="lazy"):
        gct.param_groups(nn.LazyLinear(3))
    with pytest.raises(TypeError, match="model"):
        gct.param_groups(list(nn.Linear(2, 3).parameters()))


# ---- The axes are what the layers do


WEIGHTS = [
    nn.ConvTranspose1d(4, 6, 3, groups=2, bias=False),
    nn.ConvTranspose2d(3, 4, (1, 2), bias=False),
    nn.Conv2d(4, 6, 2, groups=2, bias=False),
    transformers.pytorch_utils.Conv1D(5, 3),
    nn.Linear(3, 5, bias=False),
]


def units_with_one_weight_vector(layer, row):
    """Of how many output units the gradient is zero outside one weight vector of the row's view, and nowhere in it."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        x = torch.rand(2, layer.in_channels, *[4] * (len(row.shape) - 2), dtype=torch.float64) + 0.5
        units = layer(x).transpose(0, 1).flatten(1)
    else:
        units = layer(torch.rand(2, 3, dtype=torch.float64) + 0.5).T
    vectors = set()
    for unit in units:
        (grad,) = torch.autograd.grad(unit.sum(), layer.weight, retain_graph=True)
        touched = (grad.reshape(row.view) != 0).sum(row.axes)
        if touched.count_nonzero() == 1 and touched.max() == row.fan_in:
            vectors.add(int(touched.flatten().argmax()))
    return len(vectors), len(units)


@pytest.mark.parametrize("layer", WEIGHTS, ids=lambda layer: type(layer).__name__)
def test_a_weight_vector_feeds_one_output_unit(layer):
    torch.manual_seed(0)
    layer = copy.deepcopy(layer).double()
    found, units = units_with_one_weight_vector(layer, row := gct.plan(layer)["weight"])
    assert found == units == layer.weight.numel() // row.fan_in


@pytest.mark.parametrize("layer", WEIGHTS[:4], ids=lambda layer: type(layer).__name__)
def test_a_wrong_view_does_not(layer):
    torch.manual_seed(0)
    layer = copy.deepcopy(layer).double()
    wrong = gct.SGD(layer.parameters(), plan="out_first").plan.rows[0]
    if type(layer) is nn.Conv2d:
        wrong = wrong._replace(axes=(0, 2, 3))
    assert units_with_one_weight_vector(layer, wrong)[0] == 0

"""Plans: each layer's axes by hand, and the axes of many proven by what a weight does in the real layer."""

import itertools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gc_jax as gct
from gc_core import layouts
from gc_core.reasons import Reason
from tests.jax.releases import EMA, NNX_HAS_WEIGHT_NORM, nnx_list, nnx_prelu

KEY = jax.random.key(0)
left_alone = pytest.mark.filterwarnings("ignore::gc_core.reasons.GCWarning")  # what is warned of is not what is tested
RNGS = nnx.Rngs(0)


def axes(plan):
    return {name: row.axes for name, row in plan.items()}


def units_of(forward, shape):
    """For each element of a weight, the output channels (last axis) that it changes: what a weight vector is, by trial.

    The layer is linear in its weight, so its Jacobian there says exactly which outputs each element feeds.
    """
    jacobian = jax.jacobian(forward)(jnp.ones(shape))
    changed = np.abs(np.asarray(jacobian)).reshape(-1, jacobian.shape[-len(shape) - 1], *shape).max(0) > 0
    return {index: frozenset(np.flatnonzero(changed[(slice(None), *index)])) for index in np.ndindex(*shape)}


def prove(row, forward):
    """The elements that feed one output unit are exactly one weight vector of the row."""
    units = units_of(forward, row.shape)
    kept = [axis for axis in range(len(row.shape)) if axis not in row.axes]

    def vector(index):
        return tuple(index[axis] for axis in kept)

    for a, b in itertools.combinations(units, 2):
        assert (units[a] == units[b]) == (vector(a) == vector(b)), (a, b)


def channels_last(array, *axis):
    """The axes of the output units as one last axis."""
    rest = [a for a in range(array.ndim) if a not in axis]
    return array.transpose(*rest, *axis).reshape(*(array.shape[a] for a in rest), -1)


# ---- Flax Linen


class Zoo(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4)(nn.Embed(5, 3)(x))  # (batch 2, length 6, 4)
        x = nn.LayerNorm()(x)
        x = nn.Conv(6, (3,), feature_group_count=2)(x)
        x = nn.ConvTranspose(4, (3,))(x)
        x = nn.ConvTranspose(6, (3,), transpose_kernel=True)(x)
        x = nn.ConvTranspose(6, (3,), transpose_kernel=True, name="square")(x)
        x = nn.MultiHeadDotProductAttention(2, qkv_features=8, normalize_qk=True)(x)
        x = nn.DenseGeneral((2, 5), axis=(-2, -1), name="general")(x)  # (2, 2, 5)
        x = nn.Einsum((2, 5, 7), "bij,ijk->bik", name="einsum")(x)
        x = nn.PReLU()(x)
        x = nn.RNN(nn.GRUCell(3))(x)
        x = nn.WeightNorm(nn.Dense(4))(x)
        x = nn.SpectralNorm(nn.Dense(1))(x, update_stats=False)
        x = nn.ConvLocal(3, (2,), name="local")(x)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, 3))
        return x + cls + self.param("mystery", nn.initializers.zeros, (2, 3))


@pytest.fixture(scope="module")
def zoo():
    x = jnp.ones((2, 6), jnp.int32)
    params = jax.eval_shape(Zoo().init, KEY, x)["params"]
    return params, Zoo().module_paths(KEY, x)


# By hand: (stored shape, fan-in axes) of every weight; everything else none.
LINEN = {
    "Conv_0.kernel": ((3, 2, 6), (0, 1)),
    "ConvTranspose_0.kernel": ((3, 6, 4), (0, 1)),
    "ConvTranspose_1.kernel": ((3, 6, 4), (0, 2)),
    "square.kernel": ((3, 6, 6), (0, 2)),
    "Dense_0.kernel": ((3, 4), (0,)),
    "Dense_1.kernel": ((3, 4), (0,)),
    "Dense_2.kernel": ((4, 1), (0,)),
    "GRUCell_0.hn.kernel": ((3, 3), (0,)),
    "GRUCell_0.hr.kernel": ((3, 3), (0,)),
    "GRUCell_0.hz.kernel": ((3, 3), (0,)),
    "GRUCell_0.in.kernel": ((7, 3), (0,)),
    "GRUCell_0.ir.kernel": ((7, 3), (0,)),
    "GRUCell_0.iz.kernel": ((7, 3), (0,)),
    "MultiHeadDotProductAttention_0.query.kernel": ((6, 2, 4), (0,)),
    "MultiHeadDotProductAttention_0.key.kernel": ((6, 2, 4), (0,)),
    "MultiHeadDotProductAttention_0.value.kernel": ((6, 2, 4), (0,)),
    "MultiHeadDotProductAttention_0.out.kernel": ((2, 4, 6), (0, 1)),
    "general.kernel": ((6, 6, 2, 5), (0, 1)),
    "einsum.kernel": ((2, 5, 7), (1,)),
    "local.kernel": ((2, 2, 3), (1,)),
}


def test_linen_with_its_modules(zoo):
    params, modules = zoo
    plan = gct.plan(params, modules=modules)
    assert {name: (row.shape, row.axes) for name, row in plan.items() if row.axes} == LINEN
    assert len(plan) == len(jax.tree.leaves(params))
    why = {name: row.why for name, row in plan.items()}
    assert why["Embed_0.embedding"] == layouts.EMBEDDING
    assert why["MultiHeadDotProductAttention_0.query_ln.scale"] == layouts.NORM
    assert why["WeightNorm_0.Dense_1.kernel.scale"] == layouts.MAGNITUDE
    assert why["PReLU_0.negative_slope"] == layouts.ACTIVATION
    assert why["cls"] == layouts.TOKEN
    assert why["mystery"] == layouts.UNKNOWN
    assert why["general.bias"] == layouts.BIAS
    assert why["Dense_0.kernel"].startswith("Dense, ")


@left_alone
def test_linen_by_names_alone(zoo):
    params, _ = zoo
    plan = gct.plan(params, "out_last")
    got = {name: (row.shape, row.axes) for name, row in plan.items() if row.axes}
    # What names, and the bias beside a kernel, cannot say: the square transposed kernel is taken as declared, out last,
    # and a bias with more than one axis says that the kernel is no plain one.
    unsure = {"general.kernel", "einsum.kernel", "local.kernel"}
    wanted = {name: row for name, row in LINEN.items() if name not in unsure}
    assert got == wanted | {"square.kernel": ((3, 6, 6), (0, 1))}
    for name in unsure:
        assert "bias shape does not match" in plan[name].why
    assert plan["mystery"].why == layouts.UNKNOWN


def applied(module, x):
    """(kernel shape, forward as a function of the kernel) of a Linen layer without bias."""
    params = module.init(KEY, x)["params"]
    return params, lambda kernel: module.apply({"params": {**params, "kernel": kernel}}, x)


X = jax.random.uniform(KEY, (1, 5, 4)) + 0.5
PROVEN = {
    "dense": (nn.Dense(3, use_bias=False), X, (-1,)),
    "conv": (nn.Conv(3, (2,), use_bias=False, padding="VALID"), X, (-1,)),
    "grouped conv": (nn.Conv(4, (2,), use_bias=False, padding="VALID", feature_group_count=2), X, (-1,)),
    "depthwise conv": (nn.Conv(4, (2,), use_bias=False, padding="VALID", feature_group_count=4), X, (-1,)),
    "transposed conv": (nn.ConvTranspose(3, (2,), use_bias=False), X, (-1,)),
    "transposed kernel": (nn.ConvTranspose(3, (2,), use_bias=False, transpose_kernel=True), X, (-1,)),
    "general": (nn.DenseGeneral((2, 3), axis=(-2, -1), use_bias=False), X, (-2, -1)),
    "einsum": (nn.Einsum((5, 4, 3), "bij,ijk->bik", use_bias=False), X, (-2, -1)),
    "local": (nn.ConvLocal(3, (2,), use_bias=False, padding="VALID"), X, (-2, -1)),
}


@pytest.mark.parametrize("name", PROVEN)
def test_linen_axes_are_those_of_the_weight_vectors(name):
    module, x, out = PROVEN[name]
    params, forward = applied(module, x)
    row = gct.plan(module.bind({"params": params}))["kernel"]
    prove(row, lambda kernel: channels_last(forward(kernel), *(axis % (forward(kernel)).ndim for axis in out)))


def test_a_wrong_axis_is_not_proven():
    params, forward = applied(nn.Dense(3, use_bias=False), X)
    row = gct.plan(params, "out_last")["kernel"]
    prove(row, forward)
    for wrong in ((1,), (0, 1)):
        with pytest.raises(AssertionError):
            prove(row._replace(axes=wrong), forward)
    params, forward = applied(nn.ConvTranspose(3, (2, 2), use_bias=False, transpose_kernel=True), X[None])
    with pytest.raises(AssertionError):
        prove(gct.plan(params, "out_last")["kernel"], forward)  # without its module it is taken as declared


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        x = nn.MultiHeadDotProductAttention(2, qkv_features=8)(x)
        return nn.Dense(4)(x), None


def scanned(axis):
    stack = nn.scan(Block, variable_axes={"params": axis}, split_rngs={"params": True}, length=3)
    x = jnp.ones((2, 5, 4))
    return jax.eval_shape(stack().init, KEY, x)["params"], stack().module_paths(KEY, x)


@pytest.mark.parametrize("with_modules", [False, True])
def test_scanned_layers_are_declared(with_modules):
    params, modules = scanned(0)
    modules = modules if with_modules else None
    plan = gct.plan(params, "out_last", stacked={"*": 0}, modules=modules)
    attention = "MultiHeadDotProductAttention_0"
    assert {name: (row.shape, row.axes) for name, row in plan.items() if row.axes} == {
        "Dense_0.kernel": ((3, 4, 4), (1,)),
        f"{attention}.query.kernel": ((3, 4, 2, 4), (1,)),
        f"{attention}.key.kernel": ((3, 4, 2, 4), (1,)),
        f"{attention}.value.kernel": ((3, 4, 2, 4), (1,)),
        f"{attention}.out.kernel": ((3, 2, 4, 4), (1, 2)),
    }
    assert plan["Dense_0.kernel"].why.startswith("stacked")
    # The stack may lie along another axis.
    params, modules = scanned(1)
    plan = gct.plan(params, "out_last", stacked={"*": 1}, modules=modules if with_modules else None)
    assert plan["Dense_0.kernel"][1:4] == ((4, 3, 4), (4, 3, 4), (0,))
    assert plan[f"{attention}.out.kernel"][1:4] == ((2, 3, 4, 4), (2, 3, 4, 4), (0, 2))


@left_alone
def test_undeclared_stacks_are_left_alone_where_it_can_be_seen():
    params, modules = scanned(0)
    plan = gct.plan(params, modules=modules)
    assert all(row.axes is None for row in plan.values())
    assert "pass stacked=" in plan["Dense_0.kernel"].why
    # Names alone: the bias of a stacked Dense has two axes, which does not fit.
    assert gct.plan(params, "out_last")["Dense_0.kernel"].axes is None


def test_boxes_of_partitioned_parameters_are_not_part_of_a_name():
    init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
    params = nn.Dense(3, kernel_init=init).init(KEY, jnp.ones((2, 4)))["params"]
    assert axes(gct.plan(params, "out_last")) == {"bias": None, "kernel": (0,)}


def test_a_bound_module_is_enough_and_an_unbound_one_is_not():
    module = nn.Dense(3)
    assert axes(gct.plan(module.bind(module.init(KEY, X)))) == {"bias": None, "kernel": (0,)}
    with pytest.raises(TypeError, match="module_paths"):
        gct.plan(module)


# ---- Flax NNX


def test_nnx():
    class Net(nnx.Module):
        def __init__(self):
            self.linear = nnx.Linear(3, 4, rngs=RNGS)
            self.conv = nnx.Conv(4, 6, (3, 3), feature_group_count=2, rngs=RNGS)
            self.depthwise = nnx.Conv(4, 4, (1, 1), feature_group_count=4, rngs=RNGS)
            self.up = nnx.ConvTranspose(6, 4, (2, 2), rngs=RNGS)
            self.up_kernel = nnx.ConvTranspose(6, 4, (2, 2), transpose_kernel=True, rngs=RNGS)
            self.attention = nnx.MultiHeadAttention(2, 6, 8, decode=False, rngs=RNGS, normalize_qk=True)
            self.general = nnx.LinearGeneral((2, 3), (4, 5), axis=(1, -1), rngs=RNGS)
            self.einsum = nnx.Einsum("bij,ijk->bik", (2, 5, 7), (2, 7), rngs=RNGS)
            self.cell = nnx.GRUCell(3, 4, rngs=RNGS)
            self.lora = nnx.LoRALinear(5, 6, lora_rank=2, rngs=RNGS)
            if NNX_HAS_WEIGHT_NORM:
                self.normed = nnx.WeightNorm(nnx.Linear(3, 4, rngs=RNGS), rngs=RNGS)
            self.embed = nnx.Embed(7, 3, rngs=RNGS)
            self.norms = nnx_list([nnx.BatchNorm(3, rngs=RNGS), nnx.LayerNorm(3, rngs=RNGS)])
            self.prelu = nnx_prelu()
            self.raw = nnx.Param(jnp.ones((3, 4)))

    plan = gct.plan(Net())
    assert {name: row.axes for name, row in plan.items() if row.axes} == {
        "linear.kernel": (0,),
        "conv.kernel": (0, 1, 2),
        "up.kernel": (0, 1, 2),
        "up_kernel.kernel": (0, 1, 3),
        "attention.query.kernel": (0,),
        "attention.key.kernel": (0,),
        "attention.value.kernel": (0,),
        "attention.out.kernel": (0, 1),
        "general.kernel": (0, 1),
        "einsum.kernel": (1,),
        "cell.dense_i.kernel": (0,),
        "cell.dense_h.kernel": (0,),
        "lora.kernel": (0,),
        "lora.lora.lora_a": (0,),
        **({"normed.layer_instance.kernel": (0,)} if NNX_HAS_WEIGHT_NORM else {}),
    }
    assert plan["lora.lora.lora_b"].why.reason is Reason.FACTOR
    assert plan["raw"].why == layouts.UNKNOWN
    assert plan["depthwise.kernel"].why == layouts.FAN_IN_ONE
    assert plan["norms.0.scale"].why == layouts.NORM
    assert plan["embed.embedding"].why == layouts.EMBEDDING
    assert not any("mean" in name or "count" in name for name in plan)  # statistics are no parameters


def test_nnx_stacks_show_themselves():
    @nnx.vmap(in_axes=0, out_axes=0)
    def stack(key):
        return nnx.Linear(3, 4, rngs=nnx.Rngs(key))

    plan = gct.plan(stack(jax.random.split(KEY, 6)))
    assert plan["kernel"][1:4] == ((6, 3, 4), (6, 3, 4), (1,))
    assert plan["bias"].axes is None


@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_nnx_transposed_convolutions_are_proven(transpose_kernel):
    layer = nnx.ConvTranspose(4, 3, (2,), use_bias=False, transpose_kernel=transpose_kernel, rngs=RNGS)
    graph, _ = nnx.split(layer)
    prove(gct.plan(layer)["kernel"], lambda kernel: nnx.merge(graph, {"kernel": kernel})(X))


# ---- Equinox


def equinox_layer(layer, *arguments, field="weight", out=0):
    def forward(weight):
        changed = eqx.tree_at(lambda layer: getattr(layer, field), layer, weight)
        y = changed(*arguments)
        return channels_last(y, out)

    return layer, forward


EQUINOX = {  # layer, forward, axes by hand
    "Linear": (*equinox_layer(eqx.nn.Linear(4, 3, use_bias=False, key=KEY), X[0, 0]), (1,)),
    "Conv1d": (*equinox_layer(eqx.nn.Conv1d(5, 3, 2, use_bias=False, key=KEY), X[0]), (1, 2)),
    "Conv1d groups": (
        *equinox_layer(eqx.nn.Conv1d(6, 4, 2, groups=2, use_bias=False, key=KEY), jnp.ones((6, 4))),
        (1, 2),
    ),
    "ConvTranspose1d": (*equinox_layer(eqx.nn.ConvTranspose1d(5, 3, 2, use_bias=False, key=KEY), X[0]), (1, 2)),
    "ConvTranspose1d groups": (
        *equinox_layer(eqx.nn.ConvTranspose1d(6, 4, 2, groups=2, use_bias=False, key=KEY), jnp.ones((6, 4))),
        (1, 2),
    ),
}


@pytest.mark.parametrize("name", EQUINOX)
def test_equinox_axes_are_those_of_the_weight_vectors(name):
    layer, forward, wanted = EQUINOX[name]
    row = gct.plan(layer)["weight"]
    assert row.axes == wanted
    prove(row, forward)


def test_equinox():
    class Net(eqx.Module):
        mlp: eqx.nn.MLP
        layers: list
        raw: jax.Array
        pos_embedding: jax.Array

    state_layers = [eqx.nn.BatchNorm(4, "batch", **EMA)]
    state_layers.append(eqx.nn.SpectralNorm(eqx.nn.Linear(3, 4, key=KEY), "weight", key=KEY))
    net = Net(
        eqx.nn.MLP(3, "scalar", 8, 1, key=KEY),
        [
            eqx.nn.Conv2d(4, 4, 1, groups=4, key=KEY),
            eqx.nn.MultiheadAttention(2, 6, key=KEY),
            eqx.nn.GRUCell(3, 4, key=KEY),
            eqx.nn.LSTMCell(3, 4, key=KEY),
            eqx.nn.Embedding(7, 3, key=KEY),
            eqx.nn.LayerNorm((2, 3)),
            eqx.nn.WeightNorm(eqx.nn.Linear(3, 4, key=KEY)),
            eqx.nn.PReLU(),
            *state_layers,
        ],
        jnp.ones((3, 4)),
        jnp.ones((1, 5, 3)),
    )
    plan = gct.plan(net)
    assert {name: row.axes for name, row in plan.items() if row.axes} == {
        "mlp.layers.0.weight": (1,),
        "mlp.layers.1.weight": (1,),
        "layers.1.query_proj.weight": (1,),
        "layers.1.key_proj.weight": (1,),
        "layers.1.value_proj.weight": (1,),
        "layers.1.output_proj.weight": (1,),
        "layers.2.weight_ih": (1,),
        "layers.2.weight_hh": (1,),
        "layers.3.weight_ih": (1,),
        "layers.3.weight_hh": (1,),
        "layers.6.layer.weight": (1,),
        "layers.9.layer.weight": (1,),
    }
    why = {name: row.why for name, row in plan.items()}
    assert why["layers.0.weight"] == layouts.FAN_IN_ONE
    assert why["layers.0.bias"] == layouts.BIAS  # (4, 1, 1)
    assert why["layers.4.weight"] == layouts.EMBEDDING
    assert why["layers.5.weight"] == layouts.NORM  # (2, 3)
    assert why["layers.6.g"] == layouts.MAGNITUDE
    assert why["raw"] == layouts.UNKNOWN
    assert why["pos_embedding"] == layouts.POSITION
    assert gct.plan(eqx.filter(net, eqx.is_inexact_array)) == plan
    # The same, as a part of a plain tree.
    assert gct.plan({"net": net}, "out_first")["net.mlp.layers.0.weight"].axes == (1,)


@left_alone
def test_equinox_stacks_show_themselves():
    stack = eqx.filter_vmap(lambda key: eqx.nn.Conv1d(2, 4, 3, key=key))(jax.random.split(KEY, 6))
    plan = gct.plan(stack)
    assert plan["weight"][1:4] == ((6, 4, 2, 3), (6, 4, 2, 3), (2, 3))
    assert plan["bias"].axes is None
    swapped = eqx.tree_at(lambda layer: layer.weight, stack, jnp.ones((4, 6, 2, 3)))
    assert "pass stacked=" in gct.plan(swapped)["weight"].why
    assert gct.plan(swapped, stacked={"weight": 1})["weight"].axes == (2, 3)


@left_alone
@pytest.mark.parametrize(
    ("where", "get"),
    [
        (lambda pair: pair[1].weight, lambda pair: pair[0].weight),
        (lambda pair: pair[0].weight, lambda pair: pair[1].weight),
    ],
    ids=["head from table", "table from head"],
)
def test_a_table_tied_to_a_head_is_left_alone(where, get):
    pair = (eqx.nn.Embedding(5, 3, key=KEY), eqx.nn.Linear(3, 5, key=KEY))
    plan = gct.plan(eqx.nn.Shared(pair, where, get))
    assert [row.axes for row in plan.values()] == [None, None]
    assert Reason.SHARED_TABLE in {row.why.reason for row in plan.values()}
    # Transposed on the way
    other = (pair[0], eqx.nn.Linear(5, 3, key=KEY))
    plan = gct.plan(eqx.nn.Shared(other, lambda pair: pair[0].weight, lambda pair: pair[1].weight.T))
    assert plan["pytree.1.weight"].why.reason is Reason.SHARED_TABLE
    # Two layers that share a weight are still layers.
    two = (eqx.nn.Linear(3, 3, key=KEY), eqx.nn.Linear(3, 3, key=KEY))
    plan = gct.plan(eqx.nn.Shared(two, lambda pair: pair[1].weight, lambda pair: pair[0].weight))
    assert plan["pytree.0.weight"].axes == (1,)


# ---- Plain trees


def shaped(tree):
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), tree, is_leaf=lambda node: isinstance(node, tuple)
    )


def test_haiku_names():
    tree = shaped(
        {
            "net/~/linear_0": {"w": (3, 4), "b": (4,)},
            "net/~/conv2_d": {"w": (3, 3, 2, 6), "b": (6,)},
            "net/~/conv2_d_transpose": {"w": (3, 3, 6, 2), "b": (6,)},
            "net/~/layer_norm": {"scale": (4,), "offset": (4,)},
            "net/~/embed": {"embeddings": (9, 4)},
        }
    )
    assert {name: row.axes for name, row in gct.plan(tree, "out_last").items() if row.axes} == {
        "net.~.linear_0.w": (0,),
        "net.~.conv2_d.w": (0, 1, 2),
        "net.~.conv2_d_transpose.w": (0, 1, 3),
    }


@left_alone
def test_names_of_your_own():
    tree = shaped(
        {
            "w1": (3, 4),
            "b1": (4,),
            "kernel_2": (4, 1),
            "tok_emb": {"weight": (9, 4)},
            "pos_embedding": (1, 7, 4),
            "rel_pos_bias": (7, 2),
            "layer_scale": (4, 1, 1),
            "class_token": (1, 1, 4),
            "theta": (3, 4),
            "one": {"kernel": (1, 4)},
        }
    )
    plan = gct.plan(tree, "out_last")
    assert {name: row.axes for name, row in plan.items() if row.axes} == {"w1": (0,), "kernel_2": (0,)}
    assert {name: row.why for name, row in plan.items() if not row.axes} == {
        "b1": layouts.BIAS,
        "tok_emb.weight": layouts.EMBEDDING,
        "pos_embedding": layouts.POSITION,
        "rel_pos_bias": layouts.RELATIVE_POSITION,
        "layer_scale": layouts.LAYER_SCALE,
        "class_token": layouts.TOKEN,
        "theta": layouts.UNKNOWN,
        "one.kernel": layouts.FAN_IN_ONE,
    }
    first = gct.plan(
        shaped({"weight": (4, 3, 5), "bias": (4, 1), "other": {"weight": (4, 3), "bias": (3,)}}), "out_first"
    )
    assert first["weight"].axes == (1, 2)
    assert "bias shape does not match" in first["other.weight"].why


@left_alone
def test_experts_are_declared():
    tree = shaped({"experts": {"kernel": (8, 4, 5), "bias": (8, 5)}, "deep": {"kernel": (2, 3, 4, 5)}})
    plan = gct.plan(tree, "out_last", stacked={"experts.*": 0, "deep.*": (0, 1)})
    assert axes(plan) == {"deep.kernel": (2,), "experts.bias": None, "experts.kernel": (1,)}


def test_overrides_come_last():
    tree = shaped({"w": (3, 4), "theta": (3, 4)})
    plan = gct.plan(tree, "out_last", {"*": None, "theta": 0})
    assert axes(plan) == {"theta": (0,), "w": None}
    assert plan["theta"].why == "override 'theta'"


def test_a_single_array_and_what_is_no_parameter():
    assert axes(gct.plan(jnp.ones((3, 2)), "out_last", {"*": 0})) == {"": (0,)}
    assert axes(gct.plan({"w": jnp.ones((3, 2)), "step": jnp.int32(0), "f": abs}, "out_last")) == {"w": (0,)}


BAD = [
    (dict(), ValueError, "layout must be"),
    (dict(layout="HWIO"), ValueError, "layout must be one of"),
    (dict(layout=1), TypeError, "layout must be one of"),
    (dict(layout="out_last", overrides={"x*": 0}), ValueError, "matches no parameter"),
    (dict(layout="out_last", overrides={"w": 2}), ValueError, "out of range"),
    (dict(layout="out_last", stacked={"x*": 0}), ValueError, "stacked: the pattern 'x[*]' matches no parameter"),
    (dict(layout="out_last", stacked=["w"]), TypeError, "stacked must map"),
    (dict(layout="out_last", stacked={"w": None}), TypeError, "stacked.'w'. must be an int"),
    (dict(layout="out_last", stacked={"w": -3}), ValueError, "stacked axes of 'w'.*out of range"),
    (dict(layout="out_last", stacked={"w": 5}), ValueError, "stacked axes of 'w'.*out of range"),
    (dict(layout="out_last", stacked={"w": (0, 0)}), ValueError, "each axis once"),
    (dict(layout="out_last", stack=1), TypeError, "stack"),
]


@pytest.mark.parametrize(("options", "error", "text"), BAD, ids=[str(options) for options, *_ in BAD])
def test_a_bad_call_says_what_is_wrong(options, error, text):
    with pytest.raises(error, match=text):
        gct.plan({"w": jnp.ones((3, 2))}, **options)


def test_nothing_to_plan_and_the_wrong_layout_for_a_module():
    with pytest.raises(TypeError, match="no floating-point arrays"):
        gct.plan({}, "out_last")
    layer = eqx.nn.Linear(3, 4, key=KEY)
    assert gct.plan(layer, "out_first") == gct.plan(layer)
    with pytest.raises(ValueError, match="layout must be 'out_first'"):
        gct.plan(layer, "out_last")
    with pytest.raises(ValueError, match="layout must be 'out_last'"):
        gct.plan(nnx.Linear(3, 4, rngs=RNGS), "out_first")
    with pytest.raises(ValueError, match="stacked: one layer has 2 axes"):
        gct.plan(layer, stacked={"weight": 0})

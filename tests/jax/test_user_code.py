"""What people's own programs do: classes with a library's names, unfiltered models, parts of trees, flat trees."""

import warnings

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import gc_jax as gct
from gc_core.reasons import Reason
from gc_jax.layers_equinox import EQUINOX
from gc_jax.layers_flax import LINEN, NNX
from gc_jax.layers_keras import KERAS

KEY = jax.random.key(0)
quiet = pytest.mark.filterwarnings("ignore::gc_core.reasons.GCWarning")


def shaped(tree):
    return jax.tree.map(lambda shape: jnp.ones(shape), tree, is_leaf=lambda node: isinstance(node, tuple))


def axes(plan):
    return {name: row.axes for name, row in plan.items() if row.axes}


# ---- Classes of one's own with the names of a library's


class KerasLayer:
    """As much of keras.layers.Layer as a plan reads."""

    def __init__(self, **shapes):
        variable = type("Variable", (), {})
        self.trainable_variables = []
        for leaf, shape in shapes.items():
            self.trainable_variables.append(one := variable())
            one.path, one.shape = f"mine/{leaf}", shape

    def _flatten_layers(self):
        yield self


KerasLayer.__name__, KerasLayer.__module__ = "Layer", "keras.src.layers.layer"


def own_class(library, name):
    """A module of one's own whose class is called like one of the library's, with a weight and a bias."""
    if library == "linen":

        class Own(nn.Module):
            @nn.compact
            def __call__(self, x):
                weight = self.param("kernel", nn.initializers.ones, (x.shape[-1], 3))
                return x @ weight + self.param("bias", nn.initializers.zeros, (3,))

        Own.__name__ = Own.__qualname__ = name
        module = Own()
        return module.bind(module.init(KEY, jnp.ones((2, 4)))), "kernel"
    if library == "nnx":
        Own = type(name, (nnx.Module,), {"__module__": __name__})
        module = Own()
        module.kernel, module.bias = nnx.Param(jnp.ones((4, 3))), nnx.Param(jnp.ones(3))
        return module, "kernel"
    if library == "keras":
        return type(name, (KerasLayer,), {"__module__": __name__})(kernel=(4, 3), bias=(3,)), "mine.kernel"
    fields = {"__annotations__": {"weight": jax.Array, "bias": jax.Array}, "__module__": __name__}
    return type(name, (eqx.Module,), fields)(jnp.ones((3, 4)), jnp.ones(3)), "weight"


NAMES = [
    (lib, name)
    for lib, table in (("linen", LINEN), ("nnx", NNX), ("equinox", EQUINOX), ("keras", KERAS))
    for name in table
]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(NAMES))
def test_a_class_of_one_s_own_is_not_taken_for_a_library_s(case):
    module, weight = own_class(*case)
    with pytest.warns(gct.GCWarning, match="applies to nothing that trains: no fan-in is known of"):
        plan = gct.plan(module)
    # Nobody knows it: neither a wrong reason nor an error about attributes that nobody wrote.
    assert plan[weight].why.reason is Reason.UNKNOWN
    # The program does.
    if case[0] != "keras":
        batch = jnp.ones(4) if case[0] == "equinox" else jnp.ones((2, 4))
        run = None if case[0] != "nnx" else lambda m, x: x @ m.kernel[...] + m.bias[...]
        run = (lambda m, x: m.weight @ x + m.bias) if case[0] == "equinox" else run
        assert gct.plan(module, apply=run, batch=batch)[weight].fan_in == 4


def test_a_class_derived_from_a_library_s_is_one_and_what_it_adds_is_not():
    class Wide(eqx.nn.Linear):
        gain: jax.Array

        def __init__(self, *sizes, key):
            super().__init__(*sizes, key=key)
            self.gain = jnp.ones((3, 4))

    with pytest.warns(gct.GCWarning, match="gain"):
        plan = gct.plan(Wide(4, 3, key=KEY))
    assert axes(plan) == {"weight": (1,)}
    assert plan["gain"].why.reason is Reason.UNKNOWN


def test_a_derived_class_that_sets_other_attributes_is_not_known():
    class Mine(nnx.Linear):
        def __init__(self):
            self.kernel, self.bias = nnx.Param(jnp.ones((4, 3))), nnx.Param(jnp.ones(3))

    with pytest.warns(gct.GCWarning, match="applies to nothing that trains"):
        assert gct.plan(Mine())["kernel"].why.reason is Reason.UNKNOWN


# ---- Equinox models that are not filtered


class Everything(eqx.Module):
    """Arrays, functions, numbers, integers and None, as models of Equinox hold them."""

    mlp: eqx.nn.MLP
    dropout: eqx.nn.Dropout
    table: jax.Array
    nothing: None = None
    size: int = 3

    def __call__(self, x):
        return self.mlp(x)


def everything():
    return Everything(eqx.nn.MLP(3, 4, 8, 1, key=KEY), eqx.nn.Dropout(0.5), jnp.arange(3))


@pytest.mark.parametrize("gc_on", ["gradient", "update", None])
@pytest.mark.parametrize("make", [gct.sgd, gct.adam, gct.adamw], ids=lambda f: f.__name__)
def test_an_unfiltered_model_is_as_good_as_a_filtered_one(make, gc_on):
    model = everything()
    filtered = eqx.filter(model, eqx.is_inexact_array)
    grads = eqx.filter_grad(lambda model: (jax.vmap(model)(jnp.arange(6.0).reshape(2, 3) - 2) ** 2).sum())(model)
    options = {"momentum": 0.9, "weight_decay": 0.1} if make is gct.sgd else {}
    tx = make(0.1, plan=gct.plan(model), gc_on=gc_on, **options)
    wanted, state = tx.update(grads, tx.init(filtered), filtered)
    for init, params in ((model, model), (filtered, model), (model, filtered)):
        got, kept = tx.update(grads, tx.init(init), params)
        assert jax.tree.structure((got, kept)) == jax.tree.structure((wanted, state))
        assert all((a == b).all() for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True))
    moved = eqx.apply_updates(model, got)
    assert (moved.mlp.layers[0].weight != model.mlp.layers[0].weight).any()


def test_centralize_gradients_in_front_of_an_unfiltered_model():
    model = everything()
    grads = eqx.filter_grad(lambda model: (jax.vmap(model)(jnp.ones((2, 3))) ** 2).sum())(model)
    for plan in (gct.plan(model), "out_first"):
        tx = optax.chain(gct.centralize_gradients(plan), optax.sgd(0.1))
        updates, _ = tx.update(grads, tx.init(model), model)
        assert np.abs(updates.mlp.layers[0].weight.sum(1)).max() <= 8 * 2.0**-22


# ---- Parts of a tree


STACKED = {"block": {"kernel": (4, 3, 3), "bias": (4, 3)}, "head": {"kernel": (3, 2), "bias": (2,)}}


@pytest.mark.parametrize("make", [gct.centralize_gradients, lambda plan: gct.sgd(0.1, plan=plan)], ids=["link", "sgd"])
def test_a_layout_cannot_judge_a_part_of_a_tree(make):
    params = shaped(STACKED)
    weights = jax.tree.map(lambda leaf: leaf.ndim > 1 and leaf.shape != (4, 3), params)
    label = jax.tree.map(lambda one: "a" if one else "b", weights)
    parts = {
        "masked": optax.masked(make("out_last"), weights),
        "multi_transform": optax.multi_transform({"a": make("out_last"), "b": optax.sgd(0.1)}, label),
    }
    for tx in parts.values():
        with pytest.raises(ValueError, match=r"cannot judge a part of a tree.*Give a plan of the whole"):
            tx.init(params)
    with pytest.warns(gct.GCWarning, match=r"block.kernel \(4×3×3"):
        plan = gct.plan(params, "out_last")
    assert axes(plan) == {"head.kernel": (0,)}
    optax.masked(make(plan), weights).init(params)


@quiet
@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=4, max_size=4), st.sampled_from(["out_last", "out_first"]))
def test_a_plan_of_the_whole_is_the_same_for_every_part(kept, layout):
    params = shaped(STACKED)
    plan = gct.plan(params, layout, stacked={"block.*": 0})
    mask = jax.tree.unflatten(jax.tree.structure(params), kept)
    grads = jax.tree.map(lambda leaf: jnp.arange(leaf.size, dtype=jnp.float32).reshape(leaf.shape) ** 2, params)
    whole, _ = gct.centralize_gradients(plan).update(grads, optax.EmptyState())
    tx = optax.masked(gct.centralize_gradients(plan), mask)
    part, _ = tx.update(grads, tx.init(params))
    for used, a, b, g in zip(kept, *(jax.tree.leaves(tree) for tree in (part, whole, grads)), strict=True):
        assert (a == (b if used else g)).all()


# ---- Flat trees, and trees and shapes that have changed


PARAMS = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
GRADS = {"kernel": jnp.array([[3.0, 1.0], [0.0, 2.0], [0.0, 5.0]]), "bias": jnp.ones(2)}


@pytest.mark.parametrize("plan", ["out_last", gct.plan(PARAMS, "out_last")], ids=["layout", "plan"])
def test_flatten_is_refused_and_told_what_to_do(plan):
    for inner in (gct.sgd(1.0, plan=plan), gct.adam(1.0, plan=plan), gct.centralize_gradients(plan)):
        with pytest.raises(ValueError, match=r"optax.flatten hides them. Put GC in front of it"):
            optax.flatten(inner).init(PARAMS)
    # What it says works.
    tx = optax.chain(gct.centralize_gradients(plan), optax.flatten(optax.sgd(1.0)))
    wanted, _ = gct.sgd(1.0, plan=plan).update(GRADS, gct.sgd(1.0, plan=plan).init(PARAMS), PARAMS)
    got, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True))
    # Without GC it stands anywhere.
    off = optax.flatten(gct.sgd(1.0, plan=plan, gc_on=None))
    assert (off.update(GRADS, off.init(PARAMS), PARAMS)[0]["kernel"] == -GRADS["kernel"]).all()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_changed_trees_and_shapes_are_right_or_refused(data):
    """Replaced, resized, added and removed parameters, with the old state and the old plan."""
    shapes = {"a": {"kernel": (3, 2)}, "b": {"kernel": (1, 2), "bias": (2,)}}
    params = shaped(shapes)
    make = data.draw(st.sampled_from([gct.sgd, gct.adam]))
    options = {"momentum": 0.9} if make is gct.sgd else {}
    layout = data.draw(st.booleans())
    tx = make(0.5, plan="out_last" if layout else gct.plan(params, "out_last"), **options)
    state = tx.init(params)
    change = data.draw(st.sampled_from(["values", "resize", "grow", "add", "remove"]))
    if change == "resize":
        shapes = {**shapes, "a": {"kernel": data.draw(st.sampled_from([(1, 2), (3, 1), (4, 2), (3, 2, 1)]))}}
    if change == "grow":
        shapes = {**shapes, "b": {"kernel": (5, 2), "bias": (2,)}}  # that the old state would broadcast to
    if change == "add":
        shapes = {**shapes, "c": {"kernel": (3, 2)}}
    if change == "remove":
        shapes = {"b": shapes["b"]}
    new = jax.tree.map(lambda leaf: leaf * 2, shaped(shapes))
    if change == "values":
        updates, _ = tx.update(new, state, new)
        assert np.abs(updates["a"]["kernel"].sum(0)).max() <= 2.0**-20
        return
    with pytest.raises((ValueError, TypeError)) as caught:
        tx.update(new, state, new)
    if change in ("resize", "grow"):
        assert "kernel" in str(caught.value)
    # Asked again, for the new tree, it goes on.
    tx = make(0.5, plan=gct.plan(new, "out_last", {"*": None}), **options)
    tx.update(new, tx.init(new), new)


# ---- Names that say less than they seem to


@quiet
def test_names_that_say_less():
    tree = {
        "patches": {"embedding": {"kernel": (4, 4, 3, 8), "bias": (8,)}, "patch_emb": {"kernel": (4, 4, 3, 8)}},
        "tokens_emb": {"weight": (9, 8)},
        "scanned": {"mlp": {"wi": {"kernel": (8, 3, 16)}, "wo": {"kernel": (16, 3, 8)}}},
        "conv_1d": {"kernel": (3, 4, 8)},
        "attn_stack": {"query": {"kernel": (3, 8, 2, 4)}, "out": {"kernel": (3, 2, 4, 8)}},
        "t5_stack": {"query": {"kernel": (8, 3, 6)}, "out": {"kernel": (6, 3, 8)}},
        "attn": {"query": {"kernel": (8, 2, 4)}, "out": {"kernel": (2, 4, 8)}},
        "net/__layer_stack_no_per_layer/linear": {"w": (3, 4, 4)},
        "conv2_d_transpose": {"w": (3, 3, 6, 6), "b": (6,)},
        "ConvTranspose_0": {"kernel": (3, 6, 6), "bias": (6,)},
        "ConvTranspose_1": {"kernel": (3, 4, 6), "bias": (6,)},
        "gru": {"w_i": (4, 15), "w_h": (5, 15), "b": (15,)},
        "adapter": {"lora_a": (8, 2), "lora_b": (2, 8)},
    }
    plan = gct.plan(shaped(tree), "out_last")
    assert axes(plan) == {
        "patches.embedding.kernel": (0, 1, 2),
        "patches.patch_emb.kernel": (0, 1, 2),
        "conv_1d.kernel": (0, 1),
        "attn.query.kernel": (0,),
        "attn.out.kernel": (0, 1),
        "net.__layer_stack_no_per_layer.linear.w": (1,),
        "conv2_d_transpose.w": (0, 1, 3),
        "ConvTranspose_1.kernel": (0, 1),
        "gru.w_i": (0,),
        "gru.w_h": (0,),
        "adapter.lora_a": (0,),
    }
    asked = {name for name, row in plan.items() if row.why.reason in (Reason.NAME_UNCLEAR, Reason.BIAS_UNFIT)}
    assert asked == {
        "scanned.mlp.wi.kernel",
        "scanned.mlp.wo.kernel",
        "attn_stack.query.kernel",
        "attn_stack.out.kernel",
        "t5_stack.query.kernel",
        "t5_stack.out.kernel",
        "ConvTranspose_0.kernel",
    }
    assert plan["adapter.lora_b"].why.reason is Reason.FACTOR


@quiet
@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 5),
    st.integers(2, 5),
    st.integers(2, 5),
    st.sampled_from([0, 1]),
    st.sampled_from(["query", "wi", "key"]),
)
def test_a_stack_of_matrices_is_never_averaged_over_its_layers(layers, size_in, size_out, axis, name):
    one, two = [size_in, size_out], [size_out, size_in]
    for shape in (one, two):
        shape.insert(axis, layers)
    tree = shaped({"layers": {name: {"kernel": tuple(one)}, "out": {"kernel": tuple(two)}}})
    if layers in (size_in, size_out):
        return  # then it could be Flax's attention, by every name and every size
    plan = gct.plan(tree, "out_last")
    for row in plan.values():
        assert row.axes is None or axis not in row.axes


# ---- Plans that are of no use


def test_unusable_plans_are_said_once():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x) @ self.param("theta", nn.initializers.ones, (3, 3))

    variables = Net().init(KEY, jnp.ones((2, 4)))
    modules = Net().module_paths(KEY, jnp.ones((2, 4)))
    with pytest.raises(ValueError, match=r"modules: no parameter belongs to any.*give variables\['params'\]"):
        gct.plan(variables, modules=modules)
    with pytest.warns(gct.GCWarning, match=r"leaves out 38% of what trains: no fan-in is known of theta \(3×3\)"):
        plan = gct.plan(variables["params"], modules=modules)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gct.sgd(0.1, plan=plan).init(variables["params"])  # said already
        gct.plan(variables["params"], modules=modules, overrides={"theta": None})  # meant
        gct.plan(variables["params"], "out_last", {"*": None})
    tx = gct.sgd(0.1, plan="out_last")
    with pytest.warns(gct.GCWarning, match="theta.*instead of 'out_last'") as caught:
        state = tx.init(variables["params"])
    assert [one.filename for one in caught] == [__file__]
    tx.update(variables["params"], state)  # and not again in each step


def test_nothing_to_centralize_is_said():
    with pytest.warns(gct.GCWarning, match="applies to nothing that trains: it has no weight"):
        gct.plan({"scale": jnp.ones(3), "bias": jnp.ones(3)}, "out_last")


# ---- Smaller things


def test_models_in_a_dict_know_their_layers():
    models = {"actor": eqx.nn.MLP(3, 4, 8, 1, key=KEY), "critic": eqx.nn.Linear(3, 2, key=KEY)}
    assert axes(gct.plan(models)) == {
        "actor.layers.0.weight": (1,),
        "actor.layers.1.weight": (1,),
        "critic.weight": (1,),
    }
    mixed = {"net": models["critic"], "head": {"kernel": jnp.ones((3, 4))}}
    with pytest.raises(ValueError, match="layout must be"):
        gct.plan(mixed)


def test_a_filter_of_nnx_says_what_trains():
    class Scale(nnx.Variable):
        pass

    class Net(nnx.Module):
        def __init__(self):
            self.linear, self.scale = nnx.Linear(3, 4, rngs=nnx.Rngs(0)), Scale(jnp.ones(4))

        def __call__(self, x):
            return self.linear(x) * self.scale[...]

    model, wrt = Net(), nnx.Any(nnx.Param, Scale)
    for plan in (gct.plan(model, wrt=wrt), gct.plan(model, batch=jnp.ones((2, 3)), wrt=wrt)):
        optimizer = nnx.Optimizer(model, gct.sgd(0.1, plan=plan), wrt=wrt)
        grads = nnx.grad(lambda m: (m(jnp.ones((2, 3))) ** 2).sum(), argnums=nnx.DiffState(0, wrt))(model)
        optimizer.update(model, grads)
        assert axes(plan) == {"linear.kernel": (0,)}
    with pytest.raises(TypeError, match="wrt is a filter of an NNX module"):
        gct.plan(PARAMS, "out_last", wrt=nnx.Param)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3))
def test_stacked_axes_may_be_counted_from_the_end(back):
    tree = shaped({"blocks": {"kernel": (4, 5, 6)}})
    got = gct.plan(tree, "out_last", stacked={"*.kernel": -back})
    assert got["blocks.kernel"].axes == gct.plan(tree, "out_last", stacked={"*.kernel": 3 - back})["blocks.kernel"].axes


def test_numbers_that_optax_takes():
    for options in ({"learning_rate": -0.1}, {"learning_rate": 0.1, "momentum": 0.0, "nesterov": True}):
        ours, theirs = gct.sgd(**options, plan="out_last", gc_on=None), optax.sgd(**options)
        got, _ = ours.update(GRADS, ours.init(PARAMS), PARAMS)
        wanted, _ = theirs.update(GRADS, theirs.init(PARAMS), PARAMS)
        assert all((a == b).all() for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True))
    for make in (gct.adam, gct.adamw):
        make(-0.1, plan="out_last")

"""The Optax transformations: Optax's own without GC, the update functions with it, and good company in any chain."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gc_jax as gct
from gc_core.plan import Plan, Row
from gc_jax import compat
from tests.jax.releases import enable_x64, nnx_list, tree_get, update

U = 2.0**-24


left_alone = pytest.mark.filterwarnings("ignore::gc_core.reasons.GCWarning")  # `tok`: known to nobody, and meant


def tree(seed, dtype="float32"):
    rng = np.random.default_rng(seed)
    shapes = {"conv": {"kernel": (3, 2, 4)}, "head": {"kernel": (4, 3), "bias": (3,)}, "tok": (5, 4)}
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), dtype), shapes, is_leaf=lambda node: isinstance(node, tuple)
    )


PLAN = gct.plan(tree(0), "out_last", {"tok": None})
NOTHING = gct.plan(tree(0), "out_last", {"*": None})
AXES = {"conv": {"kernel": (0, 1)}, "head": {"kernel": (0,), "bias": None}, "tok": None}


def run(optimizer, steps=12, dtype="float32", params=None):
    """The parameters and the state after some steps on gradients that do not depend on them, in one compiled loop."""
    params = tree(0, dtype) if params is None else params
    grads = jax.tree.map(lambda *g: jnp.stack(g), *(tree(k + 1, dtype) for k in range(steps)))

    def body(carry, grad):
        updates, state = optimizer.update(grad, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    return jax.lax.scan(body, (params, optimizer.init(params)), grads)[0]


def distance(a, b):
    return max(
        float(np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64)).max())
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_the_plan_of_these_tests():
    # Written out, so that nothing below rests on `plan` being right.
    assert {name: row.axes for name, row in PLAN.items()} == {
        "conv.kernel": (0, 1),
        "head.bias": None,
        "head.kernel": (0,),
        "tok": None,
    }


# ---- Without GC: Optax's own


SCHEDULE = optax.linear_schedule(0.1, 0.01, 10)
DECAY = optax.linear_schedule(0.3, 0.0, 10) if compat.decay_can_be_scheduled() else 0.3
OPTAX = [
    ("sgd", dict(learning_rate=0.1)),
    ("sgd", dict(learning_rate=SCHEDULE, momentum=0.9)),
    ("sgd", dict(learning_rate=0.1, momentum=0.9, nesterov=True)),
    ("sgd", dict(learning_rate=0.1, momentum=0.9, accumulator_dtype="float32")),
    ("adam", dict(learning_rate=0.1)),
    ("adam", dict(learning_rate=SCHEDULE, b1=0.5, b2=0.75, eps=1e-3, eps_root=1e-4)),
    ("adam", dict(learning_rate=0.1, nesterov=True)),
    ("adam", dict(learning_rate=0.1, mu_dtype="float32")),
    ("adam", dict(learning_rate=0.1, b1=0.0, b2=0.0, eps=0.1)),
    ("adamw", dict(learning_rate=0.1, weight_decay=0.3, mask={"conv": True, "head": False, "tok": True})),
    ("adamw", dict(learning_rate=SCHEDULE, weight_decay=DECAY, nesterov=True)),
    ("adamw", dict(learning_rate=0.1, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params))),
]


@pytest.mark.parametrize(("name", "options"), OPTAX, ids=[f"{n}-{list(o)}" for n, o in OPTAX])
def test_without_gc_it_is_optax_s_own_to_rounding_in_float64(name, options):
    with enable_x64(True):
        wanted = run(getattr(optax, name)(**options), dtype="float64")
        got = run(getattr(gct, name)(**options, plan=NOTHING), dtype="float64")
        kept = [
            optimizer.init(tree(0, "float64"))
            for optimizer in (getattr(optax, name)(**options), getattr(gct, name)(**options, plan=PLAN, gc_on="update"))
        ]
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    assert jax.tree.structure(kept[0]) == jax.tree.structure(kept[1])
    assert [leaf.dtype for leaf in jax.tree.leaves(got)] == [leaf.dtype for leaf in jax.tree.leaves(wanted)]
    # Optax's 1 - beta^t is off by 1e-13 of itself at the first step; where the moments are kept in float32, both
    # round the same numbers to it.
    narrow = {"mu_dtype", "accumulator_dtype"} & set(options)
    assert distance(got, wanted) <= (12 * U * 4 if narrow else 1e-11)


@pytest.mark.parametrize(("name", "options"), [OPTAX[2], OPTAX[9]], ids=["sgd", "adamw"])
def test_gc_on_none_is_no_gc(name, options):
    with enable_x64(True):
        wanted = run(getattr(gct, name)(**options, plan=NOTHING), dtype="float64")
        off = run(getattr(gct, name)(**options, plan=PLAN, gc_on=None), dtype="float64")
        on = run(getattr(gct, name)(**options, plan=PLAN), dtype="float64")
    assert distance(off, wanted) == 0
    assert distance(on[0], wanted[0]) > 1e-3  # and these comparisons can see GC


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_without_gc_it_is_optax_s_own_to_rounding_in_float32(name):
    options = {"momentum": 0.9} if name == "sgd" else {}
    wanted, got = (run(f(0.1, **options)) for f in (getattr(optax, name), partial(getattr(gct, name), plan=NOTHING)))
    # Optax's bias correction is off by U / (1 - b2) = 6e-5 of itself at the first step, and less and less later; a step
    # has size lr. What is kept differs by nothing but rounding.
    assert distance(got[0], wanted[0]) <= (12 * 0.1 * U / (1 - 0.999) if name != "sgd" else 12 * 16 * U)
    assert distance(got[1], wanted[1]) <= 12 * 16 * U


def test_arguments_stand_in_optax_s_order_with_optax_s_defaults():
    import inspect

    for name in ("sgd", "adam", "adamw"):
        theirs, ours = (inspect.signature(getattr(module, name)).parameters for module in (optax, gct))
        plain = {key: p for key, p in ours.items() if key in theirs}
        assert [(key, p.kind, p.default) for key, p in plain.items()] == [
            (key, p.kind, p.default) for key, p in theirs.items()
        ]
        added = {key: p for key, p in ours.items() if key not in theirs}
        assert all(p.kind is p.KEYWORD_ONLY for p in added.values())
        assert added["plan"].default is inspect.Parameter.empty


# ---- With GC: the update functions


def by_functions(init, update, steps=12, dtype="float32"):
    leaves, treedef = jax.tree.flatten(tree(0, dtype))
    axes = treedef.flatten_up_to(AXES)
    states = [init(leaf) for leaf in leaves]
    step = jax.jit(
        lambda leaves, grads, states: [
            update(w, g, s, axis=a) for w, g, s, a in zip(leaves, grads, states, axes, strict=True)
        ]
    )
    for k in range(steps):
        pairs = step(leaves, treedef.flatten_up_to(tree(k + 1, dtype)), states)
        leaves, states = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return treedef.unflatten(leaves)


def l2(rate, optimizer):
    return optax.chain(optax.add_decayed_weights(rate), optimizer)


RULES = [
    (gct.sgdm_update, dict(momentum=0.9), lambda **o: gct.sgd(0.1, 0.9, **o)),
    (gct.sgdm_update, dict(momentum=0.9, nesterov=True), lambda **o: gct.sgd(0.1, 0.9, True, **o)),
    (gct.sgdm_update, dict(momentum=0.9, weight_decay=0.2), lambda **o: gct.sgd(0.1, 0.9, weight_decay=0.2, **o)),
    (gct.sgdm_update, dict(momentum=0.9, weight_decay=0.2), lambda **o: l2(0.2, gct.sgd(0.1, 0.9, **o))),
    (
        gct.sgdm_update,
        dict(momentum=0.9, weight_decay=0.2, decoupled=True),
        lambda **o: gct.sgd(0.1, 0.9, weight_decay=0.2, decoupled=True, **o),
    ),
    (gct.sgdm_update, dict(momentum=0.0), lambda **o: gct.sgd(0.1, **o)),
    (gct.adam_update, dict(), lambda **o: gct.adam(0.1, **o)),
    (gct.adam_update, dict(weight_decay=0.2), lambda **o: l2(0.2, gct.adam(0.1, **o))),
    (gct.adam_update, dict(weight_decay=0.2, decoupled=True), lambda **o: gct.adamw(0.1, weight_decay=0.2, **o)),
]


@pytest.mark.parametrize(("update", "options", "make"), RULES, ids=range(len(RULES)))
def test_with_gc_it_is_the_update_function(update, options, make):
    init = gct.sgdm_init if update is gct.sgdm_update else gct.adam_init
    got = {}
    with enable_x64(True):
        for gc_on in ("gradient", "update"):
            wanted = by_functions(init, partial(update, lr=0.1, gc_on=gc_on, **options), dtype="float64")
            got[gc_on], _ = run(make(plan=PLAN, gc_on=gc_on), dtype="float64")
            assert distance(got[gc_on], wanted) <= 1e-12
    # Under SGDM without decoupled decay, and there only, both places of GC give the same trajectory.
    same = update is gct.sgdm_update and "decoupled" not in options
    assert (distance(got["gradient"], got["update"]) <= 1e-12) == same


def means(params):
    return {
        "conv": np.asarray(params["conv"]["kernel"], np.float64).mean((0, 1)),
        "head": np.asarray(params["head"]["kernel"], np.float64).mean(0),
    }


def drift(optimizer, factor=1.0):
    start, end = means(tree(0)), means(run(optimizer)[0])
    return max(np.abs(end[name] - factor * start[name]).max() for name in start)


def test_what_conserves_the_means_of_the_weight_vectors():
    still = 12 * 16 * U
    assert drift(gct.sgd(0.1, 0.9, plan=PLAN)) <= still
    assert drift(gct.sgd(0.1, 0.9, plan=PLAN, weight_decay=0.5)) <= still
    assert drift(l2(0.5, gct.sgd(0.1, 0.9, plan=PLAN))) <= still
    for optimizer in (
        gct.sgd(0.1, 0.9, True, plan=PLAN, gc_on="update", weight_decay=0.5, decoupled=True),
        gct.adam(0.1, plan=PLAN, gc_on="update"),
        gct.adamw(0.1, weight_decay=0.5, plan=PLAN, gc_on="update"),
        l2(0.5, gct.adam(0.1, plan=PLAN, gc_on="update")),
    ):
        assert drift(optimizer) <= still
    # Decoupled decay outside of GC shrinks the mean by 1 - lr decay a step, and by nothing else.
    decoupled = gct.sgd(0.1, 0.9, plan=PLAN, weight_decay=0.5, decoupled=True)
    assert drift(decoupled, factor=(1 - 0.1 * 0.5) ** 12) <= still


def test_what_does_not_conserve_them():
    for optimizer in (
        gct.sgd(0.1, 0.9, plan=NOTHING),
        gct.sgd(0.1, 0.9, plan=PLAN, gc_on=None),
        gct.sgd(0.1, 0.9, plan=PLAN, weight_decay=0.5, decoupled=True),
        gct.adam(0.1, plan=PLAN),
        gct.adamw(0.1, plan=PLAN),
        # L2 after GC, the wrong order
        optax.chain(gct.centralize_gradients(PLAN), optax.add_decayed_weights(0.5), optax.sgd(0.1)),
        optax.chain(optax.centralize(), optax.sgd(0.1, 0.9)),
    ):
        assert drift(optimizer) > 1e-3


def test_centralize_gradients_in_front_of_optax_is_the_optimizer_with_gc():
    for theirs, ours in (
        (optax.sgd(0.1, 0.9), gct.sgd(0.1, 0.9, plan=PLAN)),
        (optax.adamw(0.1, eps=1e-3), gct.adamw(0.1, eps=1e-3, plan=PLAN)),
    ):
        with enable_x64(True):
            wanted, _ = run(optax.chain(gct.centralize_gradients(PLAN), theirs), dtype="float64")
            got, _ = run(ours, dtype="float64")
        assert distance(got, wanted) <= 1e-11


# ---- In company


def test_masked_and_multi_transform_see_a_part_of_the_tree():
    only_head = {"conv": False, "head": True, "tok": False}
    got, _ = optax.masked(gct.centralize_gradients(PLAN), only_head).update(
        tree(1), optax.masked(gct.centralize_gradients(PLAN), only_head).init(tree(0))
    )
    assert np.abs(got["head"]["kernel"].sum(0)).max() <= 16 * U
    assert distance(got["conv"], tree(1)["conv"]) == 0

    labels = {"conv": "sgd", "head": "adam", "tok": "none"}
    parts = {"sgd": gct.sgd(0.1, plan=PLAN), "adam": gct.adam(0.1, plan=PLAN), "none": optax.set_to_zero()}
    got, _ = run(optax.multi_transform(parts, labels))
    assert distance(got["conv"], run(gct.sgd(0.1, plan=PLAN))[0]["conv"]) == 0
    assert distance(got["head"], run(gct.adam(0.1, plan=PLAN))[0]["head"]) == 0
    assert distance(got["tok"], tree(0)["tok"]) == 0


@pytest.mark.parametrize("x64", [False, True])
def test_inject_hyperparams(x64):
    with enable_x64(x64):
        for factory, options, state_of in (
            (gct.adamw, dict(b2=0.99, weight_decay=0.1), "nu"),
            (gct.sgd, dict(momentum=0.9), "trace"),
            (gct.sgd, dict(momentum=0.9, weight_decay=0.1), "trace"),
        ):
            optimizer = optax.inject_hyperparams(factory)(learning_rate=SCHEDULE, plan=PLAN, **options)
            got, state = run(optimizer)
            wanted, _ = run(factory(SCHEDULE, plan=PLAN, **options))
            assert distance(got, wanted) <= 12 * 64 * U
            assert {"learning_rate", *options} <= set(state.hyperparams)
            moments = jax.tree.leaves(tree_get(state, state_of))
            assert {leaf.dtype for leaf in moments} == {jnp.dtype("float32")}
    # No decay asked for: sgd needs no params, as in Optax, also when its numbers are injected.
    optimizer = optax.inject_hyperparams(gct.sgd, hyperparam_dtype=jnp.float32)(0.1, plan=PLAN)
    optimizer.update(tree(1), optimizer.init(tree(0)))


def test_multi_steps_and_apply_if_finite():
    # GC is linear: on the mean of gradients it is the mean of GC.
    steps = optax.MultiSteps(gct.sgd(0.1, 0.9, plan=PLAN), every_k_schedule=4)
    got, _ = run(steps)
    params, state = tree(0), gct.sgd(0.1, 0.9, plan=PLAN).init(tree(0))
    for k in range(0, 12, 4):
        mean = jax.tree.map(lambda *g: sum(g) / 4, *(tree(k + j + 1) for j in range(4)))
        updates, state = gct.sgd(0.1, 0.9, plan=PLAN).update(mean, state, params)
        params = optax.apply_updates(params, updates)
    assert distance(got, params) <= 12 * 64 * U

    safe = optax.apply_if_finite(gct.adamw(0.1, plan=PLAN), max_consecutive_errors=3)
    assert distance(run(safe)[0], run(gct.adamw(0.1, plan=PLAN))[0]) <= 12 * 64 * U
    bad = jax.tree.map(lambda g: g.at[0].set(jnp.nan), tree(1))
    updates, _ = safe.update(bad, safe.init(tree(0)), tree(0))
    assert distance(updates, jax.tree.map(jnp.zeros_like, bad)) == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype):
    u = 2.0**-8 if dtype == "bfloat16" else 2.0**-11
    wide = partial(jax.tree.map, lambda leaf: leaf.astype("float32") if leaf.dtype == dtype else leaf)
    optimizer, params, grads = gct.adamw(0.1, plan=PLAN, weight_decay=0.2), tree(0, dtype), tree(1, dtype)
    state = optimizer.init(params)
    for _ in range(3):
        updates, new_state = optimizer.update(grads, state, params)
        wanted, wanted_state = optimizer.update(wide(grads), wide(state), wide(params))
        for got, exact in ((updates, wanted), (new_state, wanted_state)):
            for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
                assert x.dtype == (dtype if y.dtype == "float32" else y.dtype)
                x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
                assert (np.abs(x - y) <= u * np.abs(y) + 2.0**-25).all()
        state = new_state
    # Optax in half precision rounds 1 - b2 g² many times over; ours must be another number.
    theirs, _ = optax.adamw(0.1, weight_decay=0.2).update(grads, optax.adamw(0.1).init(params), params)
    assert distance(theirs, updates) > 0


def test_half_gradients_of_float32_weights_give_float32_updates():
    optimizer = gct.sgd(0.1, 0.9, plan=PLAN)
    updates, state = optimizer.update(tree(1, "bfloat16"), optimizer.init(tree(0)), tree(0))
    assert {leaf.dtype for leaf in jax.tree.leaves((updates, state))} == {jnp.dtype("float32")}


def test_numpy_numbers_do_not_widen():
    with enable_x64(True):
        for optimizer in (
            gct.sgd(np.float64(0.1), np.float64(0.9), plan=PLAN),
            gct.adamw(np.float64(0.1), np.float64(0.9), np.float64(0.9), np.float64(0.1), plan=PLAN),
            gct.adamw(lambda count: jnp.asarray(0.1, jnp.float64) / (count + 1), plan=PLAN),
        ):
            updates, state = optimizer.update(tree(1), optimizer.init(tree(0)), tree(0))
            assert {leaf.dtype for leaf in jax.tree.leaves((updates, state))} <= {
                jnp.dtype("float32"),
                jnp.dtype("int32"),
            }


def test_a_step_is_compiled_once_and_reuses_what_is_donated():
    traces = []
    optimizer = gct.adamw(SCHEDULE, plan=PLAN)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
        traces.append(1)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = tree(0), optimizer.init(tree(0))
    for k in range(4):
        old = jax.tree.leaves((params, state))
        params, state = step(params, state, tree(k + 1))
        assert all(leaf.is_deleted() for leaf in old)
    assert len(traces) == 1


def test_vmap_over_an_ensemble():
    optimizer = gct.adamw(0.1, plan=PLAN)
    many = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *(tree(k + j) for j in range(3))) for k in (0, 5)]

    def step(params, grads):
        return optimizer.update(grads, optimizer.init(params), params)[0]

    got = jax.vmap(step)(*many)
    for j in range(3):
        assert distance(jax.tree.map(lambda leaf, j=j: leaf[j], got), step(tree(j), tree(5 + j))) <= 16 * U


# ---- The plan, and the tree that it is for


@left_alone
def test_a_layout_alone_goes_by_names():
    got, _ = gct.centralize_gradients("out_last").update(tree(1), optax.EmptyState())
    assert np.abs(got["conv"]["kernel"].sum((0, 1))).max() <= 32 * U
    assert distance(got["tok"], tree(1)["tok"]) == 0
    first, _ = gct.centralize_gradients("out_first").update({"weight": tree(1)["tok"]}, optax.EmptyState())
    assert np.abs(first["weight"].sum(1)).max() <= 32 * U


def test_a_view_centralizes_groups():
    grads = {"w": jnp.arange(12.0).reshape(4, 3) ** 2}
    plan = gct.plan(grads, "out_last", {"w": gct.View((2, 2, 3), (1,), "two groups")})
    got, _ = gct.centralize_gradients(plan).update(grads, optax.EmptyState())
    wanted = np.asarray(grads["w"]).reshape(2, 2, 3)
    wanted = (wanted - wanted.mean(1, keepdims=True)).reshape(4, 3)
    assert np.allclose(got["w"], wanted, rtol=0, atol=128 * 8 * U)


def test_a_list_in_the_plan_s_order_is_matched_by_place():
    rows = [Row("dense.kernel", (3, 2), (3, 2), (0,), "Dense"), Row("dense.bias", (2,), (2,), None, "bias")]
    grads = [jnp.arange(6.0).reshape(3, 2), jnp.ones(2)]
    got, _ = gct.centralize_gradients(Plan(rows)).update(grads, optax.EmptyState())
    assert (got[0].sum(0) == 0).all()
    assert (got[1] == 1).all()
    with pytest.raises(ValueError, match="shape"):
        gct.centralize_gradients(Plan(rows[::-1])).update(grads, optax.EmptyState())


def test_numpy_gradients_and_integers():
    grads = {"kernel": np.ones((3, 2), np.float32), "count": np.int32(3)}
    got, _ = gct.centralize_gradients("out_last").update(grads, optax.EmptyState())
    assert (np.asarray(got["kernel"]) == 0).all()
    assert got["count"] == 3


def test_flax_and_equinox_models_fit_the_plans_that_are_made_for_them():
    import equinox as eqx
    import flax.linen as nn
    from flax import nnx

    x = jnp.ones((2, 3))

    class Net(nnx.Module):
        def __init__(self):
            self.layers = nnx_list([nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.BatchNorm(4, rngs=nnx.Rngs(0))])

        def __call__(self, x):
            return self.layers[1](self.layers[0](x)) * jnp.arange(4.0)

    model = Net()
    before = model.layers[0].kernel[...].sum(0)
    optimizer = nnx.Optimizer(model, gct.sgd(0.1, 0.9, plan=gct.plan(model)), wrt=nnx.Param)
    for _ in range(2):
        update(optimizer, model, nnx.grad(lambda model: (model(x * jnp.arange(2.0)[:, None]) ** 3).sum())(model))
    assert np.allclose(model.layers[0].kernel[...].sum(0), before, atol=64 * U)

    model = eqx.nn.MLP(3, 4, 8, 1, key=jax.random.key(0))
    optimizer, arrays = gct.adamw(0.1, plan=gct.plan(model), gc_on="update"), eqx.filter(model, eqx.is_inexact_array)
    grads = eqx.filter_grad(lambda model: (jax.vmap(model)(x) ** 2).sum())(model)
    for plan in (gct.plan(model), "out_first"):
        optimizer = gct.adamw(0.1, plan=plan, gc_on="update")
        updates, _ = optimizer.update(grads, optimizer.init(arrays), arrays)
        for k in (0, 1):
            assert np.abs(updates.layers[k].weight.sum(1)).max() <= 64 * U
    assert np.abs(updates.layers[1].weight).max() > 0

    model = nn.Dense(4)
    params = model.init(jax.random.key(0), x)["params"]
    grads = jax.grad(lambda params: (model.apply({"params": params}, x) ** 2).sum())(params)
    updates, _ = gct.sgd(0.1, plan=gct.plan(params, "out_last")).update(
        grads, gct.sgd(0.1, plan="out_last").init(params)
    )
    assert np.abs(updates["kernel"].sum(0)).max() <= 64 * U


# ---- Errors


@pytest.mark.parametrize("make", [gct.centralize_gradients, *(partial(f, 0.1) for f in (gct.sgd, gct.adam, gct.adamw))])
def test_a_wrong_plan_is_refused(make):
    positional = make is gct.centralize_gradients

    def build(plan):
        return make(plan) if positional else make(plan=plan)

    with pytest.raises(TypeError, match="plan must be a plan"):
        build(None)
    with pytest.raises(TypeError, match="plan must be a plan"):
        build({"kernel": (0,)})
    with pytest.raises(ValueError, match="layout must be one of"):
        build("HWIO")
    with pytest.raises(TypeError, match="plan"):
        make()
    with pytest.raises(ValueError, match="no row for 'other'"):
        build(PLAN).init({"other": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"'tok' of shape \(5, 4\); got shape \(4, 5\)"):
        build(PLAN).init({"tok": jnp.ones((4, 5))})
    state = build(PLAN).init(tree(0))
    with pytest.raises(ValueError, match="no row for 'params"):
        build(PLAN).update({"params": tree(1)}, state)


@left_alone
def test_a_layout_that_finds_no_weight_says_so():
    stacked = {"kernel": jnp.ones((4, 3, 2)), "bias": jnp.ones((4, 2))}
    for params in (jnp.ones((3, 2)), [(jnp.ones((3, 2)), jnp.ones(2))], stacked):
        with pytest.raises(ValueError, match="a layout is not enough"):
            gct.sgd(0.1, plan="out_last").init(params)
        plan = gct.plan(params, "out_last", {"*": None})
        gct.sgd(0.1, plan=plan).init(params)
    with pytest.warns(gct.GCWarning, match="applies to nothing that trains"):
        gct.sgd(0.1, plan="out_last").init({"bias": jnp.ones(3)})
    gct.sgd(0.1, plan="out_last").init({})


@pytest.mark.parametrize("make", [gct.sgd, gct.adam, gct.adamw])
def test_wrong_switches_are_refused(make):
    with pytest.raises(ValueError, match=r"gc_on must be one of .*or None for no GC"):
        make(0.1, plan=PLAN, gc_on="both")
    with pytest.raises(TypeError, match=r"gc_on must be one of .*or None for no GC"):
        make(0.1, plan=PLAN, gc_on=True)
    with pytest.raises(TypeError, match="nesterov must be True or False"):
        make(0.1, plan=PLAN, nesterov=1)
    with pytest.raises(TypeError, match="momentun"):
        make(0.1, plan=PLAN, momentun=0.9)
    if make is gct.sgd:
        with pytest.raises(TypeError, match="decoupled must be True or False"):
            make(0.1, plan=PLAN, decoupled="yes")


@pytest.mark.parametrize(
    ("make", "options", "error", "text"),
    [
        *((f, dict(learning_rate=np.nan), ValueError, "learning_rate must be") for f in (gct.sgd, gct.adam, gct.adamw)),
        (gct.sgd, dict(learning_rate="fast"), TypeError, "learning_rate must be"),
        (gct.sgd, dict(learning_rate=0.1, momentum=-0.9), ValueError, "momentum must be"),
        (gct.sgd, dict(learning_rate=0.1, nesterov=True), ValueError, "nesterov needs a momentum"),
        (gct.sgd, dict(learning_rate=0.1, weight_decay=-0.1), ValueError, "weight_decay must be"),
        (gct.adam, dict(learning_rate=0.1, b1=1.0), ValueError, r"b1 must be a number in \[0, 1\)"),
        (gct.adam, dict(learning_rate=0.1, b2=-0.5), ValueError, "b2 must be"),
        (gct.adam, dict(learning_rate=0.1, eps=float("nan")), ValueError, "eps must be"),
        (gct.adam, dict(learning_rate=0.1, eps_root=-1.0), ValueError, "eps_root must be"),
        (gct.adamw, dict(learning_rate=0.1, weight_decay=float("inf")), ValueError, "weight_decay must be"),
    ],
)
def test_wrong_numbers_are_refused(make, options, error, text):
    with pytest.raises(error, match=text):
        make(**options, plan=PLAN)


def test_a_schedule_that_optax_does_not_take_is_refused(monkeypatch):
    monkeypatch.setattr(compat, "decay_can_be_scheduled", lambda: False)
    gct.adamw(0.1, weight_decay=0.1, plan=PLAN)
    with pytest.raises(TypeError, match=r"weight_decay must be a number with Optax .*>=0\.2\.5"):
        gct.adamw(0.1, weight_decay=SCHEDULE, plan=PLAN)

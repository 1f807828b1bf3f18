"""Plans read from programs: held to what each element of a parameter does, for programs that Hypothesis makes."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gc_jax as gct
from gc_core.reasons import Reason
from gc_jax import program_rules

KEY = jax.random.key(0)


def reasons(plan):
    return {name: row.why.reason for name, row in plan.items()}


def plan_of(apply, params, *batch):
    return gct.plan(params, apply=apply, batch=batch)


def row_of(apply, shape, *batch):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gct.GCWarning)
        return plan_of(
            lambda p, *batch: apply(p["w"], *batch), {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}, *batch
        )["w"]


# ---- Any program of moves, and one sum: the weight vectors by moving the places instead of the numbers


def vectors(places, axes):
    """The sets of elements that are summed together, where `places` holds the element at each position."""
    kept = [axis for axis in range(places.ndim) if axis not in axes]
    rows = places.transpose(*kept, *axes).reshape(-1, math.prod(places.shape[axis] for axis in axes))
    return {frozenset(row) for row in rows.tolist()}


def factorizations(size, most=3):
    """Shapes with this many elements."""
    found = [(size,)]
    for first in range(1, size + 1):
        if size % first == 0 and most > 1:
            found += [(first, *rest) for rest in factorizations(size // first, most - 1)]
    return found


def calls(function):
    """Ways to run a function which change nothing."""
    return {
        "jit": jax.jit(function),
        "remat": jax.checkpoint(function),
        "custom_vjp": with_custom_vjp(function),
        "cond": lambda w: jax.lax.cond(jnp.sum(w) > 0, function, function, w),
        "vmap": lambda w: jax.vmap(function, in_axes=None, axis_size=2)(w)[1],
        "while": lambda w: jax.lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, c[1]), (0, w))[1],
    }


def with_custom_vjp(function):
    wrapped = jax.custom_vjp(function)
    wrapped.defvjp(lambda w: (function(w), None), lambda _, g: (g,))
    return wrapped


@st.composite
def moves(draw):
    """A shape, and moves that NumPy can make on places and JAX on numbers."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=2, max_size=4)))
    steps, now = [], shape
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["transpose", "reshape", "flip", "same", "call", "index"]))
        if kind == "transpose":
            order = tuple(draw(st.permutations(range(len(now)))))
            steps.append(partial(lambda a, order: a.transpose(order), order=order))
            now = tuple(now[axis] for axis in order)
        elif kind == "reshape":
            to = draw(st.sampled_from(factorizations(math.prod(now))))
            steps.append(partial(lambda a, to: a.reshape(to), to=to))
            now = to
        elif kind == "flip":
            axis = draw(st.integers(0, len(now) - 1))
            steps.append(partial(lambda a, axis: a[(slice(None),) * axis + (slice(None, None, -1),)], axis=axis))
        elif kind == "index" and len(now) > 1:
            axis = draw(st.integers(0, len(now) - 1))
            at = draw(st.integers(0, now[axis] - 1))
            steps.append(partial(lambda a, axis, at: a[(slice(None),) * axis + (at,)], axis=axis, at=at))
            now = (*now[:axis], *now[axis + 1 :])
        elif kind == "call":
            name = draw(st.sampled_from(sorted(calls(abs))))
            steps.append(partial(through, name=name))
    over = draw(st.sets(st.integers(0, len(now) - 1), min_size=1, max_size=len(now)))
    return shape, steps, tuple(sorted(over))


def through(array, name):
    return array if isinstance(array, np.ndarray) else calls(lambda w: w * 2)[name](array)


def check(shape, steps, over):
    def moved(array):
        for step in steps:
            array = step(array)
        return array

    places = moved(np.arange(math.prod(shape)).reshape(shape))
    data = jax.ShapeDtypeStruct(tuple(places.shape[axis] for axis in over), jnp.float32)
    row = row_of(lambda w, x: jnp.tensordot(x, moved(w), (tuple(range(len(over))), over)), shape, data)
    if row.axes is None:
        # Its weight vectors are single elements, or no reshape of it shows them; never for want of following it.
        one = all(len(vector) == 1 for vector in vectors(places, over))
        assert one == (row.why.reason is Reason.FAN_IN_ONE)
        assert row.why.reason in (Reason.FAN_IN_ONE, Reason.UNCLEAR)
        return row
    seen = vectors(np.arange(math.prod(shape)).reshape(row.view), row.axes)
    # What is indexed is one of several layers: there may be more vectors than this program uses.
    assert vectors(places, over) <= seen
    return row


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(moves())
def test_the_axes_are_those_of_the_weight_vectors_whatever_moves_them(case):
    check(*case)


SPLIT = ((4, 6), [lambda a: a.reshape(4, 2, 3), lambda a: a.transpose(2, 0, 1)], (1,))
MERGED = ((2, 3, 4), [lambda a: a.transpose(1, 0, 2), lambda a: a.reshape(3, 8)], (0,))
PART = ((6, 4), [lambda a: a.reshape(2, 3, 4)], (1,))


def test_splits_and_merges_by_hand():
    assert check(*SPLIT)[1:4] == ((4, 6), (4, 6), (0,))
    assert check(*MERGED)[1:4] == ((2, 3, 4), (2, 3, 4), (1,))
    assert check(*PART)[1:4] == ((6, 4), (2, 3, 4), (1,))  # groups: a view


WRONG = {  # a rule that follows numbers to the wrong place, and the program that shows it
    "transposed the other way": (
        "transpose",
        lambda eqn, dims: [dims[eqn.params["permutation"].index(axis)] for axis in range(len(dims))],
        SPLIT,
    ),
    "reshaped in the wrong order": (
        "reshape",
        lambda eqn, dims: [program_rules.reshaped(dims, (3, 2, 4))[axis] for axis in (1, 0, 2)],
        PART,
    ),
    "not moved": ("transpose", lambda eqn, dims: dims, SPLIT),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_found(name, monkeypatch):
    primitive, dims, case = WRONG[name]
    monkeypatch.setitem(program_rules.RULES, primitive, program_rules.by_dims(dims))
    with pytest.raises(AssertionError):
        check(*case)


# ---- Products of other kinds


X = jax.ShapeDtypeStruct((2, 5, 4), jnp.float32)


def test_sums_that_are_no_dot():
    assert row_of(lambda w, x: (x[..., None] * w).sum(-2), (4, 3), X).axes == (0,)
    assert row_of(lambda w, x: jax.lax.ragged_dot(x[0], w, jnp.array([2, 3])), (2, 4, 3), X)[3] == (1,)
    assert row_of(lambda w, x: jnp.einsum("bti,io->bto", x, w.T), (3, 4), X).axes == (1,)


def test_scans_over_stacked_layers_along_any_axis():
    def run(w, x, axis):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, jnp.moveaxis(w, axis, 0))[0]

    assert row_of(partial(run, axis=0), (3, 4, 4), X)[3] == (1,)
    row = row_of(partial(run, axis=1), (4, 3, 4), X)
    assert row.axes == (0,) and row.why.reason is Reason.STACKED
    # A loop that takes its layer by its number, and experts that each input chooses.
    assert row_of(lambda w, x: jax.lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ w[i]), x), (3, 4, 4), X)[3] == (1,)
    chosen = jax.ShapeDtypeStruct((2,), jnp.int32)
    assert row_of(lambda w, x, e: jnp.einsum("bti,bio->bto", x, w[e]), (6, 4, 3), X, chosen)[3] == (1,)


def test_experts_whose_outputs_are_mixed():
    def mixed(w, x):
        outputs = jnp.einsum("beti,eio->beto", jnp.stack([x] * 3, 1), w)
        return jnp.einsum("bse,beto->bso", x[..., :3], outputs)

    assert row_of(mixed, (3, 4, 6), X)[3] == (1,)


def test_what_each_device_has_of_a_weight():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("model",))
    spec = jax.sharding.PartitionSpec

    @partial(jax.shard_map, mesh=mesh, in_specs=(spec("model"), spec(None, None, "model")), out_specs=spec())
    def run(w, x):
        return jax.lax.psum(x @ w, "model")

    assert row_of(run, (4, 3), X).axes == (0,)


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_with_groups(groups):
    layer = nn.Conv(6, (3,), feature_group_count=groups, use_bias=False)
    row = row_of(lambda w, x: layer.apply({"params": {"kernel": w}}, x), (3, 4 // groups, 6), X)
    assert row.axes == (0, 1)


# ---- What is no weight, and what is not one alone

NET = {  # (apply, shapes, reason of each): all of it is left alone unless it is READ
    "bias": (lambda p, x: x + p["b"], {"b": (4,)}, {"b": Reason.ADDED}),
    "scale": (lambda p, x: x * p["g"], {"g": (4,)}, {"g": Reason.SCALE}),
    "scale, and then a sum": (lambda p, x: (x * p["g"]).sum(), {"g": (5, 4)}, {"g": Reason.SCALE}),
    "scale of a norm": (
        lambda p, x: x / x.std(-1, keepdims=True) * (1 + p["g"]),
        {"g": (4,)},
        {"g": Reason.SCALE},
    ),
    "slope": (lambda p, x: jnp.where(x > 0, x, x * p["a"]), {"a": (5, 4)}, {"a": Reason.SCALE}),
    "token": (
        lambda p, x: jnp.concatenate([jnp.broadcast_to(p["c"], (2, 1, 4)), x], 1),
        {"c": (1, 1, 4)},
        {"c": Reason.INPUT},
    ),
    "mask token": (lambda p, x: jnp.where(x > 0, x, p["c"]), {"c": (5, 4)}, {"c": Reason.INPUT}),
    "state": (
        lambda p, x: jax.lax.scan(lambda h, x: (jnp.tanh(h + x), None), p["h"], x)[0],
        {"h": (5, 4)},
        {"h": Reason.INPUT},
    ),
    "table": (lambda p, x: p["t"][jnp.int32(x)], {"t": (9, 3)}, {"t": Reason.EMBEDDING}),
    "table, one-hot": (lambda p, x: jax.nn.one_hot(jnp.int32(x), 9) @ p["t"], {"t": (9, 3)}, {"t": Reason.EMBEDDING}),
    "table in front of a layer": (
        lambda p, x: p["t"][jnp.int32(x)] @ p["w"],
        {"t": (9, 3), "w": (3, 7)},
        {"t": Reason.EMBEDDING, "w": Reason.READ},
    ),
    "tied table": (lambda p, x: p["t"][jnp.int32(x)] @ p["t"].T, {"t": (9, 3)}, {"t": Reason.TIED_TABLE}),
    "both ways": (lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"].T, {"w": (4, 3)}, {"w": Reason.DIFFERENT}),
    "twice the same way": (lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"], {"w": (4, 4)}, {"w": Reason.READ}),
    "weight and bias": (lambda p, x: x @ p["w"] + p["w"][0], {"w": (4, 4)}, {"w": Reason.DIFFERENT}),
    "not linear": (lambda p, x: x @ jnp.exp(p["w"]), {"w": (4, 3)}, {"w": Reason.NOT_LINEAR}),
    "experts, all of whose products come first": (
        lambda p, x: jnp.einsum("bi,eio,be->bo", x[:, 0], p["w"], x[:, 1, :3]),
        {"w": (3, 4, 6)},
        {"w": Reason.UNCLEAR},
    ),
    "experts, mixed first": (
        lambda p, x: jnp.einsum("bti,eio,be->bto", x, p["w"], x[:, 1, :3]),
        {"w": (3, 4, 6)},
        {"w": Reason.UNCLEAR},
    ),
    "products of data with data": (
        lambda p, x: (x[:, :, None] * x[..., :3, None]).reshape(2, 5, -1) @ p["w"].reshape(12, 6),
        {"w": (3, 4, 6)},
        {"w": Reason.UNCLEAR},
    ),
    "orthogonal": (
        lambda p, x: x @ jax.scipy.linalg.expm(p["w"] - p["w"].T),
        {"w": (4, 4)},
        {"w": Reason.UNCLEAR},
    ),
    "slices along the inputs": (
        lambda p, x: x[..., :2] @ p["w"][:2] + x[..., 2:] @ p["w"][2:],
        {"w": (4, 3)},
        {"w": Reason.UNCLEAR},
    ),
    "slices along the outputs": (
        lambda p, x: sum(jnp.tanh(x @ part) for part in jnp.split(p["w"], 3, 1)),
        {"w": (4, 6)},
        {"w": Reason.READ},
    ),
    "low-rank, in a row": (
        lambda p, x: x @ p["w"] + 0.5 * (x @ p["a"]) @ p["b"],
        {"w": (4, 6), "a": (4, 2), "b": (2, 6)},
        {"w": Reason.READ, "a": Reason.READ, "b": Reason.FACTOR},
    ),
    "low-rank, merged": (
        lambda p, x: x @ (p["w"] + 0.5 * p["a"] @ p["b"]),
        {"w": (4, 6), "a": (4, 2), "b": (2, 6)},
        {"w": Reason.READ, "a": Reason.READ, "b": Reason.FACTOR},
    ),
    "low-rank, stored out first": (
        lambda p, x: x @ (p["w"] + p["b"] @ p["a"]).T,
        {"w": (6, 4), "a": (2, 4), "b": (6, 2)},
        {"w": Reason.READ, "a": Reason.READ, "b": Reason.FACTOR},
    ),
    "low-rank, beside a frozen weight": (
        lambda p, x: x @ (jnp.arange(24.0).reshape(4, 6) + p["a"] @ p["b"]),
        {"a": (4, 2), "b": (2, 6)},
        {"a": Reason.READ, "b": Reason.FACTOR},
    ),
    "two layers in a row, not low-rank": (
        lambda p, x: (x @ p["a"]) @ p["b"],
        {"a": (4, 5), "b": (5, 6)},
        {"a": Reason.READ, "b": Reason.READ},
    ),
    "bottleneck with a bias between": (
        lambda p, x: (x @ p["a"] + p["c"]) @ p["b"],
        {"a": (4, 2), "c": (2,), "b": (2, 6)},
        {"a": Reason.READ, "c": Reason.ADDED, "b": Reason.READ},
    ),
    "a product that nobody can tell apart": (
        lambda p, x: x @ (p["q"] @ p["k"]).T,
        {"q": (7, 3), "k": (3, 4)},
        {"q": Reason.PARAMETERS, "k": Reason.PARAMETERS},
    ),
    "number by number": (
        lambda p, x: x @ (p["w"] * p["m"]),
        {"w": (4, 3), "m": (4, 3)},
        dict.fromkeys("wm", Reason.PARAMETERS),
    ),
    "weight normalization": (
        lambda p, x: x @ (p["v"] / jnp.linalg.norm(p["v"], axis=0) * p["g"]),
        {"v": (4, 3), "g": (3,)},
        {"v": Reason.READ, "g": Reason.MAGNITUDE},
    ),
    "DoRA": (
        lambda p, x: x @ ((p["w"] + p["a"] @ p["b"]) / jnp.linalg.norm(p["w"] + p["a"] @ p["b"], axis=0) * p["m"]),
        {"w": (4, 6), "a": (4, 2), "b": (2, 6), "m": (6,)},
        {"w": Reason.READ, "a": Reason.READ, "b": Reason.FACTOR, "m": Reason.MAGNITUDE},
    ),
    "weight standardization": (
        lambda p, x: x @ ((p["w"] - p["w"].mean(0)) / p["w"].std(0)),
        {"w": (4, 3)},
        {"w": Reason.READ},
    ),
    "noise made a weight": (
        lambda p, x: x @ (p["m"] + jnp.exp(p["s"]) * jax.random.normal(KEY, (4, 3))),
        {"m": (4, 3), "s": (4, 3)},
        {"m": Reason.READ, "s": Reason.NOT_LINEAR},
    ),
    "a penalty beside": (
        lambda p, x: (x @ p["w"]).sum() + (p["w"] ** 2).sum(),
        {"w": (4, 3)},
        {"w": Reason.READ},
    ),
    "only looked at": (
        lambda p, x: x @ jax.lax.stop_gradient(p["w"]),
        {"w": (4, 3)},
        {"w": Reason.NOT_REACHED},
    ),
    "thrown away": (lambda p, x: (x @ p["w"], x)[1], {"w": (4, 3)}, {"w": Reason.NOT_REACHED}),
    "a vector": (lambda p, x: x @ p["w"], {"w": (4,)}, {"w": Reason.ONE_AXIS}),
    "positions, transformed": (
        lambda p, x: x + jnp.ones((5, 7)) @ p["w"],
        {"w": (7, 4)},
        {"w": Reason.READ},
    ),
    "an operation nobody has written down": (
        lambda p, x: x + jnp.linalg.qr(p["w"])[0],
        {"w": (5, 4)},
        {"w": Reason.UNCLEAR},
    ),
}


@pytest.mark.filterwarnings("ignore::gc_core.reasons.GCWarning")
@pytest.mark.parametrize("name", NET)
def test_what_a_parameter_is_by_what_is_done_with_it(name):
    apply, shapes, wanted = NET[name]
    params = {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in shapes.items()}
    plan = plan_of(apply, params, X)
    assert reasons(plan) == wanted
    assert {key for key, row in plan.items() if row.axes} == {k for k, r in wanted.items() if r is Reason.READ}


# ---- Batches, and functions that do not fit


PARAMS = {"w": jnp.ones((4, 3))}


def test_nothing_is_computed_and_shapes_are_enough():
    big = {"w": jax.ShapeDtypeStruct((10**6, 10**6), jnp.bfloat16)}
    assert plan_of(lambda p, x: x @ p["w"], big, jax.ShapeDtypeStruct((1, 10**6), jnp.bfloat16))["w"].axes == (0,)


def test_the_model_s_own_error_with_where_it_came_from():
    with pytest.raises(TypeError, match="dot_general") as caught:
        plan_of(lambda p, x: x @ p["w"], PARAMS, jnp.ones((2, 5)))
    assert "came from planning" in caught.value.__notes__[-1]


def test_control_flow_that_depends_on_data_is_jax_s_own_error():
    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        plan_of(lambda p, x: x @ p["w"] if x.sum() > 0 else x[:, :3] * 2, PARAMS, jnp.ones((2, 4)))
    assert "as jax.jit would" in caught.value.__notes__[-1]


def test_what_is_not_reached_is_not_guessed():
    params = {"used": jnp.ones((4, 3)), "kernel": jnp.ones((4, 3))}
    with pytest.warns(gct.GCWarning, match=r"kernel \(4×3\). A batch that reaches them"):
        plan = plan_of(lambda p, x: x @ p["used"], params, jnp.ones((2, 4)))
    assert plan["kernel"].axes is None and plan["kernel"].why.reason is Reason.NOT_REACHED


def test_arguments_that_do_not_go_together():
    for name, value in {"layout": "out_last", "stacked": {"w": 0}, "modules": {}}.items():
        with pytest.raises(ValueError, match=f"{name} is read from the program"):
            gct.plan(PARAMS, apply=lambda p, x: x @ p["w"], batch=jnp.ones((2, 4)), **{name: value})
    with pytest.raises(TypeError, match="apply must be given for a dict"):
        gct.plan(PARAMS, batch=jnp.ones((2, 4)))
    with pytest.raises(TypeError, match="apply must be a function"):
        gct.plan(PARAMS, apply="forward", batch=jnp.ones((2, 4)))
    with pytest.raises(TypeError, match="no floating-point arrays"):
        gct.plan({}, apply=lambda p: 0)


def test_data_within_the_function_and_overrides():
    x = jnp.ones((2, 4))
    assert gct.plan(PARAMS, apply=lambda p: x @ p["w"])["w"].axes == (0,)
    plan = gct.plan(PARAMS, apply=lambda p: x @ p["w"], overrides={"w": None})
    assert plan["w"].axes is None


def test_a_model_is_as_it_was():
    from flax import nnx

    model = nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.BatchNorm(3, rngs=nnx.Rngs(0)))
    before = jax.tree.leaves(nnx.state(model))
    plan = gct.plan(model, batch=jnp.ones((2, 4)))
    after = jax.tree.leaves(nnx.state(model))
    assert all(a is b for a, b in zip(before, after, strict=True))
    assert plan["layers.0.kernel"].axes == (0,)
    bound = nn.Dense(3).bind(nn.Dense(3).init(KEY, jnp.ones((2, 4))))
    assert gct.plan(bound, batch=jnp.ones((2, 4)))["kernel"].axes == (0,)

"""What test_sharding.py looks at, on eight CPU devices in a process of its own: prints one JSON object."""

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gc_jax as gct

if hasattr(jax, "shard_map"):  # since JAX 0.6
    shard_map = jax.shard_map
else:
    from jax.experimental.shard_map import shard_map as _shard_map

    def shard_map(function, *, check_vma=True, **options):
        return _shard_map(function, check_rep=check_vma, **options)


jax.config.update("jax_enable_x64", True)

MESH = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
SPECS = {
    "replicated": P(),
    "output axis": P(None, "model"),
    "fan-in axis": P("data", None),
    "both axes": P("data", "model"),
    "fan-in axis over all devices": P(("data", "model"), None),
}
OPTIMIZERS = {
    "sgd, gradient": partial(gct.sgd, 0.1, momentum=0.9, weight_decay=0.01, gc_on="gradient"),
    "adamw, update": partial(gct.adamw, 0.01, weight_decay=0.01, gc_on="update"),
}
STEPS = 3
rng = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float64)


PARAMS = {"hidden": {"kernel": normal(8, 24), "bias": normal(24)}, "out": {"kernel": normal(24, 4)}}
X, Y = normal(16, 8), normal(16, 4)
PLAN = gct.plan(PARAMS, "out_last", overrides={"out.kernel": 0})


def loss(params, x, y):
    h = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return ((h @ params["out"]["kernel"] - y) ** 2).mean()


def put(tree, spec):
    """Kernels by the spec; a bias is replicated."""
    return jax.tree.map(lambda leaf: jax.device_put(leaf, NamedSharding(MESH, spec if leaf.ndim == 2 else P())), tree)


def train(optimizer, params, x, y):
    @jax.jit
    def step(params, state):
        grads = jax.grad(loss)(params, x, y)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(STEPS):
        params, state = step(params, state)
    return params


def collectives(compiled):
    """[operation, elements] of each collective of a compiled program."""
    pattern = (
        r"= \(?f64\[([\d,]*)\]\S* (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(?:-start)?\("
    )
    found = re.findall(pattern, compiled.as_text())
    return [[operation, int(np.prod([int(n) for n in shape.split(",") if n]))] for shape, operation in found]


def farthest(got, wanted):
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


def main():
    found = {"devices": len(jax.devices()), "distance": {}, "without GC": {}, "collectives": {}, "sharding": {}}
    one = {"kernel": PARAMS["hidden"]["kernel"]}
    for name, make in OPTIMIZERS.items():
        optimizer, alone = make(plan=PLAN), make(plan="out_last")
        wanted = train(optimizer, PARAMS, X, Y)
        found["without GC"][name] = farthest(train(make(plan=PLAN, gc_on=None), PARAMS, X, Y), wanted)
        for where, spec in SPECS.items():
            key = f"{name}, {where}"
            batch = [jax.device_put(a, NamedSharding(MESH, P("data"))) for a in (X, Y)]
            found["distance"][key] = farthest(train(optimizer, put(PARAMS, spec), *batch), wanted)

            w = put(one, spec)
            state = alone.init(w)
            update = jax.jit(alone.update).lower(w, state, w).compile()
            found["collectives"][key] = collectives(update)
            updates, state = update(w, state, w)
            found["sharding"][key] = all(
                leaf.sharding.is_equivalent_to(w["kernel"].sharding, 2)
                for leaf in jax.tree.leaves((updates, state))
                if leaf.ndim == 2
            )

    # A function in a shard_map sees shards. Along the output axis they are whole layers; the plan is for whole arrays.
    kernel = one["kernel"]
    w = jax.device_put(kernel, NamedSharding(MESH, P(None, "model")))
    per_shard = shard_map(
        partial(gct.centralize, axis=0), mesh=MESH, in_specs=P(None, "model"), out_specs=P(None, "model")
    )
    found["shard_map, output axis"] = farthest(per_shard(w), gct.centralize(kernel, axis=0))

    def over_shards(g):
        return g - jax.lax.pmean(g.mean(0, keepdims=True), "data")

    summed = shard_map(over_shards, mesh=MESH, in_specs=P("data"), out_specs=P("data"))
    found["shard_map, fan-in axis"] = farthest(summed(kernel), gct.centralize(kernel, axis=0))
    link = gct.centralize_gradients(gct.plan(one, "out_last"))
    try:
        shard_map(lambda g: link.update(g, optax.EmptyState())[0], mesh=MESH, in_specs=P("data"), out_specs=P("data"))(
            one
        )
    except ValueError as error:
        found["shard_map, a plan of whole arrays"] = str(error)

    # Data parallelism by hand: each device has its part of the batch, and GC commutes with the mean over devices.
    def mean_of_centralized(w, x, y):
        return jax.lax.pmean(gct.centralize(jax.grad(loss)(w, x, y)["hidden"]["kernel"], axis=0), "data")

    data = P("data")
    got = shard_map(mean_of_centralized, mesh=MESH, in_specs=(P(), data, data), out_specs=P(), check_vma=False)(
        PARAMS, X, Y
    )
    found["shard_map, data"] = farthest(got, gct.centralize(jax.grad(loss)(PARAMS, X, Y)["hidden"]["kernel"], axis=0))
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""What a step of gc_jax takes under jit with donated buffers, beside Optax without GC: `python -m benchmarks.jax_step`.

Peers, interleaved in one run, each with parameters and states of its own, on the same gradients:

    optax, no GC                   optax.sgd or optax.adam: what the others are held against; and again (A/A)
    gc_jax; gc_jax, update         gc_jax.sgd or gc_jax.adam, with GC on the gradient and on the update
    optax.centralize, optax        optax.chain(optax.centralize(), …): GC over the axes 1, 2, …, whatever the layout

Beside the times stands what XLA made of each step: passes over the parameters (the bytes that its own cost analysis
counts, over those of the parameters), copies of a state, and arrays in float32 that are stored though the parameters
are of half precision. Those do not depend on the machine's load.

On Linux a step that stores a temporary array, as GC on the update does, pays mostly for its memory: the C library takes
it from the system anew at each step, page by page. MALLOC_MMAP_THRESHOLD_=8589934592 with
MALLOC_TRIM_THRESHOLD_=17179869184 in the environment lets it keep it.

Runs on JAX's default device; on a GPU it is a part of `make gpu`. Before a time is taken, one step of gc_jax is held
against the rule in float64.
"""

import argparse
import gc
import re
import statistics
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gc_jax
from benchmarks import harness
from benchmarks.harness import AGAIN, Case
from benchmarks.shapes import MODELS, PASSES, Shape, out_first

BASE, OURS, UPDATE, PEER = "optax, no GC", "gc_jax", "gc_jax, update", "optax.centralize, optax"
NAME = "cpu_jax_step"
LAYOUTS = ("out_first", "out_last")
LR = 1e-3


def turn(one: Shape, layout: str) -> Shape:
    """A weight as the layout stores it: the output axis first or last, the fan-in axes all others."""
    if one.axes is None:
        return one
    outputs = [size for axis, size in enumerate(one.shape) if axis not in one.axes]
    rest = [one.shape[axis] for axis in one.axes]
    if layout == "out_first":
        return out_first(*outputs, *rest)
    return Shape((*rest, *outputs), tuple(range(len(rest))))


def jitted(transform: optax.GradientTransformation) -> Any:
    def update(params, state, grads):
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(update, donate_argnums=(0, 1))


class Training:
    """A transformation's steps on parameters of its own, whose buffers are donated to the next step."""

    def __init__(self, transform: optax.GradientTransformation, update: Any, params: Any, grads: Any, again: int):
        self.params, self.state = jax.tree.map(jnp.copy, params), transform.init(params)
        self.update, self.grads, self.again = update, grads, again

    def __call__(self) -> None:
        for _ in range(self.again):
            self.params, self.state = self.update(self.params, self.state, self.grads)
        jax.block_until_ready((self.params, self.state))


def passes(update: Any, transform: Any, params: Any, grads: Any) -> dict[str, float]:
    """What XLA made of a step, counted in its program."""
    compiled = update.lower(params, transform.init(params), grads).compile()
    costs = compiled.cost_analysis()
    costs = costs[0] if isinstance(costs, list) else costs
    leaves = jax.tree.leaves(params)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    entry = compiled.as_text().partition("ENTRY")[2]
    shapes = {",".join(map(str, leaf.shape)) for leaf in leaves if leaf.ndim > 1}
    made = [(dtype, shape, name) for dtype, shape, name in re.findall(r"= (\w+)\[([\d,]*)\]\S* ([\w-]+)\(", entry)]
    copies = sum(name == "copy" and shape in shapes for _, shape, name in made)
    half = leaves[0].dtype.itemsize == 2
    stored = sum(half and dtype == "f32" and shape in shapes and name == "fusion" for dtype, shape, name in made)
    found = {"passes": costs["bytes accessed"] / size if "bytes accessed" in costs else float("nan")}
    return found | {"copies": float(copies), "stored in float32": float(stored)}


def check(got: Any, params: Any, grads: Any, shapes: list[Shape], kind: str) -> None:
    """The parameters after the first step against the rule in float64."""
    for i, one in enumerate(shapes):
        w, g, new = (np.asarray(tree[str(i)], np.float64) for tree in (params, grads, got))
        fan_in = prod(one.shape[axis] for axis in one.axes) if one.axes else 1
        centered = g - g.mean(one.axes, keepdims=True) if one.axes else g
        # Optax adds an update that was rounded to the parameter's dtype.
        unit = 2.0**-24 if params[str(i)].dtype == jnp.float32 else 2.0**-8
        error = (fan_in + 16) * 2.0**-24 * abs(g).max() + unit * abs(centered)
        d, wrong = centered, error
        if kind == "Adam":  # its first step is the sign of ĝ, any part of it where ĝ is within its error of 0
            with np.errstate(all="ignore"):
                d = np.sign(centered)
                wrong = np.where(abs(centered) > 4 * error, 4 * error / abs(centered) + 64 * unit, 2.0)
        bound = LR * wrong + 4 * unit * (abs(w) + LR * abs(d))
        off = abs(new - (w - LR * d))
        assert (off <= bound).all(), f"gc_jax {kind}: wrong by {(off / bound).max():.3g} bounds"


def case(name: str, shapes: list[Shape], layout: str, dtype: str, kind: str, rounds: int, again: int) -> Case:
    """One workload.

    Args:
        rounds: how often each peer is timed; 0 only compiles.
        again: steps that are timed as one, where one is too short for the host's clock.
    """
    turned = [turn(one, layout) for one in shapes]
    rng = np.random.default_rng(0)

    def normal(shape, mean):
        return jnp.asarray(rng.standard_normal(shape, np.float32) + np.float32(mean), dtype)

    params = {str(i): normal(one.shape, 0) for i, one in enumerate(turned)}
    grads = {str(i): normal(one.shape, 0.5) for i, one in enumerate(turned)}
    plan = gc_jax.plan(params, layout, overrides={str(i): one.axes for i, one in enumerate(turned)})
    plain, ours, on_update = {
        "SGD": (optax.sgd(LR, 0.9), gc_jax.sgd(LR, 0.9, plan=plan), gc_jax.sgd(LR, 0.9, plan=plan, gc_on="update")),
        "Adam": (optax.adam(LR), gc_jax.adam(LR, plan=plan), gc_jax.adam(LR, plan=plan, gc_on="update")),
    }[kind]
    peers = {BASE: plain, OURS: ours, UPDATE: on_update, PEER: optax.chain(optax.centralize(), plain)}
    updates = {peer: jitted(transform) for peer, transform in peers.items()}
    peers, updates = {**peers, AGAIN: plain}, {**updates, AGAIN: updates[BASE]}
    first = Training(ours, updates[OURS], params, grads, 1)
    first()
    check(first.params, params, grads, turned, kind)
    del first
    extra = {peer: passes(updates[peer], peers[peer], params, grads) for peer in (BASE, OURS, UPDATE, PEER)}
    order = (BASE, AGAIN, OURS, UPDATE, PEER)
    steps = {peer: Training(peers[peer], updates[peer], params, grads, again) for peer in order}
    seconds = {peer: [t / again for t in times] for peer, times in harness.measure(steps, rounds).items()}
    del steps
    gc.collect()
    numbers, itemsize = sum(one.numbers for one in turned), jnp.dtype(dtype).itemsize
    title = f"{name}, {layout}, {dtype}, {kind}"
    return Case(title, BASE, numbers, len(turned), numbers * itemsize * PASSES[kind], seconds, extra)


def copy_bandwidth(numbers: int) -> float:
    """Bytes a second, read and written, of x + 1 over so many float32 elements into an array that is new each time."""
    source = jnp.zeros(numbers)
    copy = jax.jit(lambda x: x + 1.0)
    times = harness.measure({"": lambda: copy(source).block_until_ready()}, 20)[""]
    return 2 * 4 * numbers / statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--models", nargs="+", default=["ResNet-50", "GPT-2 124M"], choices=[*MODELS])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    arguments = parser.parse_args()
    cases = [
        case(name, MODELS[name](), layout, dtype, kind, arguments.rounds, again=1)
        for name in arguments.models
        for layout in LAYOUTS
        for dtype in arguments.dtypes
        for kind in ("SGD", "Adam")
    ]
    about = {
        **harness.machine(),
        "device": str(jax.devices()[0]),
        "bytes a second of x + 1 into a new array": copy_bandwidth(1 << 26),
    }
    harness.show("gc_jax under jit, buffers donated", cases)
    print(harness.save(NAME, about, cases).relative_to(harness.RESULTS.parents[1]))


if __name__ == "__main__":
    main()

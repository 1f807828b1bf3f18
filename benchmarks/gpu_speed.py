"""What steps cost on a GPU: gc_torch, gc_jax and gc_cupy beside PyTorch's fused step and Optax, both without GC.

    python -m benchmarks.gpu_speed PART OUT.json [--small]        torch, layouts, sizes, jax, cupy or start

Times are the device's own: before each step the device is kept busy for a while, so that the host has put everything
into the queue when the first kernel starts. What the host takes for it stands beside them. Before a time is taken, one
step of every peer is held against the rule in float64.
"""

import argparse
import gc
import importlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu_ports import DEVICE, force
from benchmarks.harness import AGAIN, Case, measure

ON_GPU = DEVICE != "cpu"
BASE = "torch fused, no GC"
SLEEP = 6_000_000  # clock cycles that the device waits, some milliseconds
HYPER = {
    "SGD": dict(lr=1e-3, momentum=0.9, weight_decay=1e-4),
    "Adam": dict(lr=1e-3),
    "AdamW": dict(lr=1e-3, weight_decay=1e-2),
}
PASSES = {"SGD": 5, "Adam": 7, "AdamW": 7}  # over the parameters, at the least


class Shape(NamedTuple):
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None


def out_first(*shape: int) -> Shape:
    return Shape(shape, tuple(range(1, len(shape))))


def resnet50() -> list[Shape]:
    found: list[Shape] = []

    def conv(inputs: int, outputs: int, size: int) -> None:
        found.extend([out_first(outputs, inputs, size, size), Shape((outputs,)), Shape((outputs,))])

    conv(3, 64, 7)
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            conv(inputs, width, 1)
            conv(width, width, 3)
            conv(width, 4 * width, 1)
            if block == 0:
                conv(inputs, 4 * width, 1)
            inputs = 4 * width
    return [*found, out_first(1000, inputs), Shape((1000,))]


def transformer(width: int, layers: int, *, in_out: bool = False) -> list[Shape]:
    found = []
    for inputs, outputs in ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)):
        found += [Shape((inputs, outputs), (0,)) if in_out else out_first(outputs, inputs), Shape((outputs,))]
    return (found + [Shape((width,))] * 4) * layers


def vit_b16() -> list[Shape]:
    return [
        out_first(768, 3, 16, 16), Shape((768,)), Shape((1, 1, 768)), Shape((1, 197, 768)),
        *transformer(768, 12), Shape((768,)), Shape((768,)), out_first(1000, 768), Shape((1000,)),
    ]  # fmt: skip


def gpt2() -> list[Shape]:
    return [Shape((50257, 768)), Shape((1024, 768)), *transformer(768, 12, in_out=True), *[Shape((768,))] * 2]


def billion() -> list[Shape]:
    return [Shape((32000, 2048)), *transformer(2048, 19), Shape((2048,)), Shape((2048,))]


WORKLOADS: dict[str, Callable[[], list[Shape]]] = {
    "ResNet-50": resnet50,
    "ViT-B/16": vit_b16,
    "GPT-2 124M": gpt2,
    "1B": billion,
}
LAYOUTS = {
    "2,000 tensors of 1,000": lambda: [out_first(50, 20)] * 2000,
    "rows of 9": lambda: [out_first(1 << 20, 9)] * 4,
    "rows of 147": lambda: [out_first(1 << 16, 147)] * 4,
    "rows of 1,152": lambda: [out_first(1 << 13, 1152)] * 4,
    "rows of 4,096": lambda: [out_first(1 << 11, 4096)] * 4,
    "rows of 25,088": lambda: [out_first(1 << 9, 25088)] * 4,
    "columns of 768": lambda: [Shape((768, 1 << 14), (0,))] * 4,
    "columns of 4,096": lambda: [Shape((4096, 1 << 11), (0,))] * 4,
    "transposed convolutions": lambda: [Shape((512, 256, 4, 4), (0, 2, 3))] * 8,
}


def smaller(shapes: list[Shape], most: int) -> list[Shape]:
    """For a trial on a CPU: a few tensors, with their long axes cut."""
    few = list(dict.fromkeys(shapes))[:4]
    return [Shape(tuple(min(size, most) for size in one.shape), one.axes) for one in few]


# ---- Time


def timed(steps: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """The device's seconds of each peer in each round, interleaved; the host's milliseconds of the median round."""
    if not ON_GPU:
        seconds = measure(steps, rounds)
        return seconds, {}
    import torch

    seconds = {name: [] for name in steps}
    host: dict[str, list[float]] = {name: [] for name in steps}
    order, rng = list(steps), random.Random(0)
    gc.collect()
    gc.disable()
    for round_ in range(-3, rounds):
        rng.shuffle(order)
        for name in order:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(SLEEP)
            begin.record()
            start = time.perf_counter()
            steps[name]()
            taken = time.perf_counter() - start
            end.record()
            torch.cuda.synchronize()
            if round_ >= 0:
                seconds[name].append(begin.elapsed_time(end) / 1000)
                host[name].append(1000 * taken)
    gc.enable()
    return seconds, {name: statistics.median(times) for name, times in host.items()}


def bandwidth() -> float:
    """Bytes a second, read and written, of a large copy."""
    import torch

    there = torch.randn(1 << (28 if ON_GPU else 20), device=DEVICE)
    here = torch.empty_like(there)
    seconds, _ = timed({"copy": lambda: here.copy_(there)}, 20)
    return 2 * 4 * there.numel() / statistics.median(seconds["copy"])


def case(
    name: str, base: str, shapes: list[Shape], itemsize: int, passes: int, steps: dict[str, Callable[[], Any]],
    rounds: int, copy: float, extra: dict[str, dict[str, float]] | None = None,
) -> Case:  # fmt: skip
    seconds, host = timed(steps, rounds)
    numbers = sum(prod(one.shape) for one in shapes)
    made = Case(name, base, numbers, len(shapes), numbers * itemsize * passes, seconds, extra or {})
    for peer in steps:
        beside = made.extra.setdefault(peer, {})
        beside["of copy"] = made.floor / made.median(peer) / copy
        if peer in host:
            beside["host ms"] = host[peer]
    print(f"  {name}: {', '.join(f'{peer} {made.ratio(peer):.3f}' for peer in steps)}", file=sys.stderr)
    return made


# ---- PyTorch


class Model:
    """Parameters of the shapes, with random gradients, and their plan."""

    def __init__(self, shapes: list[Shape], dtype: str):
        import torch

        import gc_torch as gct

        self.shapes, self.module = shapes, torch.nn.Module()
        torch.manual_seed(0)
        for i, one in enumerate(shapes):
            w = torch.randn(one.shape, device=DEVICE).mul_(0.02).to(getattr(torch, dtype))
            p = torch.nn.Parameter(w)
            p.grad = torch.randn(one.shape, device=DEVICE).add_(0.5).to(p.dtype)
            self.module.register_parameter(f"p{i}", p)
        self.plan = gct.plan(self.module, {f"p{i}": one.axes for i, one in enumerate(shapes)})
        self.params = list(self.module.parameters())

    def check(self, kind: str, optimizer: Any, on: str | None) -> None:
        """One step from a fresh state against the rule in float64, tensor by tensor; the parameters stay."""
        import torch

        kept = [p.detach().clone() for p in self.params]
        optimizer.step()
        hyper = HYPER[kind]
        for one, p, old in zip(self.shapes, self.params, kept, strict=True):
            grad, w = p.grad, old.double()
            assert grad is not None
            unit = torch.finfo(torch.float32).eps / 2
            once = torch.finfo(p.dtype).eps / 2 if p.dtype.itemsize == 2 else 0.0
            g = grad.double()
            if kind == "SGD":
                g = g + hyper["weight_decay"] * w
            # The mean of M numbers, in whatever order: M units of the largest; some more for what follows it.
            fan_in = prod(one.shape[axis] for axis in one.axes) if one.axes else 1
            error = (fan_in + 16) * unit * g.abs().max()

            def phi(x: Any, axes=one.axes if on else None) -> Any:
                return x - x.mean(axes, keepdim=True) if axes else x

            if on == "gradient":
                g = phi(g)
            if kind == "SGD":
                d, wrong = g, error.expand_as(g)
            else:
                d, wrong = g.sign(), torch.where(g.abs() > 4 * error, 4 * error / g.abs() + 32 * unit, 2.0)
                d = torch.where(g == 0, 0.0, d) * (g.abs() / (g.abs() + 1e-8))
                if kind == "AdamW":
                    d = d + hyper["weight_decay"] * w
            if on == "update":
                d = phi(d)
                wrong = (wrong + (wrong.mean(one.axes, keepdim=True) if one.axes else 0)) + error * 4
            want = w - hyper["lr"] * d
            bound = hyper["lr"] * wrong + (once + 4 * unit) * (want.abs() + hyper["lr"])
            off = (p.detach().double() - want).abs()
            assert bool((off <= bound).all()), f"{kind}, GC on {on}: wrong by {(off / bound).max().item():.3g} bounds"
        with torch.no_grad():
            for p, old in zip(self.params, kept, strict=True):
                p.copy_(old)


def torch_peers(model: Model, kind: str, update: bool = False) -> dict[str, tuple[Callable[[], Any], str | None]]:
    """Optimizers by peer, and where their GC stands."""
    import torch

    import gc_torch as gct

    hyper = HYPER[kind]
    peers: dict[str, tuple[Any, str | None]] = {
        BASE: (getattr(torch.optim, kind)(model.params, fused=True, **hyper), None),
        AGAIN: (getattr(torch.optim, kind)(model.params, fused=True, **hyper), None),
        "gc_torch": (getattr(gct, kind)(model.module, plan=model.plan, **hyper), "gradient"),
    }
    if update:
        peers["gc_torch, update"] = (
            getattr(gct, kind)(model.module, plan=model.plan, gc_on="update", **hyper),
            "update",
        )
    apex = _apex(kind)
    if apex is not None:
        peers["apex, no GC"] = (apex(model.params, **hyper), None)
    return peers


def _apex(kind: str) -> Any:
    try:
        optimizers = importlib.import_module("apex.optimizers")
    except ImportError:
        return None
    if kind == "SGD":
        return optimizers.FusedSGD
    return lambda params, **hyper: optimizers.FusedAdam(params, adam_w_mode=kind == "AdamW", **hyper)


def torch_case(name: str, shapes: list[Shape], dtype: str, kind: str, rounds: int, copy: float, update=False) -> Case:
    import torch

    model = Model(shapes, dtype)
    peers = torch_peers(model, kind, update)
    itemsize, extra = model.params[0].dtype.itemsize, {}
    for peer, (optimizer, on) in peers.items():
        if kind == "SGD" and on is None and dtype != "float32" and not ON_GPU:
            continue  # PyTorch's fused step is wrong there
        model.check(kind, optimizer, on)
        if ON_GPU:  # what a step needs beside parameters, gradients and states
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            optimizer.step()
            extra[peer] = {"MiB beyond": (torch.cuda.max_memory_allocated() - before) / 2**20}
    steps = {peer: optimizer.step for peer, (optimizer, _) in peers.items()}
    return case(f"{name}, {dtype}, {kind}", BASE, shapes, itemsize, PASSES[kind], steps, rounds, copy, extra)


def enough_memory(shapes: list[Shape], itemsize: int, states: int) -> str:
    """Why it cannot be run, or nothing."""
    import torch

    needed = sum(prod(one.shape) for one in shapes) * itemsize * (3 + states)
    free = torch.cuda.mem_get_info()[0] if ON_GPU else 4 << 30
    return "" if needed < 0.9 * free else f"needs {needed / 2**30:.0f} GiB, and {free / 2**30:.0f} are free"


def torch_part(small: bool, rounds: int) -> tuple[list[Case], dict[str, Any]]:
    copy, cases, notes = bandwidth(), [], {}
    for workload, make in WORKLOADS.items():
        shapes = smaller(make(), 24) if small else make()
        for dtype in ("float32", "bfloat16"):
            for kind in HYPER:
                name = f"{workload}, {dtype}, {kind}"
                if why := enough_memory(shapes, 2 if dtype == "bfloat16" else 4, 8):
                    notes[name] = f"not run: {why}"
                    continue
                cases.append(torch_case(workload, shapes, dtype, kind, rounds, copy, update=workload != "1B"))
                _empty()
    notes["copy bytes a second"] = copy
    notes["apex"] = "measured" if _apex("Adam") else "not run: not installed"
    return cases, notes


def layouts_part(small: bool, rounds: int) -> tuple[list[Case], dict[str, Any]]:
    copy, cases = bandwidth(), []
    for name, make in LAYOUTS.items():
        shapes = smaller(make(), 24) if small else make()
        for dtype in ("float32", "bfloat16"):
            cases.append(torch_case(name, shapes, dtype, "Adam", rounds, copy, update=True))
            _empty()
    return cases, {"copy bytes a second": copy, "warps": warps(small, rounds)}


def sizes_part(small: bool, rounds: int) -> tuple[list[Case], dict[str, Any]]:
    """Cost against the number of parameters, and against that of tensors."""
    copy, cases, notes = bandwidth(), [], {}
    for exponent in (20, 23, 26, 30) if not small else (10, 12):
        shapes = [out_first(1 << (exponent - exponent // 2), 1 << (exponent // 2 - 1))] * 2
        if why := enough_memory(shapes, 4, 8):
            notes[f"parameters 2^{exponent}"] = f"not run: {why}"
            continue
        cases.append(torch_case(f"parameters 2^{exponent}", shapes, "float32", "Adam", rounds, copy))
        _empty()
    for tensors in (1, 10, 100, 1000, 10000) if not small else (1, 10):
        cases.append(torch_case(f"{tensors} tensors", [out_first(50, 20)] * tensors, "float32", "Adam", rounds, copy))
        _empty()
    return cases, {**notes, "copy bytes a second": copy}


def warps(small: bool, rounds: int) -> dict[str, float]:
    """Milliseconds of a step on GPT-2's shapes by warps a program: whether another choice would be better."""
    if not ON_GPU:
        return {}
    from gc_torch import kernels_gpu

    model, found, chosen = Model(smaller(gpt2(), 24) if small else gpt2(), "float32"), {}, kernels_gpu.WARPS
    for number in (4, 8, 16):
        kernels_gpu.WARPS = number
        optimizer = torch_peers(model, "Adam")["gc_torch"][0]
        seconds, _ = timed({"": optimizer.step}, rounds)
        found[str(number)] = 1000 * statistics.median(seconds[""])
    kernels_gpu.WARPS = chosen
    return found


def _empty() -> None:
    gc.collect()
    if ON_GPU:
        import torch

        torch.cuda.empty_cache()


def start_part(small: bool, rounds: int) -> tuple[list[Case], dict[str, Any]]:
    """Seconds of a first step, in a new process: with nothing compiled before, and with what another one has left."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for when in ("nothing cached", "cached by an earlier process"):
            command = [sys.executable, "-m", "benchmarks.gpu_speed", "first-step", "-", *["--small"] * small]
            done = subprocess.run(
                command, env={**os.environ, "TRITON_CACHE_DIR": folder}, capture_output=True, text=True
            )
            found[f"first step, {when}, s"] = (
                float(done.stdout) if done.returncode == 0 else f"failed: {done.stderr[-500:]}"
            )
    return [], found


def first_step(small: bool) -> None:
    model = Model(smaller(resnet50(), 24) if small else resnet50(), "float32")
    base, ours = (torch_peers(model, "AdamW")[peer][0] for peer in (BASE, "gc_torch"))
    base.step()
    start = time.perf_counter()
    ours.step()
    if ON_GPU:
        import torch

        torch.cuda.synchronize()
    print(time.perf_counter() - start)


# ---- CuPy and JAX


def cupy_part(small: bool, rounds: int) -> tuple[list[Case], dict[str, Any]]:
    copy, cases = bandwidth(), []
    if ON_GPU:
        import cupy

        from gc_cupy import SGD, Adam, AdamW
    else:
        import numpy as cupy

        from tests.cupy.gc_cupy_on_numpy import gct

        SGD, Adam, AdamW = gct.SGD, gct.Adam, gct.AdamW
    ours = {"SGD": SGD, "Adam": Adam, "AdamW": AdamW}
    for workload in ("ResNet-50", "GPT-2 124M"):
        shapes = smaller(WORKLOADS[workload](), 24) if small else WORKLOADS[workload]()
        for kind in HYPER:
            model = Model(shapes, "float32")
            arrays = [[cupy.asarray(x.detach().cpu().numpy()) for x in (p, p.grad)] for p in model.params]
            params, grads = ({str(i): pair[which].copy() for i, pair in enumerate(arrays)} for which in (0, 1))
            axes = {str(i): one.axes for i, one in enumerate(shapes)}
            optimizer = ours[kind](params, axes, **HYPER[kind])
            peers = torch_peers(model, kind)
            steps = {peer: peers[peer][0].step for peer in (BASE, AGAIN)}
            steps["gc_cupy"] = lambda step=optimizer.step, grads=grads: step(grads)
            # The first step of both, side by side: gc_torch's has been held against float64.
            check = peers["gc_torch"][0]
            model.check(kind, check, "gradient")
            twin = Model(shapes, "float32")
            torch_peers(twin, kind)["gc_torch"][0].step()
            steps["gc_cupy"]()
            for i, p in enumerate(twin.params):
                there = optimizer.params[str(i)]
                there = there.get() if ON_GPU else there
                off = abs(there - p.detach().cpu().numpy())
                # Next to ĝ = 0, float32 may take any part of Adam's first step.
                assert (off > 1e-5).mean() < 1e-3, f"{workload}, {kind}: gc_cupy and gc_torch differ by {off.max()}"
            cases.append(case(f"{workload}, float32, {kind}", BASE, shapes, 4, PASSES[kind], steps, rounds, copy))
            _empty()
    return cases, {"copy bytes a second": copy}


def jax_part(small: bool, rounds: int) -> tuple[list[Case], dict[str, Any]]:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    import gc_jax

    if ON_GPU and jax.default_backend() != "gpu":
        raise RuntimeError(f"JAX sees no GPU, only {jax.devices()}")
    again, cases = 10 if ON_GPU else 2, []
    size = 1 << (28 if ON_GPU else 20)
    copier = jax.jit(lambda x: x + 1.0)
    source = jnp.zeros(size)
    seconds = measure({"": lambda: copier(source).block_until_ready()}, 20)[""]
    copy = 2 * 4 * size / statistics.median(seconds)
    base = "optax, no GC"
    for layout in ("out_first", "out_last"):
        for workload in ("ResNet-50", "GPT-2 124M"):
            shapes = smaller(WORKLOADS[workload](), 24) if small else WORKLOADS[workload]()
            turned = [turn(one, layout) for one in shapes]
            axes = {str(i): one.axes for i, one in enumerate(turned)}
            for dtype in ("float32", "bfloat16"):
                rng = np.random.default_rng(0)
                params = {str(i): jnp.asarray(rng.standard_normal(one.shape), dtype) for i, one in enumerate(turned)}
                grads = {name: jnp.asarray(rng.standard_normal(w.shape) + 0.5, dtype) for name, w in params.items()}
                plan = gc_jax.plan(params, layout, overrides=axes)
                for kind, (plain, ours) in {
                    "SGD": (optax.sgd(1e-3, 0.9), gc_jax.sgd(1e-3, 0.9, plan=plan)),
                    "Adam": (optax.adam(1e-3), gc_jax.adam(1e-3, plan=plan)),
                }.items():
                    transforms = {base: plain, AGAIN: plain, "gc_jax": ours}
                    if layout == "out_first":
                        transforms["optax.centralize, optax"] = optax.chain(optax.centralize(), plain)
                    steps = {}
                    for peer, transform in transforms.items():

                        def update(params, state, grads, transform=transform):
                            updates, state = transform.update(grads, state, params)
                            return optax.apply_updates(params, updates), state

                        jitted = jax.jit(update, donate_argnums=(0, 1))
                        kept: dict[str, Any] = {
                            "params": jax.tree.map(jnp.copy, params), "state": transform.init(params)
                        }  # fmt: skip

                        def step(kept=kept, jitted=jitted, grads=grads):
                            for _ in range(again):
                                kept["params"], kept["state"] = jitted(kept["params"], kept["state"], grads)
                            jax.block_until_ready(kept)

                        steps[peer] = step
                        if peer == "gc_jax":
                            check_jax(jitted, params, transform, grads, turned, kind)
                    seconds = {peer: [t / again for t in times] for peer, times in measure(steps, rounds).items()}
                    numbers = sum(prod(one.shape) for one in turned)
                    itemsize = 4 if dtype == "float32" else 2
                    made = Case(
                        f"{workload}, {layout}, {dtype}, {kind}", base, numbers, len(turned),
                        numbers * itemsize * PASSES[kind], seconds,
                    )  # fmt: skip
                    made.extra = {peer: {"of copy": made.floor / made.median(peer) / copy} for peer in steps}
                    cases.append(made)
                    print(f"  {made.name}: {made.ratio('gc_jax'):.3f}", file=sys.stderr)
                    del steps, kept
                    gc.collect()
    return cases, {"copy bytes a second": copy, "note": f"time by the host's clock, {again} steps at a time"}


def turn(one: Shape, layout: str) -> Shape:
    """A weight as the layout stores it: the output axis first or last, the fan-in axes all others."""
    if one.axes is None:
        return one
    outputs = [size for axis, size in enumerate(one.shape) if axis not in one.axes]
    rest = [one.shape[axis] for axis in one.axes]
    if layout == "out_first":
        return out_first(*outputs, *rest)
    return Shape((*rest, *outputs), tuple(range(len(rest))))


def check_jax(jitted: Any, params: Any, transform: Any, grads: Any, shapes: list[Shape], kind: str) -> None:
    """One step against the rule in float64."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    new, _ = jitted(jax.tree.map(jnp.copy, params), transform.init(params), grads)
    for i, one in enumerate(shapes):
        w, g, got = (np.asarray(tree[str(i)], np.float64) for tree in (params, grads, new))
        fan_in = prod(one.shape[axis] for axis in one.axes) if one.axes else 1
        centered = g - g.mean(one.axes, keepdims=True) if one.axes else g
        # Optax adds an update that was rounded to the parameter's dtype.
        unit = 2.0**-24 if params[str(i)].dtype == jnp.float32 else 2.0**-8
        error = (fan_in + 16) * 2.0**-24 * abs(g).max() + unit * abs(centered)
        d, wrong = centered, error
        if kind == "Adam":
            with np.errstate(all="ignore"):
                d = np.sign(centered)
                wrong = np.where(abs(centered) > 4 * error, 4 * error / abs(centered) + 64 * unit, 2.0)
        bound = 1e-3 * wrong + 4 * unit * (abs(w) + 1e-3 * abs(d))
        off = abs(got - (w - 1e-3 * d))
        assert (off <= bound).all(), f"gc_jax {kind}: wrong by {(off / bound).max():.3g} bounds"


PARTS = {
    "torch": torch_part, "layouts": layouts_part, "sizes": sizes_part, "start": start_part, "cupy": cupy_part,
    "jax": jax_part,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "first-step"])
    parser.add_argument("out")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    if arguments.part != "jax":
        force("triton")
    if arguments.part == "first-step":
        first_step(arguments.small)
        return
    cases, notes = PARTS[arguments.part](arguments.small, 2 if arguments.small else 15)
    Path(arguments.out).write_text(json.dumps({"cases": [asdict(one) for one in cases], "notes": notes}))


if __name__ == "__main__":
    main()

"""What steps cost on a GPU: gc_torch, gc_jax and gc_cupy beside PyTorch's fused step and Optax, both without GC.

    python -m benchmarks.gpu_speed PART OUT.json [--small]        torch, layouts, sizes, jax, cupy or start

Times are the device's own: before each step the device is kept busy for a while, so that the host has put everything
into the queue when the first kernel starts. What the host takes for it stands beside them. Before a time is taken, one
step of every peer is held against the rule in float64.
"""

import argparse
import gc
import importlib
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

from benchmarks.gpu_ports import DEVICE, force
from benchmarks.harness import AGAIN, Case, measure
from benchmarks.shapes import HYPER, MODELS, PASSES, Shape, gpt2, out_first, resnet50, transformer

ON_GPU = DEVICE != "cpu"
BASE = "torch fused, no GC"
SLEEP = 6_000_000, 8_000  # clock cycles that the device waits, and more for each tensor: some milliseconds


def billion() -> list[Shape]:
    return [Shape((32000, 2048)), *transformer(2048, 19, in_out=False), Shape((2048,)), Shape((2048,))]


WORKLOADS: dict[str, Callable[[], list[Shape]]] = {
    **MODELS, "1B": billion, "2,000 tensors of 1,000": lambda: [out_first(50, 20)] * 2000
}  # fmt: skip
LAYOUTS = {
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


def timed(
    steps: dict[str, Callable[[], Any]], rounds: int, tensors: int = 1
) -> tuple[dict[str, list[float]], dict[str, float]]:
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
            torch.cuda._sleep(SLEEP[0] + SLEEP[1] * tensors)
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
    seconds, host = timed(steps, rounds, len(shapes))
    numbers = sum(one.numbers for one in shapes)
    made = Case(name, base, numbers, len(shapes), numbers * itemsize * passes, seconds, extra or {})
    for peer in steps:
        beside = made.extra.setdefault(peer, {})
        beside["of copy"] = made.floor / made.median(peer) / copy
        if peer in host:
            beside["host ms"] = host[peer]
    print(f"  {name}: {', '.join(f'{peer} {made.ratio(peer):.3f}' for peer in steps)}", file=sys.stderr)
    return made


# ---- PyTorch


def model_of(shapes: list[Shape], dtype: str) -> Any:
    from benchmarks.torch_model import Model  # JAX's part has no PyTorch beside it

    return Model(shapes, dtype, DEVICE)


def check(model: Any, kind: str, optimizer: Any, on: str | None) -> None:
    """One step from a fresh state against the rule in float64, tensor by tensor; the parameters stay."""
    import torch

    kept = [p.detach().clone() for p in model.params]
    optimizer.step()
    hyper = HYPER[kind]
    for one, p, old in zip(model.shapes, model.params, kept, strict=True):
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
        for p, old in zip(model.params, kept, strict=True):
            p.copy_(old)


def torch_peers(model: Any, kind: str, update: bool = False) -> dict[str, tuple[Callable[[], Any], str | None]]:
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

    model = model_of(shapes, dtype)
    peers = torch_peers(model, kind, update)
    itemsize, extra = model.params[0].dtype.itemsize, {}
    for peer, (optimizer, on) in peers.items():
        if kind == "SGD" and on is None and dtype != "float32" and not ON_GPU:
            continue  # PyTorch's fused step is wrong there
        try:
            check(model, kind, optimizer, on)
        except AssertionError:
            if peer.startswith("gc_torch"):
                raise
            extra.setdefault(peer, {})["outside the bounds"] = 1.0  # it is not ours to say more
        if ON_GPU:  # what a step needs beside parameters, gradients and states
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            optimizer.step()
            extra.setdefault(peer, {})["MiB beyond"] = (torch.cuda.max_memory_allocated() - before) / 2**20
    steps = {peer: optimizer.step for peer, (optimizer, _) in peers.items()}
    return case(f"{name}, {dtype}, {kind}", BASE, shapes, itemsize, PASSES[kind], steps, rounds, copy, extra)


def enough_memory(shapes: list[Shape], itemsize: int, states: int) -> str:
    """Why it cannot be run, or nothing."""
    import torch

    needed = sum(one.numbers for one in shapes) * itemsize * (3 + states)
    free = torch.cuda.mem_get_info()[0] if ON_GPU else 4 << 30
    return "" if needed < 0.9 * free else f"needs {needed / 2**30:.0f} GiB, and {free / 2**30:.0f} are free"


# Each part yields its cases, so that those are kept that were done when its time was over.


def torch_part(small: bool, rounds: int, notes: dict[str, Any]) -> Iterator[Case]:
    notes["copy bytes a second"] = copy = bandwidth()
    notes["apex"] = "measured" if _apex("Adam") else "not run: not installed"
    # What is most asked for first: the time may be over at any moment.
    for (dtype, kind), (workload, make) in itertools.product(
        [("float32", "AdamW"), ("bfloat16", "AdamW"), ("float32", "SGD"), ("float32", "Adam"), ("bfloat16", "Adam"),
         ("bfloat16", "SGD")],
        WORKLOADS.items(),
    ):  # fmt: skip
        shapes = smaller(make(), 24) if small else make()
        name = f"{workload}, {dtype}, {kind}"
        if why := enough_memory(shapes, 2 if dtype == "bfloat16" else 4, 8):
            notes[name] = f"not run: {why}"
            continue
        yield torch_case(workload, shapes, dtype, kind, rounds, copy, update=workload != "1B")
        _empty()


def layouts_part(small: bool, rounds: int, notes: dict[str, Any]) -> Iterator[Case]:
    notes["copy bytes a second"] = copy = bandwidth()
    for name, make in LAYOUTS.items():
        shapes = smaller(make(), 24) if small else make()
        for dtype in ("float32", "bfloat16"):
            yield torch_case(name, shapes, dtype, "Adam", rounds, copy, update=True)
            _empty()
    notes["ms of a step on GPT-2's shapes by warps a program"] = warps(small, rounds)


def sizes_part(small: bool, rounds: int, notes: dict[str, Any]) -> Iterator[Case]:
    """Cost against the number of parameters, and against that of tensors."""
    notes["copy bytes a second"] = copy = bandwidth()
    for exponent in (20, 22, 24, 26, 28, 30) if not small else (10, 12):
        fan_in = min(10, (exponent - 4) // 2)
        shapes = [out_first(1 << (exponent - 4 - fan_in), 1 << fan_in)] * 16
        if why := enough_memory(shapes, 4, 8):
            notes[f"parameters 2^{exponent}"] = f"not run: {why}"
            continue
        yield torch_case(f"parameters 2^{exponent}", shapes, "float32", "Adam", rounds, copy)
        _empty()
    for tensors in (1, 10, 100, 1000, 10000) if not small else (1, 10):
        yield torch_case(f"{tensors} tensors", [out_first(50, 20)] * tensors, "float32", "Adam", rounds, copy)
        _empty()


def warm_part(small: bool, share: int, of: int) -> None:
    """Compile what the other parts will need, on as many processes as there are: the cache on the disk keeps it."""
    work = [(make, kind) for make in WORKLOADS.values() for kind in HYPER] + [
        (make, "Adam") for make in LAYOUTS.values()
    ]
    for make, kind in work[share::of]:
        shapes = smaller(make(), 24) if small else make()
        # Fan-in axes as they are, the others short, yet of multiples of 16 bytes where they were: the same kernel.
        few = {
            Shape(
                tuple(n if i in (one.axes or ()) or n < 64 or n % 8 else 64 for i, n in enumerate(one.shape)), one.axes
            )
            for one in shapes
        }
        for dtype in ("float32", "bfloat16"):
            model = model_of(list(few), dtype)
            for optimizer, on in torch_peers(model, kind, update=True).values():
                if on:
                    optimizer.step()
                    optimizer.step()


def warps(small: bool, rounds: int) -> dict[str, float]:
    """Milliseconds of a step on GPT-2's shapes by warps a program: whether another choice would be better."""
    if not ON_GPU:
        return {}
    from gc_torch.kernels_gpu import kernels

    model, found, chosen = model_of(smaller(gpt2(), 24) if small else gpt2(), "float32"), {}, kernels.WARPS
    for number in (8, 16):
        kernels.WARPS = number
        optimizer = torch_peers(model, "Adam")["gc_torch"][0]
        seconds, _ = timed({"": optimizer.step}, rounds)
        found[str(number)] = 1000 * statistics.median(seconds[""])
    kernels.WARPS = chosen
    return found


def _empty() -> None:
    gc.collect()
    if ON_GPU:
        import torch

        torch.cuda.empty_cache()


def start_part(small: bool, rounds: int, notes: dict[str, Any]) -> Iterator[None]:
    """Seconds of a first step, in a new process: with nothing compiled before, and with what another one has left."""
    with tempfile.TemporaryDirectory() as folder:
        for when in ("nothing cached", "cached by an earlier process"):
            command = [sys.executable, "-m", "benchmarks.gpu_speed", "first-step", "-", *["--small"] * small]
            environment = {**os.environ, "TRITON_CACHE_DIR": folder}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            notes[f"first step, {when}, s"] = float(done.stdout)
            yield None


def first_step(small: bool) -> None:
    model = model_of(smaller(resnet50(), 24) if small else resnet50(), "float32")
    base, ours = (torch_peers(model, "AdamW")[peer][0] for peer in (BASE, "gc_torch"))
    base.step()
    start = time.perf_counter()
    ours.step()
    if ON_GPU:
        import torch

        torch.cuda.synchronize()
    print(time.perf_counter() - start)


# ---- CuPy and JAX


def cupy_part(small: bool, rounds: int, notes: dict[str, Any]) -> Iterator[Case]:
    notes["copy bytes a second"] = copy = bandwidth()
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
            model = model_of(shapes, "float32")
            arrays = [[cupy.asarray(x.detach().cpu().numpy()) for x in (p, p.grad)] for p in model.params]
            params, grads = ({str(i): pair[which].copy() for i, pair in enumerate(arrays)} for which in (0, 1))
            axes = {str(i): one.axes for i, one in enumerate(shapes)}
            optimizer = ours[kind](params, axes, **HYPER[kind])
            peers = torch_peers(model, kind)
            steps = {peer: peers[peer][0].step for peer in (BASE, AGAIN)}
            steps["gc_cupy"] = lambda step=optimizer.step, grads=grads: step(grads)
            # The first step of both, side by side: gc_torch's has been held against float64.
            check(model, kind, peers["gc_torch"][0], "gradient")
            twin = model_of(shapes, "float32")
            torch_peers(twin, kind)["gc_torch"][0].step()
            steps["gc_cupy"]()
            for i, p in enumerate(twin.params):
                there = optimizer.params[str(i)]
                there = there.get() if ON_GPU else there
                off = abs(there - p.detach().cpu().numpy())
                # Next to ĝ = 0, float32 may take any part of Adam's first step.
                assert (off > 1e-5).mean() < 1e-3, f"{workload}, {kind}: gc_cupy and gc_torch differ by {off.max()}"
            yield case(f"{workload}, float32, {kind}", BASE, shapes, 4, PASSES[kind], steps, rounds, copy)
            _empty()


def jax_part(small: bool, rounds: int, notes: dict[str, Any]) -> Iterator[Case]:
    import jax

    from benchmarks import jax_step

    if ON_GPU and jax.default_backend() != "gpu":
        raise RuntimeError(f"JAX sees no GPU, only {jax.devices()}")
    again = 10 if ON_GPU else 2
    notes["copy bytes a second"] = copy = jax_step.copy_bandwidth(1 << (28 if ON_GPU else 20))
    notes["time"] = f"by the host's clock, {again} steps at a time"
    for workload, dtype, kind in (
        ("GPT-2 124M", "float32", "Adam"), ("GPT-2 124M", "bfloat16", "Adam"), ("ResNet-50", "float32", "Adam"),
        ("ResNet-50", "float32", "SGD"),
    ):  # fmt: skip
        shapes = smaller(MODELS[workload](), 24) if small else MODELS[workload]()
        for layout in jax_step.LAYOUTS:
            made = jax_step.case(workload, shapes, layout, dtype, kind, rounds, again)
            if rounds:
                for peer in made.seconds:
                    made.extra.setdefault(peer, {})["of copy"] = made.floor / made.median(peer) / copy
                print(f"  {made.name}: {made.ratio(jax_step.OURS):.3f}", file=sys.stderr)
                yield made


PARTS = {
    "torch": torch_part, "layouts": layouts_part, "sizes": sizes_part, "start": start_part, "cupy": cupy_part,
    "jax": jax_part,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "first-step", "warm"])
    parser.add_argument("out", help="a file; for warm, which share of how many: 0/8")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rounds", type=int)
    arguments = parser.parse_args()
    if arguments.part != "jax":
        force("triton")
    if arguments.part == "first-step":
        return first_step(arguments.small)
    if arguments.part == "warm":
        return warm_part(arguments.small, *map(int, arguments.out.split("/")))
    rounds = arguments.rounds if arguments.rounds is not None else 2 if arguments.small else 15
    cases: list[dict[str, Any]] = []
    notes: dict[str, Any] = {}
    part = PARTS[arguments.part](arguments.small, rounds, notes)
    for one in itertools.chain(part, [None]):
        if one is not None:
            cases.append(asdict(one))
        file = Path(arguments.out)
        file.with_suffix(".new").write_text(json.dumps({"cases": cases, "notes": notes}), encoding="utf-8")
        file.with_suffix(".new").replace(file)


if __name__ == "__main__":
    main()

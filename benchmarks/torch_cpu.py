"""What a step of gc_torch takes on a CPU, beside PyTorch's fused step without GC: `python -m benchmarks.torch_cpu`.

Peers, interleaved in one run, each with states of its own, on the same parameters and random gradients:

    torch fused, no GC             torch.optim, fused=True: what all the others are held against; and again (A/A)
    gc_torch                       with nothing asked for
    gc_torch without Numba         the same where it is not installed
    in place, then fused           p.grad centralized where it lies, then torch.optim with fused=True
    the authors' rule              as their published optimizers write it (Yonghongwei/Gradient-Centralization): tensor
                                   by tensor, not fused, the mean over all axes but the first, in SGD and Adam of the
                                   step, in AdamW of the gradient

Before a time is taken, a first step of every peer is held against the rule in float64.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import gc_torch as gct
from benchmarks import harness
from benchmarks.harness import AGAIN, Case
from benchmarks.shapes import HYPER, MODELS, PASSES, Shape, out_first
from benchmarks.torch_model import Model
from gc_torch import path

BASE, OURS, BARE = "torch fused, no GC", "gc_torch", "gc_torch without Numba"
IN_PLACE, AUTHORS = "in place, then fused", "the authors' rule"
NAME, CEILING = "cpu_step", "bytes a second of x += y"


def by_rank(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    return tuple(range(1, len(shape))) if len(shape) > 1 else None


def authors(kind: str, params: list[Tensor]) -> Callable[[], None]:
    """Their rule once more, with PyTorch's operations of today in the order in which they have them."""
    hyper = HYPER[kind]
    lr, decay, momentum = hyper["lr"], hyper.get("weight_decay", 0.0), hyper.get("momentum", 0.0)
    states: list[dict[str, Any]] = [{} for _ in params]

    def centralized(x: Tensor) -> Tensor:
        return x.add_(-x.mean(dim=tuple(range(1, x.ndim)), keepdim=True)) if x.ndim > 1 else x

    @torch.no_grad()
    def sgd() -> None:
        for p, state in zip(params, states, strict=True):
            assert p.grad is not None
            d = p.grad.add(p, alpha=decay) if decay else p.grad
            if "m" in state:
                d = state["m"].mul_(momentum).add_(d)
            else:
                d = state["m"] = d.clone()
            p.add_(centralized(d), alpha=-lr)

    @torch.no_grad()
    def adam() -> None:
        beta1, beta2, eps = 0.9, 0.999, 1e-8
        for p, state in zip(params, states, strict=True):
            assert p.grad is not None
            if not state:
                state.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
            state["t"] += 1
            g = centralized(p.grad) if kind == "AdamW" else p.grad
            m, v = state["m"].mul_(beta1).add_(g, alpha=1 - beta1), state["v"].mul_(beta2)
            v.addcmul_(g, g, value=1 - beta2)
            d = m / (v.sqrt() / math.sqrt(1 - beta2 ** state["t"])).add_(eps)
            d = d.add(p, alpha=decay) if kind == "AdamW" else centralized(d)
            p.add_(d, alpha=-lr / (1 - beta1 ** state["t"]))

    return sgd if kind == "SGD" else adam


def peers(model: Model, kind: str, *, all_of_them: bool = True) -> dict[str, Callable[[], Any]]:
    def fused() -> Any:
        return getattr(torch.optim, kind)(model.params, fused=True, **HYPER[kind])

    steps = {BASE: fused().step, AGAIN: fused().step}
    steps[OURS] = getattr(gct, kind)(model.module, plan=model.plan, **HYPER[kind]).step
    if all_of_them:
        after = fused()
        bare = getattr(gct, kind)(model.module, plan=model.plan, **HYPER[kind])

        def without_numba() -> None:
            with mock.patch.dict(path.KERNELS, clear=True):
                bare.step()

        @torch.no_grad()
        def in_place() -> None:
            for p, one in zip(model.params, model.shapes, strict=True):
                if one.axes is not None:
                    p.grad.sub_(p.grad.mean(one.axes, keepdim=True))  # type: ignore[union-attr]
            after.step()

        steps |= {BARE: without_numba, IN_PLACE: in_place, AUTHORS: authors(kind, model.params)}
    return steps


@torch.no_grad()
def check(model: Model, kind: str, peer: str, step: Callable[[], Any]) -> None:
    """The first step of a peer against the rule in float64; parameters and gradients stay as they are."""
    hyper, unit = HYPER[kind], 2.0**-24
    decay = hyper.get("weight_decay", 0.0)
    kept = [(p.detach().clone(), p.grad.clone()) for p in model.params]  # type: ignore[union-attr]
    step()
    for one, p, (old, grad) in zip(model.shapes, model.params, kept, strict=True):
        axes = None if peer in (BASE, AGAIN) else by_rank(one.shape) if peer == AUTHORS else one.axes
        place = "update" if peer == AUTHORS and kind != "AdamW" else "gradient"
        w, g = old.double(), grad.double()
        if kind == "SGD" or (peer == IN_PLACE and kind == "Adam"):
            g = g + decay * w if peer != IN_PLACE else g
        # The mean of M numbers, in whatever order: at most M units of the largest; some more for what follows it.
        fan_in = math.prod(one.shape[axis] for axis in axes) if axes else 1
        error = float((fan_in + 16) * unit * g.abs().max())

        def phi(x: Tensor, axes: Any = axes) -> Tensor:
            return x - x.mean(axes, keepdim=True) if axes else x

        g = phi(g) if place == "gradient" else g
        if peer == IN_PLACE and kind == "SGD":
            g = g + decay * w
        if kind == "SGD":
            d, wrong = g, torch.full_like(g, error)
        else:  # the first step is the sign; near 0 it is anything
            d = g / (g.abs() + 1e-8)
            wrong = torch.where(g.abs() > 4 * error, 4 * error / g.abs() + 32 * unit, 2.0)
            # The authors scale the decay by the bias correction of the first moment too.
            d = d + decay * w / (0.1 if peer == AUTHORS else 1.0) if kind == "AdamW" else d
        if place == "update":
            d = phi(d)
            wrong = wrong + (wrong.mean(axes, keepdim=True) if axes else 0.0) + error
        want = w - hyper["lr"] * d
        bound = hyper["lr"] * wrong + 4 * unit * (want.abs() + 10 * hyper["lr"])
        off = (p.double() - want).abs() / bound
        assert bool((off <= 1).all()), f"{kind}, {peer}, {one}: wrong by {off.max().item():.3g} bounds"
        p.copy_(old)
        p.grad.copy_(grad)  # type: ignore[union-attr]


def case(name: str, shapes: list[Shape], kind: str, rounds: int, *, all_of_them: bool = True) -> Case:
    model = Model(shapes)
    steps = peers(model, kind, all_of_them=all_of_them)
    for peer, step in steps.items():
        check(model, kind, peer, step)
    seconds = harness.measure(steps, rounds)
    extra = {
        peer: {"MiB beyond": min(harness.peak_beyond(steps[peer]) for _ in range(3))} for peer in steps if peer != AGAIN
    }
    numbers = sum(one.numbers for one in shapes)
    return Case(f"{name}, {kind}", BASE, numbers, len(shapes), 4 * numbers * PASSES[kind], seconds, extra)


PLAIN = "torch, nothing asked for"


def small(tensors: int, kind: str, rounds: int) -> Case:
    """A model so small that the host's time is all: seconds of one step, of as many that a round takes milliseconds.

    On one thread, as it is stepped on beside other work.
    """
    model = Model([out_first(32, 32), Shape((32,))] * (tensors // 2))
    steps = peers(model, kind, all_of_them=False)
    for peer, step in steps.items():
        check(model, kind, peer, step)
    steps[PLAIN] = getattr(torch.optim, kind)(model.params, **HYPER[kind]).step
    times = max(1, 600 // tensors)

    def repeated(step: Callable[[], Any]) -> Callable[[], None]:
        def call() -> None:
            for _ in range(times):
                step()

        return call

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = harness.measure({peer: repeated(step) for peer, step in steps.items()}, rounds)
    finally:
        torch.set_num_threads(threads)
    seconds = {peer: [one / times for one in all_of_it] for peer, all_of_it in found.items()}
    numbers = sum(one.numbers for one in model.shapes)
    name = f"{tensors:,} small tensors, one thread, {kind}"
    return Case(name, BASE, numbers, tensors, 4 * numbers * PASSES[kind], seconds)


def parts(rounds: int) -> dict[str, Callable[[], list[Case]]]:
    tiny = [out_first(10, 100)]

    def model(name: str) -> Callable[[], list[Case]]:
        return lambda: [case(name, MODELS[name](), kind, rounds) for kind in HYPER]

    return {
        "resnet50": model("ResNet-50"),
        "vit": model("ViT-B/16"),
        "gpt2": model("GPT-2 124M"),
        "small": lambda: [small(n, kind, 3 * rounds) for n in (6, 150, 2000) for kind in ("SGD", "Adam")],
        "tiny": lambda: [case("2,000 tensors of 1,000", tiny * 2000, kind, 3 * rounds) for kind in HYPER],
        "sizes": lambda: [
            case(f"{n}M numbers", [out_first(1024, 1024)] * n, "Adam", rounds, all_of_them=False)
            for n in (1, 2, 4, 8, 16, 32, 64, 128, 256)
        ],
        "tensors": lambda: [
            case(f"{n:,} tensors of 1,000", tiny * n, "Adam", rounds, all_of_them=False)
            for n in (1, 10, 100, 1000, 10000)
        ],
    }


_FIRST = """
import time
import torch
import gc_torch
p = torch.nn.Parameter(torch.ones(64, 64))
p.grad = torch.ones(64, 64)
optimizer = gc_torch.{kind}([p], lr=0.1)
start = time.perf_counter()
optimizer.step()
print(time.perf_counter() - start)
"""


def bandwidth() -> float:
    """Bytes a second, read and written, of x += y, the best in memory that is given anew: what memory it is decides."""
    best, n = 0.0, 1 << 25
    for _ in range(8):
        x, y = torch.randn(n), torch.randn(n)
        best = max(best, 3 * 4 * n / min(harness.measure({"": lambda x=x, y=y: x.add_(y)}, 5)[""]))
    return best


def first_call() -> dict[str, dict[str, float]]:
    """Seconds of the first step of a process: where nothing is compiled yet, and in the next process."""
    found = {}
    for kind in ("SGD", "Adam"):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", _FIRST.format(kind=kind)]
            environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
            runs = [subprocess.run(command, env=environment, capture_output=True, check=True, text=True) for _ in "12"]
            compiled, cached = (float(run.stdout) for run in runs)
        found[kind] = {"compiled": round(compiled, 2), "cached": round(cached, 2)}
    return found


def draw(about: dict[str, Any], cases: list[Case]) -> None:
    models = [one for one in cases if AUTHORS in one.seconds]
    sweep = {
        "tensors of 1,048,576": [one for one in cases if "M numbers" in one.name],
        "tensors of 1,000": [one for one in cases if AUTHORS not in one.seconds and "of 1,000" in one.name],
    }
    picture = harness.RESULTS / f"{NAME}.svg"
    harness.picture(picture, models, sweep, [BASE, OURS, BARE, IN_PLACE, AUTHORS], ("x += y", about[CEILING]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--parts", nargs="+", choices=[*parts(1), "start"], default=[*parts(1), "start"])
    arguments = parser.parse_args()
    about, cases = harness.machine() | {"threads": torch.get_num_threads(), "rounds": arguments.rounds}, []
    if len(arguments.parts) <= len(parts(1)):  # what is not measured now stays
        try:
            before, cases = harness.load(NAME)
            about = {**before, **about}
        except FileNotFoundError:
            pass
    about[CEILING] = bandwidth()
    for name, part in parts(arguments.rounds).items():
        if name in arguments.parts:
            found = part()
            harness.show(name, found)
            names = {one.name for one in found}
            cases = [one for one in cases if one.name not in names] + found
    if "start" in arguments.parts:
        about["seconds of the first step"] = first_call()
        print("seconds of the first step:", json.dumps(about["seconds of the first step"]))
    harness.save(NAME, about, cases)
    draw(about, cases)


if __name__ == "__main__":
    main()

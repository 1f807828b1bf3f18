"""The step in backward: its time beside PyTorch's fused steps of one parameter each, and the peak of memory.

    python -m benchmarks.torch_in_backward [--rounds 15] [--threads 2]

Peers have a gradient put into each parameter in turn and take its step at once, as a hook does in backward:

    gc_torch        one AdamW, `step_in_backward`
    torch fused     an AdamW of PyTorch for each parameter, fused=True, stepped in a hook: the usual recipe
    one step        gc_torch's AdamW after all gradients are there

The memory is that of real training steps, of a stack of linear layers whose gradients are as large as their weights:
how far the process grows above what it has before a forward pass, with the step in backward and without.
"""

import argparse
import json
import multiprocessing
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import gc_torch as gct
from benchmarks import harness, shapes

WORKLOADS = {
    "100 tensors of 256 x 256": [shapes.out_first(256, 256)] * 100,
    "GPT-2 124M": shapes.gpt2(),
}


def parameters(some: list[shapes.Shape]) -> nn.ParameterList:
    return nn.ParameterList([nn.Parameter(torch.randn(one.shape)) for one in some])


def hooks(params: nn.ParameterList) -> list[Callable[[Any], None]]:
    return [next(iter(p._post_accumulate_grad_hooks.values())) for p in params]  # type: ignore[union-attr]


def steps(some: list[shapes.Shape]) -> dict[str, Callable[[], None]]:
    """A training step's updates, by peer."""
    grads = [torch.randn(one.shape) for one in some]
    ours, fused, normal = parameters(some), parameters(some), parameters(some)
    warnings.simplefilter("ignore", gct.GCWarning)
    one = gct.AdamW(list(ours), lr=1e-3, plan="out_first")
    gct.step_in_backward(ours, one)
    ours_hooks = hooks(ours)
    each = [torch.optim.AdamW([p], lr=1e-3, fused=True) for p in fused]
    whole = gct.AdamW(list(normal), lr=1e-3, plan="out_first")

    @torch.no_grad()  # as backward has it
    def in_backward() -> None:
        for p, grad, hook in zip(ours, grads, ours_hooks, strict=True):
            p.grad = grad
            hook(p)
        one.step()

    def one_by_one() -> None:
        for p, grad, optimizer in zip(fused, grads, each, strict=True):
            p.grad = grad
            optimizer.step()
            p.grad = None

    def afterwards() -> None:
        for p, grad in zip(normal, grads, strict=True):
            p.grad = grad
        whole.step()

    return {"torch fused": one_by_one, harness.AGAIN: one_by_one, "gc_torch": in_backward, "one step": afterwards}


def _peak(in_backward: bool, result: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(1024, 1024, bias=False) for _ in range(24)])
    optimizer = gct.AdamW(model, lr=1e-3)
    if in_backward:
        gct.step_in_backward(model, optimizer)
    x = torch.randn(8, 1024)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    for _ in range(3):
        step()
    optimizer.zero_grad()
    result.put(harness.peak_beyond(step))


def peak(in_backward: bool) -> float:
    """MiB of a training step above what there is before it."""
    context = multiprocessing.get_context("spawn")
    result = context.Queue()
    process = context.Process(target=_peak, args=(in_backward, result))
    process.start()
    found = result.get()
    process.join()
    return found


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = arguments.parse_args()
    rounds = asked.rounds
    torch.set_num_threads(asked.threads)
    found: list[dict[str, Any]] = []
    for name, some in WORKLOADS.items():
        seconds = harness.measure(steps(some), rounds)
        base = statistics.median(seconds["torch fused"])
        ratios = {peer: statistics.median(times) / base for peer, times in seconds.items()}
        # On a machine that others use the shortest times say more than the median.
        least = {peer: min(times) / min(seconds["torch fused"]) for peer, times in seconds.items()}
        found.append(dict(workload=name, milliseconds=base * 1e3, ratios=ratios, ratios_of_least=least))
        print(json.dumps(found[-1]), flush=True)
    memory = dict(
        gradients=24 * 1024 * 1024 * 4 / 2**20, in_backward=peak(in_backward=True), afterwards=peak(in_backward=False)
    )
    print(json.dumps(memory))
    result = dict(machine=harness.machine(), threads=asked.threads, steps=found, MiB=memory)
    path = harness.RESULTS / "torch_in_backward.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

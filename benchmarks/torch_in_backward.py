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
import multiprocessing
import warnings
from collections.abc import Callable
from dataclasses import replace
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
    torch.set_num_threads(asked.threads)
    cases = []
    for name, some in WORKLOADS.items():
        numbers = sum(one.numbers for one in some)
        # The parameter and two states, each read and written, and the gradient.
        case = harness.Case(
            name, "torch fused", numbers, len(some), 28 * numbers, harness.measure(steps(some), asked.rounds)
        )
        # On a machine that others use the shortest times say more than the medians.
        least = {peer: {"ratio of the shortest": min(times) / min(case.seconds[case.base])} for peer, times in case.seconds.items()}  # fmt: skip # noqa: E501
        cases.append(replace(case, extra=least))
        print(name, {peer: f"{case.ratio(peer):.3f}" for peer in case.seconds}, least, flush=True)
    memory = {
        "MiB of gradients": 24 * 1024 * 1024 * 4 / 2**20,
        "MiB of a training step, in backward": round(peak(in_backward=True), 1),
        "MiB of a training step, afterwards": round(peak(in_backward=False), 1),
    }
    print(memory)
    harness.save("torch_in_backward", {**harness.machine(), "threads": asked.threads, **memory}, cases)

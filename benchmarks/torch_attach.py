"""GC in front of AdamW of PyTorch, beside that optimizer and one pass over the gradients.

    python -m benchmarks.torch_attach [--rounds 15] [--threads 2]

GC reads and writes each gradient once. What stands beside it does the same, and then the same step:

    AdamW + mul_           p.grad.mul_ of each parameter that GC centralizes, then PyTorch's AdamW
    attach(AdamW)          the same AdamW, with GC in front of it

once with the loop, which PyTorch takes by itself on a CPU, and once with fused=True.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

import gc_torch as gct
from benchmarks import harness, shapes
from benchmarks.torch_model import Model

WORKLOADS = {
    "ResNet-50": shapes.resnet50(),
    "2,000 tensors of 1,024": [shapes.out_first(32, 32)] * 2000,
}


def steps(some: list[shapes.Shape], **options: Any) -> dict[str, Callable[[], None]]:
    """A step of each peer. Gradients stay: Φ of what is centralized is the same, and so is it times 1."""
    plain, ours = Model(some), Model(some)
    base = torch.optim.AdamW(plain.params, lr=1e-3, **options)
    optimizer = torch.optim.AdamW(ours.params, lr=1e-3, **options)
    gct.attach(optimizer, ours.module, plan=ours.plan)
    with_gc = [p for p, one in zip(plain.params, some, strict=True) if one.axes is not None]

    def one_pass() -> None:
        for p in with_gc:
            p.grad.mul_(1.0)  # type: ignore[union-attr]
        base.step()

    return {
        "AdamW + mul_": one_pass,
        harness.AGAIN: one_pass,
        "attach(AdamW)": optimizer.step,
        "AdamW": base.step,
    }


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments.add_argument("--dry", action="store_true", help="print only")
    asked = arguments.parse_args()
    torch.set_num_threads(asked.threads)
    cases = []
    for name, some in WORKLOADS.items():
        numbers, centralized = sum(one.numbers for one in some), sum(one.numbers for one in some if one.axes)
        # The parameter and two states, each read and written, and the gradient; which the pass reads and writes.
        floor = 28 * numbers + 8 * centralized
        for kind, options in (("AdamW", {}), ("AdamW, fused", {"fused": True})):
            seconds = harness.measure(steps(some, **options), asked.rounds)
            case = harness.Case(f"{name}, {kind}", "AdamW + mul_", numbers, len(some), floor, seconds)
            # On a machine that others use the shortest times say more than the medians.
            least = {peer: {"ratio of the shortest": min(times) / min(seconds[case.base])} for peer, times in seconds.items()}  # fmt: skip # noqa: E501
            cases.append(replace(case, extra=least))
            print(case.name, {peer: f"{case.ratio(peer):.3f}" for peer in seconds}, least, flush=True)
    if not asked.dry:
        harness.save("torch_attach", {**harness.machine(), "threads": asked.threads}, cases)

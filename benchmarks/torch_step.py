"""How long a step of gc_torch takes, beside centralizing p.grad in place and then taking PyTorch's fused step.

    python benchmarks/torch_step.py [--rounds 15] [--models resnet50 gpt2] [--optimizers SGD Adam AdamW]

The parameters are those of ResNet-50 and of GPT-2 (124M), with random gradients; nothing is trained. Every variant
takes one step in every round, in an order drawn anew, and is compared with PyTorch's fused step of that round. The
fused step is also there twice (A/A): what its two medians differ by is noise. Before timing, one step of each variant
is held against gc_core in float64. Needs some 6 GB of memory for GPT-2.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

import gc_core
import gc_torch as gct


def resnet50() -> tuple[nn.Module, dict]:
    """The layers of ResNet-50, without their wiring: 161 tensors, 25.6 million numbers."""
    layers: list[nn.Module] = []

    def conv(inputs: int, outputs: int, size: int) -> None:
        layers.extend([nn.Conv2d(inputs, outputs, size, bias=False), nn.BatchNorm2d(outputs)])

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
    return nn.Sequential(*layers, nn.Linear(inputs, 1000)), {}


def gpt2() -> tuple[nn.Module, dict]:
    """The layers of GPT-2, without their wiring: 148 tensors, 124 million numbers; matrices stored (in, out)."""
    layers: list[nn.Module] = [nn.Embedding(50257, 768), nn.Embedding(1024, 768)]
    for _ in range(12):
        layers.extend([nn.LayerNorm(768), nn.LayerNorm(768)])
        for inputs, outputs in ((768, 2304), (768, 768), (768, 3072), (3072, 768)):
            matrix = nn.Module()
            matrix.in_out = nn.Parameter(torch.randn(inputs, outputs) * 0.02)
            matrix.bias = nn.Parameter(torch.zeros(outputs))
            layers.append(matrix)
    return nn.Sequential(*layers, nn.LayerNorm(768)), {"*.in_out": 0}


MODELS = {"resnet50": resnet50, "gpt2": gpt2}
OPTIONS = {"SGD": dict(lr=1e-4, momentum=0.9), "Adam": dict(lr=1e-4), "AdamW": dict(lr=1e-4)}


def variants(model: nn.Module, plan: gct.ModelPlan, name: str) -> dict[str, Callable[[], None]]:
    """A step of each variant: they share parameters and gradients, and have states of their own."""
    options = OPTIONS[name]
    fused, again, after = (getattr(torch.optim, name)(model.parameters(), fused=True, **options) for _ in range(3))
    ours, ours_update = (getattr(gct, name)(model, plan=plan, gc_on=on, **options) for on in ("gradient", "update"))

    @torch.no_grad()
    def in_place() -> None:
        for p in model.parameters():
            row = plan.row_of(p)
            if row is not None and row.axes is not None:
                p.grad.sub_(p.grad.mean(row.axes, keepdim=True))
        after.step()

    return {
        "torch fused, no GC": fused.step,
        "the same again (A/A)": again.step,
        "in place, then fused": in_place,
        "gc_torch, gradient": ours.step,
        "gc_torch, update": ours_update.step,
    }


def check(model: nn.Module, plan: gct.ModelPlan, name: str) -> None:
    """One step of gc_torch against gc_core in float64, on every tensor of moderate size."""
    options = {**OPTIONS[name], "weight_decay": 0.1}
    before = [p.detach().clone() for p in model.parameters()]
    for on in ("gradient", "update"):
        getattr(gct, name)(model, plan=plan, gc_on=on, **options).step()
        for p, old in zip(model.parameters(), before, strict=True):
            row = plan.row_of(p)
            assert row is not None
            if p.numel() < 1 << 21:
                w, grad = (x.detach().double().numpy() for x in (old, p.grad))
                arguments = dict(**options, axis=row.axes, gc_on=on)
                if name == "SGD":
                    expected, _ = gc_core.sgdm_update(w, grad, gc_core.sgdm_init(w), **arguments)
                else:
                    arguments["decoupled"] = name == "AdamW"
                    expected, _ = gc_core.adam_update(w, grad, gc_core.adam_init(w), **arguments)
                # The first step of Adam is lr·sign(ĝ): next to ĝ = 0 float32 may take any part of it.
                close = np.isclose(p.detach().numpy(), expected, rtol=1e-6, atol=1e-9)
                assert close.mean() > 0.999, (name, on, row)
            with torch.no_grad():
                p.copy_(old)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", nargs="+", default=[*MODELS], choices=[*MODELS])
    parser.add_argument("--optimizers", nargs="+", default=[*OPTIONS], choices=[*OPTIONS])
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.rounds} rounds")
    for model_name in arguments.models:
        torch.manual_seed(0)
        model, overrides = MODELS[model_name]()
        plan = gct.plan(model, overrides)
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        size = sum(p.numel() for p in model.parameters())
        print(f"\n{model_name}: {len(plan)} tensors, {size:,} numbers")
        for name in arguments.optimizers:
            check(model, plan, name)
            steps = variants(model, plan, name)
            seconds: dict[str, list[float]] = {variant: [] for variant in steps}
            order = list(steps)
            for round_ in range(arguments.rounds + 2):  # the first two make the states
                random.shuffle(order)
                for variant in order:
                    start = time.perf_counter()
                    steps[variant]()
                    if round_ >= 2:
                        seconds[variant].append(time.perf_counter() - start)
            base = seconds["torch fused, no GC"]
            for variant, times in seconds.items():
                ratios = sorted(t / b for t, b in zip(times, base, strict=True))
                middle = statistics.median(ratios)
                low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
                print(
                    f"  {name:6}{variant:22}{1000 * statistics.median(times):8.1f} ms"
                    f"   × {middle:.2f}   (80 % of rounds: {low:.2f} to {high:.2f})"
                )


if __name__ == "__main__":
    main()

"""What a plan read from the program costs, beside one forward of the model on the same sample: time and memory.

Writes `benchmarks/results/plan_time.json`. The two are measured by turns in one process; the ratio is what counts.
"""

import json
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

import gc_torch as gct

FILE = Path("benchmarks/results/plan_time.json")
ROUNDS = 7


def gpt2() -> tuple[nn.Module, Any]:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval(), (torch.arange(128).view(1, 128),)


def resnet50() -> tuple[nn.Module, Any]:
    return transformers.ResNetForImageClassification(transformers.ResNetConfig()).eval(), (torch.rand(1, 3, 224, 224),)


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measured(make: Callable[[], tuple[nn.Module, Any]]) -> dict[str, Any]:
    model, batch = make()
    forward = torch.no_grad()(lambda: model(*batch))
    plan = lambda: gct.plan(model, batch=batch)  # noqa: E731
    forward(), plan()
    pairs = [(seconds(plan), seconds(forward)) for _ in range(ROUNDS)]
    tracemalloc.start()
    plan()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "plan_seconds": statistics.median(a for a, _ in pairs),
        "forward_seconds": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
        "peak_python_megabytes": peak / 1e6,
    }


if __name__ == "__main__":
    results = {name: measured(make) for name, make in {"GPT-2 124M": gpt2, "ResNet-50": resnet50}.items()}
    FILE.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))

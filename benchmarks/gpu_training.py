"""Two real training runs on a device, with GC and without: what they lose, and what share of the time is the step's.

    python -m benchmarks.gpu_training OUT.json [--small]

A convolutional net learns to tell generated textures apart (bfloat16 autocast), a small transformer to copy sequences
backwards (float16 autocast with a GradScaler). Nothing is read from a disk or a network.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gc_torch as gct
from benchmarks.gpu_ports import DEVICE, force

ON_GPU = DEVICE != "cpu"


class Net(nn.Module):
    """A small ResNet."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList()
        for i in range(3):
            inputs, outputs = width << i, width << (i + 1)
            self.blocks.append(
                nn.Sequential(
                    nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
                    nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
                )
            )  # fmt: skip
        self.head = nn.Linear(width << 3, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def textures(batch: int, size: int, classes: int) -> tuple[Tensor, Tensor]:
    """Waves whose direction is the class, under noise."""
    labels = torch.randint(classes, (batch,), device=DEVICE)
    angle = labels * (torch.pi / classes)
    y, x = torch.meshgrid(*[torch.arange(size, device=DEVICE, dtype=torch.float32)] * 2, indexing="ij")
    phase = torch.rand(batch, 1, 1, device=DEVICE) * 2 * torch.pi
    wave = torch.sin(0.9 * (angle.cos()[:, None, None] * x + angle.sin()[:, None, None] * y) + phase)
    return wave[:, None] + 0.5 * torch.randn(batch, 3, size, size, device=DEVICE), labels


class Copier(nn.Module):
    """A small causal transformer."""

    def __init__(self, width: int, layers: int, tokens: int, length: int):
        super().__init__()
        self.tokens, self.places = nn.Embedding(tokens, width), nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, tokens)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        return self.head(self.layers(self.tokens(x) + self.places(places), mask=self.mask, is_causal=True))


def backwards(batch: int, half: int, tokens: int) -> tuple[Tensor, Tensor]:
    """A sequence and then the same backwards, of which the second half can be known."""
    first = torch.randint(tokens, (batch, half), device=DEVICE)
    both = torch.cat([first, first.flip(1)], 1)
    return both[:, :-1], both[:, 1:]


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Callable[[], tuple[Tensor, Tensor]],
    loss_of: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, steps: int,
) -> dict[str, Any]:  # fmt: skip
    scaler = torch.amp.GradScaler(DEVICE, enabled=dtype == torch.float16, init_scale=2.0**12)
    losses, whole, parts = [], [], []
    for number in range(steps):
        x, y = batch()
        marks = [_mark()]
        optimizer.zero_grad()
        with torch.autocast(DEVICE, dtype):
            loss = loss_of(model(x), y)
        scaler.scale(loss).backward()
        marks.append(_mark())
        scaler.step(optimizer)
        scaler.update()
        marks.append(_mark())
        losses.append(loss.detach())
        if number >= steps // 4:  # what is compiled and chosen at first is not counted
            _wait()
            whole.append(_between(marks[0], marks[2]))
            parts.append(_between(marks[1], marks[2]))
    curve = torch.stack(losses).float().cpu()
    tenth = max(1, steps // 10)
    first, last = curve[:tenth].mean().item(), curve[-tenth:].mean().item()
    return {
        "loss at first": first,
        "loss at last": last,
        "ms an iteration": 1000 * statistics.median(whole),
        "ms a step": 1000 * statistics.median(parts),
        "share of the step": statistics.median(parts) / statistics.median(whole),
        "steps": steps,
    }


def _mark() -> Any:
    if not ON_GPU:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _wait() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def _between(start: Any, end: Any) -> float:
    return start.elapsed_time(end) / 1000 if ON_GPU else end - start


def runs(small: bool, done: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """All of them; `done` is given what there is after each."""
    width, size, steps = (4, 8, 8) if small else (64, 32, 400)
    half, layers, wide, batch = (4, 1, 16, 8) if small else (16, 4, 256, 256)
    found: dict[str, Any] = {}

    def keep(name: str, run: dict[str, Any]) -> None:
        found[name] = {**run, "learned": run["loss at last"] < 0.9 * run["loss at first"]}
        done(found)

    for name, on in (
        ("torch.optim fused, no GC", None),
        ("gc_torch, gradient", "gradient"),
        ("gc_torch, update", "update"),
    ):
        torch.manual_seed(0)
        net = Net(width, 8).to(DEVICE, memory_format=torch.channels_last)
        optimizer = _optimizer("SGD", net, on, lr=0.05, momentum=0.9, weight_decay=5e-4)
        run = train(
            net, optimizer, lambda: textures(batch, size, 8), nn.functional.cross_entropy, torch.bfloat16, steps
        )
        keep(f"ResNet, bfloat16 autocast, SGD: {name}", run)
        torch.manual_seed(0)
        copier = Copier(wide, layers, 16, 2 * half - 1).to(DEVICE)
        optimizer = _optimizer("AdamW", copier, on, lr=1e-3)
        # On a CPU, autocast has bfloat16 alone for all of this.
        dtype = torch.float16 if ON_GPU else torch.bfloat16
        run = train(
            copier, optimizer, lambda: backwards(batch, half, 16),
            lambda out, y: nn.functional.cross_entropy(out.flatten(0, 1).float(), y.flatten()), dtype, steps,
        )  # fmt: skip
        keep(f"transformer, {str(dtype)[6:]} autocast, AdamW: {name}", run)
    return found


def _optimizer(kind: str, model: nn.Module, on: str | None, **hyper: Any) -> torch.optim.Optimizer:
    if on is None:
        return getattr(torch.optim, kind)(model.parameters(), fused=True, **hyper)
    return getattr(gct, kind)(model, gc_on=on, **hyper)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    force("triton")
    file = Path(arguments.out)

    def write(found: dict[str, Any]) -> None:
        file.with_suffix(".new").write_text(json.dumps(found), encoding="utf-8")
        file.with_suffix(".new").replace(file)

    found = runs(arguments.small, write)
    bad = [name for name, run in found.items() if not run["learned"]]  # nor where a loss is not a number
    if bad and not arguments.small:
        sys.exit(f"did not learn: {', '.join(bad)}")


if __name__ == "__main__":
    main()

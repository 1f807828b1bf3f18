"""What is stepped on: the parameters of known models, as shapes with their fan-in axes (none without GC), and how."""

from collections.abc import Callable
from math import prod
from typing import NamedTuple


class Shape(NamedTuple):
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None

    @property
    def numbers(self) -> int:
        return prod(self.shape)


def out_first(*shape: int) -> Shape:
    return Shape(shape, tuple(range(1, len(shape))))


def resnet50() -> list[Shape]:
    found: list[Shape] = []

    def convolution(inputs: int, outputs: int, size: int) -> None:  # with its BatchNorm
        found.extend([out_first(outputs, inputs, size, size), Shape((outputs,)), Shape((outputs,))])

    convolution(3, 64, 7)
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            convolution(inputs, width, 1)
            convolution(width, width, 3)
            convolution(width, 4 * width, 1)
            if block == 0:
                convolution(inputs, 4 * width, 1)
            inputs = 4 * width
    return [*found, out_first(1000, inputs), Shape((1000,))]


def transformer(width: int, layers: int, *, in_out: bool) -> list[Shape]:
    found = []
    for inputs, outputs in ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)):
        found += [Shape((inputs, outputs), (0,)) if in_out else out_first(outputs, inputs), Shape((outputs,))]
    return (found + [Shape((width,))] * 4) * layers  # two LayerNorms


def vit_b16() -> list[Shape]:
    front = [out_first(768, 3, 16, 16), Shape((768,)), Shape((1, 1, 768)), Shape((1, 197, 768))]
    return [*front, *transformer(768, 12, in_out=False), Shape((768,)), Shape((768,)), out_first(1000, 768)]


def gpt2() -> list[Shape]:
    """Matrices are stored (in, out), as `transformers` has them."""
    return [Shape((50257, 768)), Shape((1024, 768)), *transformer(768, 12, in_out=True), *[Shape((768,))] * 2]


MODELS: dict[str, Callable[[], list[Shape]]] = {"ResNet-50": resnet50, "ViT-B/16": vit_b16, "GPT-2 124M": gpt2}

# What every table of steps has: the options, and how often a step passes over the parameters, at the least.
HYPER: dict[str, dict[str, float]] = {
    "SGD": dict(lr=1e-3, momentum=0.9, weight_decay=1e-4),
    "Adam": dict(lr=1e-3),
    "AdamW": dict(lr=1e-3, weight_decay=1e-2),
}
PASSES = {"SGD": 5, "Adam": 7, "AdamW": 7}

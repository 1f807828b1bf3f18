"""ResNet-8 for images of 32 × 32, and the variants that are compared."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from examples.reproduce.models import StandardizedConv2d


class CentredConv2d(nn.Conv2d):
    """A convolution whose input is centred: from each patch its mean over channels and kernel is subtracted.

    wᵀ(x − mean(x)·1) = (w − mean(w)·1)ᵀx, so that it is the weights that are centred here: one small tensor and not
    every patch. Its gradient for w is what GC makes of a convolution's: δ·(x − mean(x)·1).
    """

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


class CentredLinear(nn.Linear):
    """A linear layer whose input is centred over its features."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input - input.mean(-1, keepdim=True), self.weight, self.bias)


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut that has no parameters: every second pixel, and zeros for new channels."""

    def __init__(self, make: "Layers", into: int, out: int, stride: int):
        super().__init__()
        self.conv1, self.norm1 = make.conv(into, out, stride), make.norm(out)
        self.conv2, self.norm2 = make.conv(out, out), make.norm(out)
        self.stride, self.new = stride, out - into

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu_(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))
        return functional.relu_(y + shortcut)


class Layers:
    """How the layers of a variant are made."""

    def __init__(self, norm: str, standardized: bool, centred: bool):
        self.kind: type[nn.Conv2d] = StandardizedConv2d if standardized else CentredConv2d if centred else nn.Conv2d
        self.linear: type[nn.Linear] = CentredLinear if centred else nn.Linear
        makers: dict[str, Callable[[int], nn.Module]] = {
            "batch": nn.BatchNorm2d,
            "group": lambda channels: nn.GroupNorm(channels // 4, channels),
            "none": lambda channels: nn.Identity(),
        }
        self.norm = makers[norm]
        self.bias = norm == "none"

    def conv(self, into: int, out: int, stride: int = 1) -> nn.Conv2d:
        conv = self.kind(into, out, 3, stride, 1, bias=self.bias)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        return conv


class ResNet8(nn.Module):
    """He et al.'s network for CIFAR (arXiv 1512.03385), with one block a stage."""

    def __init__(self, classes: int = 10, norm: str = "batch", standardized: bool = False, centred: bool = False):
        super().__init__()
        make = Layers(norm, standardized, centred)
        self.conv, self.norm = make.conv(3, 16), make.norm(16)
        self.stage1, self.stage2, self.stage3 = Block(make, 16, 16, 1), Block(make, 16, 32, 2), Block(make, 32, 64, 2)
        self.fc = make.linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu_(self.norm(self.conv(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(x.mean((2, 3)))


# The layers that GC is for, from the input on.
LAYERS = ("conv", *(f"stage{stage}.conv{i}" for stage in (1, 2, 3) for i in (1, 2)), "fc")


def seeded(seed: int, **variant) -> ResNet8:
    """The network of this seed: variants of one seed start from the same weights."""
    torch.manual_seed(seed)
    return ResNet8(**variant).to(memory_format=torch.channels_last)

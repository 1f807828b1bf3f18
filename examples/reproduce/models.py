"""A ResNet with the variants that the paper compares: batch or group normalization, weight standardization, two stems.

Its parameters have torchvision's names, so that torchvision's weights load. Other networks come from torchvision or
timm.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from examples.reproduce.recipe import Recipe, Wrong

# blocks of each stage, bottleneck or basic, groups, and channels of a group where the first stage has 64
OWN = {
    "resnet18": ((2, 2, 2, 2), False, 1, 64),
    "resnet34": ((3, 4, 6, 3), False, 1, 64),
    "resnet50": ((3, 4, 6, 3), True, 1, 64),
    "resnet101": ((3, 4, 23, 3), True, 1, 64),
    "resnext50_32x4d": ((3, 4, 6, 3), True, 32, 4),
}


def build(recipe: Recipe, weights: Path | None) -> nn.Module:
    """The recipe's network, from pretrained weights where it asks for them."""
    if recipe.model in OWN:
        model: nn.Module = ResNet(recipe)
    else:
        model = foreign(recipe)
    if recipe.pretrained:
        load_weights(model, weights)
    return model


class StandardizedConv2d(nn.Conv2d):
    """Weight standardization: each filter is used less its mean and over its deviation."""

    def forward(self, input: Tensor) -> Tensor:
        var, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True, correction=0)
        return self._conv_forward(input, (self.weight - mean) * torch.rsqrt(var + 1e-10), self.bias)


class Block(nn.Module):
    """Two 3×3 convolutions, or 1×1, 3×3, 1×1, beside a shortcut."""

    def __init__(self, make: "Layers", inner: int, out: int, stride: int, bottleneck: bool, groups: int, into: int):
        super().__init__()
        kernels = ((1, 1, 1), (3, stride, groups), (1, 1, 1)) if bottleneck else ((3, stride, 1), (3, 1, 1))
        channels = [into, *[inner] * (len(kernels) - 1), out]
        self.depth = len(kernels)
        for i, (kernel, by, split) in enumerate(kernels):
            setattr(self, f"conv{i + 1}", make.conv(channels[i], channels[i + 1], kernel, by, split))
            setattr(self, f"bn{i + 1}", make.norm(channels[i + 1]))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or into != out:
            self.downsample = nn.Sequential(make.conv(into, out, 1, stride), make.norm(out))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.depth:
                y = self.relu(y)
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Layers:
    """How a recipe makes convolutions and normalizations."""

    def __init__(self, recipe: Recipe):
        self.kind: Callable[..., nn.Conv2d] = StandardizedConv2d if recipe.weight_standardization else nn.Conv2d
        self.group = recipe.norm == "gn"

    def conv(self, into: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
        conv = self.kind(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        return conv

    def norm(self, channels: int) -> nn.Module:
        return nn.GroupNorm(min(32, channels), channels) if self.group else nn.BatchNorm2d(channels)


class ResNet(nn.Module):
    """He et al.'s residual network (arXiv 1512.03385), with the stride in the 3×3 convolution."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        blocks, bottleneck, groups, of_group = OWN[recipe.model]
        make = Layers(recipe)
        into = recipe.width
        self.conv1 = make.conv(3, into, 3) if recipe.small_images else make.conv(3, into, 7, 2)
        self.bn1 = make.norm(into)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if recipe.small_images else nn.MaxPool2d(3, 2, 1)
        for stage, count in enumerate(blocks):
            planes = recipe.width * 2**stage
            inner, out = (planes * groups * of_group // 64, 4 * planes) if bottleneck else (planes, planes)
            layers = []
            for i in range(count):
                stride = 2 if stage and i == 0 else 1
                layers.append(Block(make, inner, out, stride, bottleneck, groups, into))
                into = out
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(into, recipe.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(self.avgpool(x).flatten(1))


def foreign(recipe: Recipe) -> nn.Module:
    """A network of torchvision, or else of timm."""
    if recipe.norm != "bn" or recipe.weight_standardization:
        raise Wrong(f"group normalization and weight standardization are there for {', '.join(OWN)} only")
    makers: dict[str, Callable[[Any], nn.Module]] = {
        "torchvision": lambda package: package.models.get_model(recipe.model, num_classes=recipe.classes),
        "timm": lambda package: package.create_model(recipe.model, num_classes=recipe.classes),
    }
    reasons = []
    for name, make in makers.items():
        try:
            model = make(importlib.import_module(name))
        except Exception as error:  # not installed, installed for another PyTorch, or without this model
            reasons.append(f"{name}: {type(error).__name__}: {error}")
            continue
        features: Any = getattr(model, "features", None)
        if recipe.small_images and hasattr(features, "conv0") and hasattr(features, "pool0"):  # DenseNet
            features.conv0 = nn.Conv2d(3, features.conv0.out_channels, 3, padding=1, bias=False)
            features.pool0 = nn.Identity()
        return model
    raise Wrong(
        f"the model {recipe.model} must come from torchvision or timm (pip install torchvision, for your PyTorch); "
        f"without them there are {', '.join(OWN)}. " + "; ".join(reasons)
    )


def head(model: nn.Module) -> str:
    """The name of the last linear layer, which gives the classes."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]


def load_weights(model: nn.Module, file: Path | None) -> None:
    """Pretrained weights from a file, all but the last layer's."""
    if file is None:
        raise Wrong("this recipe starts from pretrained weights: give their file with --weights")
    if not file.is_file():
        raise Wrong(f"--weights {file} is not a file")
    try:
        if file.suffix == ".safetensors":
            weights = importlib.import_module("safetensors.torch").load_file(file)
        else:
            weights = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # neither format says what a broken file raises
        raise Wrong(f"--weights {file} cannot be read: {type(error).__name__}: {error}") from None
    last = head(model)
    kept = {name: value for name, value in weights.items() if name.rpartition(".")[0] != last}
    own = {name for name in model.state_dict() if name.rpartition(".")[0] != last}
    if odd := sorted(own ^ kept.keys()):
        raise Wrong(f"--weights {file} is of another network: {', '.join(odd[:5])} in one and not in the other")
    try:
        model.load_state_dict(kept, strict=False)
    except RuntimeError as error:
        raise Wrong(f"--weights {file} is of another network: {error}") from None

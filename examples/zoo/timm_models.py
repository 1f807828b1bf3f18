"""One model of each family of timm, the smallest by its name, and torchvision's, a small one of each page."""

from collections.abc import Iterator
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from examples.zoo.model import Model

SMALL = ("atto", "femto", "pico", "nano", "xxs", "xxt", "_xs", "tiny", "_t", "mini", "micro", "lite", "small", "_s")


def models() -> Iterator[Model]:
    for family in timm.list_modules():
        names = timm.list_models(module=family)
        if names:
            name = min(names, key=_size)
            build = lambda name=name: timm.create_model(name, pretrained=False, num_classes=10)  # noqa: E731
            yield Model("timm", f"{family}: {name}", build, _images)
    pages: dict[str, list[str]] = {}
    for name in torchvision.models.list_models():
        pages.setdefault(torchvision.models.get_model_builder(name).__module__, []).append(name)
    for names in pages.values():
        name = min(names, key=_size)
        yield Model("torchvision", name, lambda name=name: _torchvision(name), _of_torchvision)


def _size(name: str) -> tuple[int, int]:
    ranks = [i for i, word in enumerate(SMALL) if word in name]
    digits = [int(part) for part in "".join(c if c.isdigit() else " " for c in name).split()]
    return (min(ranks, default=len(SMALL)), max(digits, default=0))


def _torchvision(name: str) -> nn.Module:
    options: dict[str, Any] = {"weights": None}
    if "detection" in torchvision.models.get_model_builder(name).__module__ or "segmentation" in (
        torchvision.models.get_model_builder(name).__module__
    ):
        options["weights_backbone"] = None
    return torchvision.models.get_model(name, **options).eval()


def _images(model: Any) -> Iterator[Any]:
    size = (getattr(model, "default_cfg", None) or {}).get("input_size", (3, 224, 224))
    yield torch.rand(1, *size)
    yield torch.rand(2, 3, 256, 256)


def _of_torchvision(model: Any) -> Iterator[Any]:
    yield torch.rand(1, 3, 224, 224)
    yield ([torch.rand(3, 128, 128)],)
    yield torch.rand(1, 3, 4, 112, 112)
    yield torch.rand(1, 3, 16, 224, 224)
    yield (torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128))

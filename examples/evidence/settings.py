"""What a run is: a setting of one of three kinds, and a seed.

A key names it by what differs from the defaults, so that an option that is added later leaves the names of older runs
as they are.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

GC = ("off", "gradient", "update")


@dataclass(frozen=True)
class Images:
    """ResNet-8 on CIFAR-10."""

    images: int = 2000  # that are trained on
    epochs: int = 20
    rule: str = "SGD"  # or "AdamW"
    lr: float = 0.1
    decay: float = 5e-4
    gc: str = "off"
    schedule: str = "steps"  # or "cycle"
    batch: int = 64
    norm: str = "batch"  # or "group" or "none"
    standardized: bool = False  # weight standardization
    centred: bool = False  # the inputs of every layer are centred over its features, by hand
    pixels: str = "standard"  # or "raw": in [0, 1]
    layers: str = "all"  # or "only NAME" or "not NAME": where GC goes


@dataclass(frozen=True)
class Tuning:
    """ResNet-8 tuned on five classes of CIFAR-10, from fresh weights or from those of the other five."""

    shots: int = 10  # images of each class
    start: str = "trained"  # or "fresh"
    epochs: int = 100
    batch: int = 50
    lr: float = 0.01
    decay: float = 5e-4
    gc: str = "off"
    standardized: bool = False
    before_images: int = 5000  # that the other five classes are trained on
    before_epochs: int = 20


@dataclass(frozen=True)
class Text:
    """A character-level transformer on one text."""

    steps: int = 1500
    batch: int = 32
    context: int = 64
    layers: int = 4
    width: int = 128
    heads: int = 4
    lr: float = 1e-3
    decay: float = 0.1
    gc: str = "off"
    embeddings: bool = False  # GC on embeddings too


Setting = Images | Tuning | Text
KINDS: dict[str, type] = {"images": Images, "tuning": Tuning, "text": Text}


class Cell(NamedTuple):
    """One run."""

    setting: Setting
    seed: int

    @property
    def kind(self) -> str:
        return next(kind for kind, cls in KINDS.items() if type(self.setting) is cls)

    @property
    def key(self) -> str:
        """For example `images epochs=10 gc=gradient seed=3`."""
        words = [f"{name}={value}" for name, value in changed(self.setting).items()]
        return " ".join([self.kind, *words, f"seed={self.seed}"])

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "setting": changed(self.setting), "seed": self.seed}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> "Cell":
        return cls(KINDS[found["kind"]](**found["setting"]), found["seed"])


def changed(setting: Setting) -> dict[str, Any]:
    """The options that are not the defaults, in the order of the fields."""
    return {
        field.name: getattr(setting, field.name)
        for field in dataclasses.fields(setting)
        if getattr(setting, field.name) != field.default
    }

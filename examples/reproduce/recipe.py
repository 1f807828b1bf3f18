"""What a recipe says: a TOML file, one of its variants, and one of its optimizers make one flat `Recipe`."""

import dataclasses
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

FOLDER = Path(__file__).with_name("recipes")
GC = ("gradient", "update", "off")


NOT_OF_A_RUN = ("variants", "optimizers", "paper", "measures", "note")


class Wrong(Exception):
    """Something the user can put right; its text says what."""


@dataclass(frozen=True)
class Recipe:
    """One experiment: data, model, optimizer and schedule."""

    # data
    format: str  # "cifar100", "folders" or "coco"
    classes: int
    crop: int  # side of the square the network sees
    mean: list[float]
    std: list[float]
    resize: int = 0  # the shorter side before a crop; 0: as it is
    pad: int = 0  # zeros around the image before a random crop
    random_resized: bool = False  # crop a random part of random shape, as for ImageNet
    train: str = "train"  # the folders of an image folder data set
    test: str = "val"
    # model
    model: str = "resnet50"
    width: int = 64  # channels of our own ResNets' first stage
    norm: str = "bn"  # "bn" or "gn"
    weight_standardization: bool = False
    small_images: bool = False  # a 3×3 stem without pooling
    pretrained: bool = False  # needs --weights
    backbone: str = ""  # for coco: torchvision's name of the backbone's weights
    # optimizer
    optimizer: str = "sgd"  # "sgd", "adam", "adamw" or "adagrad"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    head_lr: float = 0.0  # learning rate of the last layer; 0: as the others
    gc_linear: bool = True  # False: GC on convolutions only
    # schedule
    epochs: int = 100
    batch: int = 128
    milestones: tuple[int, ...] = ()  # epochs at whose start the learning rate is multiplied by gamma
    gamma: float = 0.1
    # what to say
    measure: str = "top-1 error, %"  # or "accuracy, %"


def names() -> list[str]:
    """The recipes there are."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read(name: str) -> dict[str, Any]:
    """A recipe file as it stands."""
    if name not in names():
        raise Wrong(f"there is no recipe {name!r}; there are {', '.join(names())}")
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def load(name: str, variant: str, optimizer: str, settings: list[str]) -> Recipe:
    """The recipe of this variant and optimizer; settings are TOML lines that have the last word."""
    file = read(name)
    merged = {key: value for key, value in file.items() if key not in NOT_OF_A_RUN}
    for kind, chosen in (("variants", variant), ("optimizers", optimizer)):
        if chosen not in file[kind]:
            raise Wrong(f"recipe {name} has no {kind[:-1]} {chosen!r}; it has {', '.join(file[kind])}")
        merged.update(file[kind][chosen])
    for line in settings:
        try:
            merged.update(tomllib.loads(line))
        except tomllib.TOMLDecodeError as error:
            raise Wrong(f"--set {line!r} must be a line of TOML such as batch=64: {error}") from None
    return checked(merged)


def checked(values: dict[str, Any]) -> Recipe:
    """A Recipe of these values, each of the type that its field has."""
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    if unknown := values.keys() - fields.keys():
        raise Wrong(f"unknown setting {sorted(unknown)}; a recipe has {', '.join(fields)}")
    for name, value in values.items():
        wanted: Any = get_origin(fields[name].type) or fields[name].type
        if (wanted, type(value)) in ((float, int), (tuple, list)):
            values = {**values, name: wanted(value)}
        elif type(value) is not wanted:
            raise Wrong(f"{name} must be a {wanted.__name__}; got {value!r}")
        if wanted is float and not (math.isfinite(value) and value >= 0):
            raise Wrong(f"{name} must be a finite number, 0 or more; got {value!r}")
    recipe = Recipe(**values)
    for name in ("classes", "crop", "width", "epochs", "batch"):
        if getattr(recipe, name) < 1:
            raise Wrong(f"{name} must be at least 1; got {getattr(recipe, name)}")
    for name, allowed in (
        ("format", ("cifar100", "folders", "coco")),
        ("norm", ("bn", "gn")),
        ("optimizer", ("sgd", "adam", "adamw", "adagrad")),
    ):
        if getattr(recipe, name) not in allowed:
            raise Wrong(f"{name} must be one of {', '.join(allowed)}; got {getattr(recipe, name)!r}")
    return recipe

"""COCO: torchvision's own reference training, run as it stands, with our SGD in the place of PyTorch's.

torchvision's repository has it under references/detection; it is not in the installed package. Its train.py hands
`torch.optim.SGD` a list of parameters. Ours takes the name for the time of that call, and plans for the model that owns
them: a Mask R-CNN has a transposed convolution, whose fan-in no shape shows.
"""

import gc
import importlib
import json
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

import gc_torch as gct
from examples.reproduce import data
from examples.reproduce.recipe import Recipe, Wrong

MEASURES = {"bbox": "box AP", "segm": "mask AP"}


def train(
    recipe: Recipe, place: str, seed: int, folder: Path, out: Path, checked: Path, reference: Path | None, device: str
) -> dict[str, float]:
    """Run the reference's train.py with this recipe. Returns the AP of the last epoch, in per cent."""
    check(folder, checked)
    if reference is None or not (reference / "train.py").is_file():
        raise Wrong(
            "--reference must be the folder references/detection of torchvision's repository, with its train.py"
        )
    options = {
        "data-path": folder, "dataset": "coco", "model": recipe.model, "device": device, "epochs": recipe.epochs,
        "batch-size": recipe.batch, "lr": recipe.lr, "momentum": recipe.momentum, "weight-decay": recipe.weight_decay,
        "lr-gamma": recipe.gamma, "output-dir": out,
    }  # fmt: skip
    if recipe.backbone:
        options["weights-backbone"] = recipe.backbone
    if (out / "checkpoint.pth").exists():
        options["resume"] = out / "checkpoint.pth"
    steps = ["--lr-steps", *map(str, recipe.milestones)] if recipe.milestones else []
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))] + steps

    torch.manual_seed(seed)
    with imported_from(reference), our_sgd(place) as made:
        found = remembered(importlib.import_module("engine"))
        register(recipe.model)
        sys.argv = [str(reference / "train.py"), *arguments]
        runpy.run_path(sys.argv[0], run_name="__main__")
    if not made:
        raise Wrong(f"{reference / 'train.py'} made no torch.optim.SGD: nothing was trained with our optimizer")
    if not found:
        raise Wrong("nothing was evaluated: the run was finished already")
    return found


@contextmanager
def imported_from(reference: Path) -> Iterator[None]:
    """The reference's files import each other by bare names."""
    arguments, modules = sys.argv, set(sys.modules)
    sys.path.insert(0, str(reference))
    try:
        yield
    finally:
        sys.path.remove(str(reference))
        sys.argv = arguments
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(reference)):
                del sys.modules[name]


@contextmanager
def our_sgd(place: str) -> Iterator[list[gct.SGD]]:
    """`torch.optim.SGD` is ours, with the plan of the model that owns its parameters. Yields what was made."""
    own, made = torch.optim.SGD, []

    def sgd(params: Any, *args: Any, **options: Any) -> gct.SGD:
        torch.optim.SGD = own  # ours is a subclass, and asks for it
        params = list(params)
        plan = gct.plan(owner(params))
        print(plan)
        made.append(gct.SGD(params, *args, **options, plan=plan, gc_on=None if place == "off" else place))
        return made[-1]

    torch.optim.SGD = sgd  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield made
    finally:
        torch.optim.SGD = own


def owner(params: list[Any]) -> nn.Module:
    """The module that has all of these parameters, or groups of them."""
    flat = [p for group in params for p in (group["params"] if isinstance(group, dict) else [group])]
    wanted = {id(p) for p in flat}
    for thing in gc.get_objects():
        if issubclass(type(thing), nn.Module) and wanted <= {id(p) for p in thing.parameters()}:
            return thing
    raise Wrong("torch.optim.SGD got parameters that no one module owns")


def remembered(engine: Any) -> dict[str, float]:
    """What `engine.evaluate` last found, filled in while the training runs."""
    own, found = engine.evaluate, {}

    def evaluate(*args: Any, **options: Any) -> Any:
        evaluator = own(*args, **options)
        for kind, result in evaluator.coco_eval.items():
            found[MEASURES.get(kind, kind)] = 100 * float(result.stats[0])
        return evaluator

    engine.evaluate = evaluate
    return found


def register(model: str) -> None:
    """Give torchvision the detectors it has no builder of: on ResNet-101 and ResNeXt-101."""
    kind, _, backbone = model.partition("rcnn_")
    if not backbone.startswith(("resnet101", "resnext101")):
        return
    try:
        models = importlib.import_module("torchvision").models
    except Exception as error:  # not installed, or installed for another PyTorch
        raise Wrong(f"torchvision cannot be imported ({error}): pip install torchvision, for your PyTorch") from None
    detector = {"faster": models.detection.FasterRCNN, "mask": models.detection.MaskRCNN}[kind]

    def build(weights=None, weights_backbone=None, num_classes=91, trainable_backbone_layers=None, **options):
        body = models.detection.backbone_utils.resnet_fpn_backbone(
            backbone_name=backbone.removesuffix("_fpn"),
            weights=models.get_weight(weights_backbone) if weights_backbone else None,
            trainable_layers=trainable_backbone_layers or (3 if weights_backbone else 5),
        )
        return detector(body, num_classes, **options)

    if model not in models.list_models():
        # Private in torchvision, whose get_model finds a builder by nothing else.
        importlib.import_module("torchvision.models._api").register_model(name=model)(build)


def check(folder: Path, checked: Path) -> None:
    """train2017/, val2017/ and annotations/instances_*.json are there, whole, and speak of the same images."""
    files = []
    for part in ("train2017", "val2017"):
        notes = folder / "annotations" / f"instances_{part}.json"
        try:
            named = [image["file_name"] for image in json.loads(notes.read_bytes())["images"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Wrong(f"{notes} cannot be read: {type(error).__name__}: {error}") from None
        files += [folder / part / name for name in named]
    if missing := [str(file) for file in files if not file.is_file()]:
        raise Wrong(f"{len(missing)} of {len(files)} images are missing: {', '.join(missing[:5])}")
    data.verify(files, checked)

"""The data sets in the formats they are published in. Every file is read once, and found to be whole, before training.

What an image looks like to the network depends on the seed, the epoch and its place in the list, and on nothing else:
so a run that goes on after a break sees what it would have seen.
"""

import hashlib
import io
import pickle
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from examples.reproduce.recipe import Recipe, Wrong

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}
THREADS = 8  # that decode images; Pillow lets go of the interpreter meanwhile


class Images:
    """A list of images with labels; the images are arrays (height, width, 3), or files to be opened when needed."""

    def __init__(self, images: Any, labels: list[int]):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, index: int) -> Image.Image:
        image = self.images[index]
        return Image.fromarray(image) if isinstance(image, np.ndarray) else Image.open(image).convert("RGB")


def load(recipe: Recipe, folder: Path, checked: Path) -> tuple[Images, Images]:
    """Training and test images. `checked` is where it is noted which image folders were found to be whole."""
    if not folder.is_dir():
        raise Wrong(f"--data {folder} is not a folder")
    if recipe.format == "cifar100":
        return cifar100(folder)
    train, test = image_folder(folder / recipe.train), image_folder(folder / recipe.test)
    if train[1] != test[1]:
        odd = sorted(set(train[1]) ^ set(test[1]))
        raise Wrong(f"{folder}: {recipe.train} and {recipe.test} must have the same classes; only one has {odd[:5]}")
    if len(train[1]) != recipe.classes:
        raise Wrong(f"{folder / recipe.train} has {len(train[1])} folders; the recipe has {recipe.classes} classes")
    verify([*train[0].images, *test[0].images], checked)
    return train[0], test[0]


# ---- CIFAR-100: pickles


ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class Restricted(pickle.Unpickler):
    """Builds arrays, and calls nothing else: a pickle could otherwise run whatever its author liked."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of CIFAR-100")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def cifar100(folder: Path) -> tuple[Images, Images]:
    """`cifar-100-python.tar.gz` as published, or the folder `cifar-100-python` that it unpacks to."""
    archive, unpacked = folder / "cifar-100-python.tar.gz", folder / "cifar-100-python"
    if not unpacked.is_dir() and not archive.is_file():
        raise Wrong(f"{folder} must hold cifar-100-python.tar.gz or the folder cifar-100-python; it has neither")
    parts = []
    for name in ("train", "test"):
        where = unpacked / name if unpacked.is_dir() else Path(f"{archive}:cifar-100-python/{name}")
        try:
            if unpacked.is_dir():
                content = where.read_bytes()
            else:
                with tarfile.open(archive) as tar:
                    member = tar.extractfile(f"cifar-100-python/{name}")
                    content = member.read() if member else b""
            parts.append(images_of(Restricted(io.BytesIO(content), encoding="bytes").load()))
        except Exception as error:  # a broken pickle can raise anything
            raise Wrong(f"{where} cannot be read: {type(error).__name__}: {error}") from None
    return parts[0], parts[1]


def images_of(batch: Any) -> Images:
    """{b"data": (n, 3072) bytes, all red before all green before all blue; b"fine_labels": n numbers below 100}."""
    data, labels = batch[b"data"], [int(label) for label in batch[b"fine_labels"]]
    if data.dtype != np.uint8 or data.shape != (len(labels), 3072) or not 0 <= min(labels) <= max(labels) < 100:
        raise ValueError(f"{data.dtype} of shape {data.shape} with {len(labels)} labels is not CIFAR-100")
    return Images(np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels)


# ---- Image folders


def image_folder(folder: Path) -> tuple[Images, list[str]]:
    """folder/CLASS/…/IMAGE: the images in the order of their names, and the names of the classes."""
    if not folder.is_dir():
        raise Wrong(f"{folder} is missing: images are expected as {folder}/CLASS/IMAGE")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        own = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not own:
            raise Wrong(f"{folder / name} holds no image ({', '.join(sorted(SUFFIXES))})")
        files += own
        labels += [label] * len(own)
    return Images(files, labels), classes


def verify(files: list[Path], checked: Path) -> None:
    """Decode every file once, as small as the format allows. A listing that was found whole is not read again."""
    listing = "\n".join(f"{file} {(stat := file.stat()).st_size} {stat.st_mtime_ns}" for file in files)
    mark = checked / hashlib.sha256(listing.encode()).hexdigest()
    if mark.exists():
        return
    with ThreadPoolExecutor(THREADS) as pool:
        broken = [line for line in pool.map(wrong_with, files) if line]
    if broken:
        more = f"\nand {len(broken) - 10} more" if len(broken) > 10 else ""
        raise Wrong(f"{len(broken)} of {len(files)} images cannot be read:\n" + "\n".join(broken[:10]) + more)
    checked.mkdir(parents=True, exist_ok=True)
    mark.touch()


def wrong_with(file: Path) -> str | None:
    """What is wrong with an image file, with its name, or None."""
    try:
        with Image.open(file) as image:
            image.draft("RGB", (32, 32))
            image.load()
    except Exception as error:  # decoders raise many kinds
        return f"{file}: {type(error).__name__}: {error}"
    return None


# ---- Batches


def batches(images: Images, recipe: Recipe, seed: int, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """The training batches of an epoch from the first-th on, without the incomplete last one."""
    order = np.random.default_rng([seed, epoch]).permutation(len(images))
    whole = len(order) // recipe.batch
    chosen = [order[i * recipe.batch : (i + 1) * recipe.batch] for i in range(first, whole)]
    yield from _loaded(images, recipe, chosen, lambda index: np.random.default_rng([seed, epoch, index]))


def test_batches(images: Images, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Every test image, in order."""
    order = np.arange(len(images))
    chosen = [order[i : i + recipe.batch] for i in range(0, len(order), recipe.batch)]
    yield from _loaded(images, recipe, chosen, lambda index: None)


def _loaded(images: Images, recipe: Recipe, chosen: list[np.ndarray], rng: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches as tensors; the next one is prepared while one is used."""
    mean, std = (np.array(x, np.float32) for x in (recipe.mean, recipe.std))

    def one(index: int) -> np.ndarray:
        picture = view(images.picture(index), recipe, rng(index))
        return ((np.asarray(picture, np.float32) / 255 - mean) / std).transpose(2, 0, 1)

    with ThreadPoolExecutor(THREADS) as pool:
        ahead = [pool.map(one, indices) for indices in chosen[:1]]
        for i, indices in enumerate(chosen):
            if i + 1 < len(chosen):
                ahead.append(pool.map(one, chosen[i + 1]))
            x = torch.from_numpy(np.stack(list(ahead.pop(0))))
            yield x, torch.tensor([images.labels[index] for index in indices])


def view(picture: Image.Image, recipe: Recipe, rng: np.random.Generator | None) -> Image.Image:
    """The crop that the network sees: random, and mirrored half of the time, in training; the middle in testing."""
    size = recipe.crop
    if rng is not None and recipe.random_resized:
        picture = picture.resize((size, size), Image.Resampling.BILINEAR, box=random_box(*picture.size, rng))
    else:
        if recipe.resize:
            scale = recipe.resize / min(picture.size)
            picture = picture.resize(
                [max(size, round(side * scale)) for side in picture.size], Image.Resampling.BILINEAR
            )
        pad = recipe.pad if rng is not None else 0
        room = [side + 2 * pad - size for side in picture.size]
        if min(room) < 0:
            raise Wrong(f"an image of {picture.size} is smaller than the crop of {size}: set resize")
        left, top = (int(rng.integers(r + 1)) if rng is not None else r // 2 for r in room)
        picture = picture.crop((left - pad, top - pad, left - pad + size, top - pad + size))
    if rng is not None and rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return picture


def random_box(width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A part of 8 to 100 per cent of the area, with sides in a ratio of 3:4 to 4:3, anywhere in the image."""
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1.0)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = np.sqrt(area * ratio), np.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side

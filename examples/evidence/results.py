"""The lines of results: one JSON object for each run that is done, in one file for each kind, only ever appended to."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from examples.evidence.settings import KINDS, Cell

SPENT = "spent.jsonl"  # how long each run took: a time is never twice the same, and results are


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Every line by the key of its cell. A last line without its end, from a machine that died, is left out."""
    found = {}
    for kind in KINDS:
        for line in whole_lines(folder / f"{kind}.jsonl"):
            one = json.loads(line)
            found[Cell.from_dict(one).key] = one
    return found


def spent(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in whole_lines(folder / SPENT)]


def whole_lines(path: Path) -> Iterable[str]:
    if not path.is_file():
        return []
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def append(folder: Path, line: str, kind: str) -> None:
    """One more line: in one write, behind whole lines, and on the disk when this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (SPENT if kind == "spent" else f"{kind}.jsonl")
    content = path.read_bytes() if path.is_file() else b""
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(out, line.encode() + b"\n")
        os.fsync(out)
    finally:
        os.close(out)


def rounded(value: Any) -> Any:
    """Five digits of what is drawn as a curve; JSON has no NaN or infinity: null."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [float(f"{one:.5g}") if isinstance(one, float) and math.isfinite(one) else rounded(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

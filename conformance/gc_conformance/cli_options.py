"""What the commands share: their options, how a report is written, and what is said when one cannot run."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from . import formats
from .registry import CHAPTERS, VERSION

# Written out, because type checkers cannot read LEVELS and PROFILES; a test holds them equal.
Level = Literal["axes-given", "gc", "contract"]
Profile = Literal["quick", "standard", "thorough"]

LevelOption = Annotated[
    Level,
    typer.Option(
        help="axes-given: the mathematics, where axes are given. gc: their choice, too. contract: the errors."
    ),
]
ProfileOption = Annotated[Profile, typer.Option(help="How many examples a property gets.")]
SeedOption = Annotated[int, typer.Option(help="Of all examples.")]
ChapterOption = Annotated[list[str] | None, typer.Option(help=f"Only this of {', '.join(CHAPTERS)}; may be repeated.")]
SuiteOption = Annotated[int, typer.Option(min=1, max=VERSION, help="Judge as this version of the suite did.")]
LimitOption = Annotated[float, typer.Option(min=0.1, help="Seconds that one call of the port may take.")]
CallOption = Annotated[bool, typer.Option("--call", help="PORT is a class or a function that makes the port.")]
CommandOption = Annotated[
    list[str] | None,
    typer.Option("--command", help="A program that is a port; may be repeated. See docs/conformance.md."),
]
PORT = "package.module[:attribute], or file.py[:function]."


class CannotRun(Exception):
    """Said to the user in one line; exit code 2."""


def write(file: Path, text: str, append: bool = False) -> None:
    """Write a report to a file, or to the standard output for "-".

    Raises:
        CannotRun: it cannot be written.
    """
    if str(file) == "-":
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(text)
            sys.stdout.flush()
        return
    try:
        before = file.read_text(encoding="utf-8") if append and file.exists() else ""
        formats.write(file, before + text)
    except OSError as error:
        raise CannotRun(f"{file} cannot be written: {error}") from error

"""What people see of a run in a terminal: the progress bar, the table, the failures by cause, the verdict."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from .loading import COMMAND
from .result import PropertyResult, Status
from .runner import PROFILES
from .runner import Progress as OnProgress
from .vectors import Checked
from .verdict import CANNOT, CONFORMS, DOES_NOT, Verdict

STYLES = {"passed": "green", "failed": "bold red", "known failure": "yellow", "not provided": "dim"}
MARKS = {"passed": "✓", "failed": "✗", "known failure": "!", "not provided": "–"}
PLAIN = str.maketrans({"✓": "+", "✗": "x", "–": "-", "…": "...", "−": "-", "²": "^2", "ᵀ": "'", "·": "."})
IN_FULL = 5  # causes shown with counterexample and reproduction; a terminal names the others, a page folds them


class Screen(Console):
    """A console whose stream can always be written to: it never decides how a run ends.

    What the stream's encoding lacks is written plainly or escaped, and a reader that has gone away is no error.
    """

    def __init__(self, stderr: bool = False):
        stream = sys.stderr if stderr else sys.stdout
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        super().__init__(file=stream, emoji=False, highlight=False)
        if not self.is_terminal:
            self.width = 160  # a pipe or a file has no width of its own
        try:
            "".join(MARKS.values()).encode(stream.encoding or "ascii")
            self.plain = False
        except (UnicodeEncodeError, LookupError):
            self.plain = True

    def text(self, text: str) -> str:
        return text.translate(PLAIN) if self.plain else text

    def line(self, text: str = "", style: str = "") -> None:
        """One line, as it is, however long: what is copied from a terminal must not have been wrapped."""
        self.print(Text(self.text(text), style), soft_wrap=True)

    def on_broken_pipe(self) -> None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(nothing, self.file.fileno())


@contextmanager
def progress_bar(port: str) -> Iterator[OnProgress]:
    """A bar on a terminal's stderr, gone when done; nothing anywhere else."""
    console = Screen(stderr=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(port, total=None)

        def show(index: int, total: int, id: str, result: PropertyResult | None) -> None:
            bar.update(task, total=total, completed=index + (result is not None), description=f"{port}  {id}".rstrip())

        yield show


def configuration(verdict: Verdict) -> dict[str, str]:
    """What was asked, and of what: the echo at the head of every report."""
    result = verdict.result
    profile = f"{result.profile} ({PROFILES[result.profile]} examples a property)"
    return {
        "port": result.port if result.port == result.target else f"{result.port} ({result.target})",
        "dtypes": ", ".join(result.dtypes),
        "judged": f"level {result.level}, profile {profile}, seed {result.seed}, version {result.suite} of the suite",
        "with": ", ".join(f"{name} {version}" for name, version in result.versions.items() if name != "suite"),
    }


def again(verdict: Verdict, result: PropertyResult) -> str:
    """The command that judges this property alone, with the same cases."""
    run = verdict.result
    command = run.target.startswith(COMMAND)
    target = ["--command", run.target.removeprefix(COMMAND).strip()] if command else [run.target]
    words = ["gc-conformance", "run", *target, "--property", result.id, "--profile", run.profile]
    return shlex.join([*words, "--seed", str(run.seed)])


def rows(verdict: Verdict) -> Iterator[tuple[str, list[PropertyResult], bool]]:
    """(chapter, its results, folded): a chapter of which the port provides nothing needs one row."""
    for chapter, results in verdict.result.chapters():
        yield chapter, list(results), all(result.status == "not provided" for result in results)


def count(verdict: Verdict, results: Sequence[PropertyResult]) -> Text:
    found = [verdict.status(result) for result in results]
    parts = [(f"{found.count(name)} {name}", style) for name, style in STYLES.items() if name in found]
    return Text(", ").join(Text(*part) for part in parts)


def _grid(headers: Sequence[str], rows: Sequence[Sequence[Text | str]], width: int, right: str = "") -> Table:
    """A table of single lines, of which a narrow terminal cuts the last column and nothing else."""
    lines = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    grid = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 1))
    room = width
    for header, *cells in zip(headers, *lines, strict=True):
        column = max([cell_len(header), *(cell.cell_len for cell in cells)])
        grid.add_column(
            header, no_wrap=True, min_width=min(column, room), justify="right" if header == right else "left"
        )
        if header == headers[-1]:
            for cell in cells:
                cell.truncate(max(room, 10), overflow="ellipsis")
        room -= column + 2
    for line in lines:
        grid.add_row(*line)
    return grid


def table(verdict: Verdict, screen: Screen) -> Table:
    """Chapters and their properties."""
    lines: list[tuple[Text | str, ...]] = []
    for chapter, results, folded in rows(verdict):
        counts = count(verdict, results)
        lines.append(
            (Text(chapter, "bold"), "", "", counts + Text(f": {results[0].message}", "dim") if folded else counts)
        )
        for result in () if folded else results:
            status = verdict.status(result)
            what = Text(result.message, "dim") if status == "not provided" else Text(result.title)
            how = f" ({result.how})" if status == "failed" and result.how not in ("", "wrong", "raises") else ""
            mark = Text(screen.text(f"{MARKS[status]} {status}{how}"), STYLES[status])
            lines.append((f"  {result.id.partition('.')[2]}", mark, str(result.examples or ""), what))
            if status == "passed" and result.message:
                lines.append(("", "", "", Text(f"({result.message})", "dim")))
    return _grid(("property", "", "examples", "what must hold"), lines, screen.width, right="examples")


def show(verdict: Verdict, screen: Screen) -> None:
    """Print header, table, failures by cause, and the verdict last, where the eye is."""
    for name, value in configuration(verdict).items():
        screen.line(f"{name:<8}{value}")
    screen.line()
    screen.print(table(verdict, screen))
    causes = list(verdict.causes.values())
    for some in causes[:IN_FULL]:
        _show_cause(verdict, some, screen)
    if more := causes[IN_FULL:]:
        screen.line()
        for first, *others in more:
            screen.line(f"✗ {first.id}{_and_more(others)}: {first.diagnosis or first.message}", "bold red")
        screen.line(
            f"  the counterexamples of these {len(more)}: --html FILE, --json FILE, or one alone with --property ID"
        )
    for result in verdict.having("known failure"):
        screen.line()
        screen.line(f"! {result.id}: known failure", "yellow")
        screen.line(f"  {verdict.known[result.id]}")
    screen.line()
    screen.line(verdict.sentence, "bold green" if verdict.ok else "bold red")


def _and_more(others: Sequence[PropertyResult]) -> str:
    return f" and {len(others)} more" if others else ""


def _show_cause(verdict: Verdict, some: Sequence[PropertyResult], screen: Screen) -> None:
    """The most basic failure of a cause in full, and the ids of the others."""
    first, *others = some
    screen.line()
    screen.line(f"✗ {first.id}: {first.title}", "bold red")
    screen.line(f"  {first.message}")
    if first.diagnosis:
        screen.line(f"  it looks like this: {first.diagnosis}", "bold")
    if first.counterexample:
        screen.line(f"  smallest counterexample: {first.counterexample}")
    for text in first.details.splitlines():
        screen.line(f"  {text}", "dim")
    if first.reproduce:
        screen.line("  to reproduce, without this suite:")
        screen.line(first.reproduce, "cyan")
    screen.line(f"  to judge it again: {again(verdict, first)}", "dim")
    if others:
        screen.line(f"  {len(others)} more for the same reason: {', '.join(result.id for result in others)}")


@contextmanager
def counter(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for what is only counted."""
    with progress_bar(name) as bar:
        yield lambda done, total: bar(done, total, "", None)


def show_vectors(port: str, version: int, results: Sequence[Checked], screen: Screen) -> int:
    """Print what became of the vectors, and return the exit code."""
    grid = Table(box=None, pad_edge=False, show_edge=False)
    statuses: tuple[Status, ...] = ("passed", "failed", "not provided")
    for header in ("vectors", *statuses):
        grid.add_column(header, justify="left" if header == "vectors" else "right")
    for rule in dict.fromkeys(one.rule for one in results):
        found = [one.status for one in results if one.rule == rule]
        counts = (Text(str(found.count(name) or ""), STYLES[name]) for name in statuses)
        grid.add_row(rule, *counts)
    screen.print(grid)
    failed = [one for one in results if one.status == "failed"]
    # Every failure with its details; those of one message once, with the ids of the others.
    by_message: dict[tuple[str, str], list[Checked]] = {}
    for one in failed:
        by_message.setdefault((one.rule, one.message), []).append(one)
    for (_, message), some in by_message.items():
        screen.line()
        screen.line(f"✗ {some[0].id} ({', '.join(some[0].flags)})", "bold red")
        screen.line(f"  {message}")
        if some[1:]:
            screen.line(f"  and the same of {len(some) - 1} more: {', '.join(one.id for one in some[1:])}")
    missing = dict.fromkeys(one.message for one in results if one.status == "not provided")
    if missing:
        screen.line()
        screen.line("not provided: " + "; ".join(missing), "dim")
    passed = sum(one.status == "passed" for one in results)
    code = DOES_NOT if failed else CONFORMS if passed else CANNOT
    words = {
        CONFORMS: f"Conforms to version {version} of the vectors",
        DOES_NOT: f"Does not conform to version {version} of the vectors",
        CANNOT: "Not judged: it provides nothing of what the vectors ask",
    }
    rest = len(results) - passed - len(failed)
    screen.line()
    sentence = f"{words[code]}: {port}. {passed} passed, {len(failed)} failed, {rest} not provided."
    screen.line(sentence, "bold red" if code else "bold green")
    return code


def show_mutants(judged: Sequence[tuple[Any, bool]], screen: Screen) -> int:
    """Print which mutants were killed, and return the exit code."""
    lines = [
        (mutant.name, Text("killed", "green") if dead else Text("SURVIVED", "bold red"), mutant.kills, mutant.what)
        for mutant, dead in judged
    ]
    headers = ("mutant", "", "the property meant for it", "what is wrong with it")
    screen.print(_grid(headers, lines, screen.width))
    survivors = [mutant.name for mutant, dead in judged if not dead]
    sentence = (
        f"{len(judged) - len(survivors)} of {len(judged)} mutants killed, each by the property meant for it alone."
    )
    if survivors:
        sentence += f" SURVIVED: {', '.join(survivors)}."
    screen.line()
    screen.line(sentence, "bold red" if survivors else "bold green")
    return 1 if survivors else 0

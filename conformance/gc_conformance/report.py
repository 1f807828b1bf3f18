"""What people see of a run: the progress bar and the table in a terminal, and one HTML page."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from .known import Verdict
from .mutants import Mutant
from .result import PropertyResult, Status
from .runner import PROFILES
from .runner import Progress as OnProgress
from .vectors import Checked

STYLES = {"passed": "green", "failed": "bold red", "known failure": "yellow", "not provided": "dim"}
MARKS = {"passed": "✓", "failed": "✗", "known failure": "!", "not provided": "–"}
IN_FULL = 5  # failures shown with counterexample and reproduction; a terminal names the others, a page folds them


@contextmanager
def progress_bar(port: str) -> Iterator[OnProgress]:
    """A bar on a terminal's stderr, gone when done; nothing anywhere else."""
    console = Console(stderr=True)
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
        "judged": f"level {result.level}, profile {profile}, seed {result.seed}",
        "with": ", ".join(f"{name} {version}" for name, version in result.versions.items()),
    }


def again(verdict: Verdict, result: PropertyResult) -> str:
    """The command that judges this property alone, with the same cases."""
    run = verdict.result
    words = ["gc-conformance", "run", run.target, "--property", result.id, "--profile", run.profile]
    return shlex.join([*words, "--seed", str(run.seed)])


def rows(verdict: Verdict) -> Iterator[tuple[str, list[PropertyResult], bool]]:
    """(chapter, its results, folded): a chapter of which the port provides nothing needs one row."""
    for chapter, results in verdict.result.chapters():
        yield chapter, list(results), all(result.status == "not provided" for result in results)


def _count(verdict: Verdict, results: Sequence[PropertyResult]) -> Text:
    found = [verdict.status(result) for result in results]
    parts = [(f"{found.count(name)} {name}", style) for name, style in STYLES.items() if name in found]
    return Text(", ").join(Text(*part) for part in parts)


def _grid(headers: Sequence[str], rows: Sequence[Sequence[Text | str]], width: int, right: str = "") -> Table:
    """A table of single lines, of which a narrow terminal cuts the last column and nothing else."""
    lines = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    grid = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 1))
    room = width
    for header, *cells in zip(headers, *lines, strict=True):
        column = max(cell_len(header), *(cell.cell_len for cell in cells))
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


def table(verdict: Verdict, width: int) -> Table:
    """Chapters and their properties."""
    lines: list[tuple[Text | str, ...]] = []
    for chapter, results, folded in rows(verdict):
        counts = _count(verdict, results)
        lines.append(
            (Text(chapter, "bold"), "", "", counts + Text(f": {results[0].message}", "dim") if folded else counts)
        )
        for result in () if folded else results:
            status = verdict.status(result)
            what = Text(result.message, "dim") if status == "not provided" else Text(result.title)
            mark = Text(f"{MARKS[status]} {status}", STYLES[status])
            lines.append((f"  {result.id.partition('.')[2]}", mark, str(result.examples or ""), what))
            if status == "passed" and result.message:
                lines.append(("", "", "", Text(f"({result.message})", "dim")))
    return _grid(("property", "", "examples", "what must hold"), lines, width, right="examples")


def show(verdict: Verdict, console: Console) -> None:
    """Print header, table, failures, and the verdict last, where the eye is."""

    def line(text: str = "", style: str = "") -> None:
        # As it is, however long: what is copied from a terminal must not have been wrapped.
        console.print(Text(text, style), soft_wrap=True)

    for name, value in configuration(verdict).items():
        line(f"{name:<8}{value}")
    line()
    console.print(table(verdict, console.width))
    failed = verdict.having("failed")
    for result in failed[:IN_FULL]:
        line()
        line(f"✗ {result.id}: {result.title}", "bold red")
        line(f"  {result.message}")
        line(f"  smallest counterexample: {result.counterexample}")
        line("  to reproduce, without this suite:")
        line(result.reproduce, "cyan")
        line(f"  to judge it again: {again(verdict, result)}", "dim")
    if more := failed[IN_FULL:]:
        line()
        for result in more:
            line(f"✗ {result.id}: {result.message}", "bold red")
        line(f"  the counterexamples of these {len(more)}: --html FILE, --json FILE, or one alone with --property ID")
    for result in verdict.having("known failure"):
        reason = verdict.known[result.id]
        line()
        line(f"! {result.id}: known failure", "yellow")
        line(f"  {reason.cause} ({reason.link})")
    line()
    line(verdict.sentence, "bold green" if verdict.exit_code == 0 and not verdict.interrupted else "bold red")


@contextmanager
def counter(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for what is only counted."""
    with progress_bar(name) as bar:
        yield lambda done, total: bar(done, total, "", None)


def show_vectors(port: str, results: Sequence[Checked], console: Console) -> int:
    """Print what became of the vectors, and return the exit code."""
    grid = Table(box=None, pad_edge=False, show_edge=False)
    statuses: tuple[Status, ...] = ("passed", "failed", "not provided")
    for header in ("vectors", *statuses):
        grid.add_column(header, justify="left" if header == "vectors" else "right")
    for rule in dict.fromkeys(one.rule for one in results):
        found = [one.status for one in results if one.rule == rule]
        counts = (Text(str(found.count(name) or ""), STYLES[name]) for name in statuses)
        grid.add_row(rule, *counts)
    console.print(grid)
    failed = [one for one in results if one.status == "failed"]
    for one in failed[:IN_FULL]:
        console.print(Text(f"\n✗ {one.id} ({', '.join(one.flags)})", "bold red"), soft_wrap=True)
        console.print(Text(f"  {one.message}"), soft_wrap=True)
    if more := failed[IN_FULL:]:
        console.print(Text("\n" + "\n".join(f"✗ {one.id}" for one in more), "bold red"), soft_wrap=True)
    missing = dict.fromkeys(one.message for one in results if one.status == "not provided")
    if missing:
        console.print(Text("\nnot provided: " + "; ".join(missing), "dim"), soft_wrap=True)
    passed = sum(one.status == "passed" for one in results)
    code = 1 if failed else 0 if passed else 2
    words = "Conforms to the vectors", "Does not conform", "Not judged: it provides nothing of what the vectors ask"
    rest = len(results) - passed - len(failed)
    sentence = f"{words[code]}: {port}. {passed} passed, {len(failed)} failed, {rest} not provided."
    console.print(Text("\n" + sentence, "bold red" if code else "bold green"), soft_wrap=True)
    return code


def show_mutants(judged: Sequence[tuple[Mutant, bool]], console: Console) -> int:
    """Print which mutants were killed, and return the exit code."""
    lines = [
        (mutant.name, Text("killed", "green") if dead else Text("SURVIVED", "bold red"), mutant.kills, mutant.what)
        for mutant, dead in judged
    ]
    headers = ("mutant", "", "the property meant for it", "what is wrong with it")
    console.print(_grid(headers, lines, console.width))
    survivors = [mutant.name for mutant, dead in judged if not dead]
    sentence = (
        f"{len(judged) - len(survivors)} of {len(judged)} mutants killed, each by the property meant for it alone."
    )
    if survivors:
        sentence += f" SURVIVED: {', '.join(survivors)}."
    console.print(Text("\n" + sentence, "bold red" if survivors else "bold green"), soft_wrap=True)
    return 1 if survivors else 0


_CSS = """
:root { color-scheme: light dark; --bg: #fff; --fg: #1d1f23; --dim: #5c636e; --line: #d9dce1; --code: #f4f5f7;
        --ok: #1a7f37; --bad: #c01c28; --known: #8a5a00 }
@media (prefers-color-scheme: dark) { :root { --bg: #15171a; --fg: #e4e6ea; --dim: #9aa2ad; --line: #33373d;
        --code: #1f2226; --ok: #57c26e; --bad: #ff7b80; --known: #e3b341 } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem;
       background: var(--bg); color: var(--fg) }
h1 { font-size: 1.4rem } h2 { font-size: 1.2rem; margin-top: 2.5rem } h3 { font-size: 1rem; margin: 1.5rem 0 .3rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem } dt { color: var(--dim) } dd { margin: 0 }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
td, th { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line) }
td, dd, p { overflow-wrap: anywhere } td.status { white-space: nowrap } td.n { text-align: right }
tr.chapter td { font-weight: 600; padding-top: 1rem } .note { color: var(--dim) }
.passed { color: var(--ok) } .failed { color: var(--bad) } .known-failure { color: var(--known) }
.not-provided { color: var(--dim) } .verdict { font-size: 1.1rem; font-weight: 600 }
details { border-top: 1px solid var(--line); padding: .5rem 0 } summary { cursor: pointer }
details > p, details > pre { margin: .4rem 0 .4rem 1rem } summary > .failed { font-weight: 600 }
pre { background: var(--code); padding: .7rem; overflow-x: auto; font-size: .85rem }
"""


def html(verdicts: Sequence[Verdict]) -> str:
    """One page that needs nothing else: no script, no font, no link that it loads."""
    ports = escape(", ".join(verdict.result.port for verdict in verdicts))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Gradient Centralization: conformance of {ports}</title><style>{_CSS}</style></head>\n<body>"
        "<h1>Gradient Centralization: conformance</h1>\n"
        + "\n".join(_html_of(verdict) for verdict in verdicts)
        + "\n</body></html>\n"
    )


def _html_of(verdict: Verdict) -> str:
    ok = verdict.exit_code == 0 and not verdict.interrupted
    echo = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in configuration(verdict).items())
    body = []
    for chapter, results, folded in rows(verdict):
        note = f'<span class="note">{escape(results[0].message)}</span>' if folded else ""
        body.append(
            f'<tr class="chapter"><td>{escape(chapter)}</td><td colspan="2">'
            f"{escape(_count(verdict, results).plain)}</td><td>{note}</td></tr>"
        )
        body.extend(_html_row(verdict, result) for result in results if not folded)
    return (
        f'<section><h2>{escape(verdict.result.port)}</h2><p class="verdict {"passed" if ok else "failed"}">'
        f"{escape(verdict.sentence)}</p><dl>{echo}</dl>\n"
        + "".join(_html_failure(verdict, result, n < IN_FULL) for n, result in enumerate(verdict.having("failed")))
        + "".join(_html_known(verdict, result) for result in verdict.having("known failure"))
        + "<h3>All properties</h3><table><thead><tr><th>property</th><th>verdict</th><th>examples</th>"
        "<th>what must hold</th></tr></thead><tbody>" + "\n".join(body) + "</tbody></table></section>"
    )


def _html_row(verdict: Verdict, result: PropertyResult) -> str:
    status = verdict.status(result)
    why = result.message if status in ("passed", "not provided") else ""
    note = f'<br><span class="note">{escape(why)}</span>' if why else ""
    return (
        f'<tr><td>{escape(result.id)}</td><td class="status {status.replace(" ", "-")}">{MARKS[status]} {status}</td>'
        f'<td class="n">{result.examples or ""}</td><td>{escape(result.title)}{note}</td></tr>'
    )


def _html_failure(verdict: Verdict, result: PropertyResult, opened: bool) -> str:
    return (
        f'<details{" open" if opened else ""}><summary><span class="failed">{MARKS["failed"]} '
        f"{escape(result.id)}</span> {escape(result.title)}</summary>"
        f"<p>{escape(result.message)}</p><p>Smallest counterexample: <code>{escape(result.counterexample)}</code></p>"
        f"<p>To reproduce, without the suite:</p><pre>{escape(result.reproduce)}</pre>"
        f"<p>To judge it again:</p><pre>{escape(again(verdict, result))}</pre></details>\n"
    )


def _html_known(verdict: Verdict, result: PropertyResult) -> str:
    reason = verdict.known[result.id]
    # Only what is a web address becomes a link: a javascript: address would run.
    is_address = reason.link.startswith(("https://", "http://"))
    link = f'<a href="{escape(reason.link)}">{escape(reason.link)}</a>' if is_address else escape(reason.link)
    return (
        f'<h3 class="known-failure">{MARKS["known failure"]} {escape(result.id)}: known failure</h3>'
        f"<p>{escape(reason.cause)} ({link})</p>"
    )

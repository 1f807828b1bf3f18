"""The command `gc-conformance`. Exit codes: 0 conforms, 1 does not, 2 cannot be judged, 130 interrupted."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

try:
    import hypothesis  # noqa: F401
    import jsonschema  # noqa: F401
    import ml_dtypes  # noqa: F401
    import rich  # noqa: F401
    import typer
    from rich.console import Console
    from rich.text import Text
except ModuleNotFoundError as missing:
    print(f"gc-conformance needs {missing.name}: pip install 'gradient-centralization[conformance]'", file=sys.stderr)
    raise SystemExit(2) from None

from . import report, vectors
from .known import KnownError, Reasons, Verdict, read_for, reasons_of
from .port import Port, PortError, load
from .registry import CHAPTERS, select
from .result import PropertyResult, RunResult
from .runner import run, versions

app = typer.Typer(
    name="gc-conformance",
    help="Hold any port of Gradient Centralization to the mathematics and to the contract.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Written out, because type checkers cannot read LEVELS and PROFILES; a test holds them equal.
Level = Literal["gc", "contract"]
Profile = Literal["quick", "standard", "thorough"]

LevelOption = Annotated[Level, typer.Option(help="gc: the mathematics. contract: the errors as well.")]
ProfileOption = Annotated[Profile, typer.Option(help="How many examples a property gets.")]
SeedOption = Annotated[int, typer.Option(help="Of all examples.")]
ChapterOption = Annotated[list[str] | None, typer.Option(help=f"Only this of {', '.join(CHAPTERS)}; may be repeated.")]
PORT = "package.module[:attribute], or file.py[:function]."


class CannotRun(Exception):
    """Said to the user in one line; exit code 2."""


@app.command("run")
def run_command(
    ports: Annotated[list[str], typer.Argument(metavar="PORT...", help=PORT)],
    level: LevelOption = "gc",
    profile: ProfileOption = "standard",
    seed: SeedOption = 0,
    chapter: ChapterOption = None,
    property: Annotated[list[str] | None, typer.Option(help="Only this property id; may be repeated.")] = None,
    switch: Annotated[
        str | None, typer.Option(help="PORT is an optimizer, and this argument switches GC: NAME, or NAME=ON,OFF.")
    ] = None,
    built_with: Annotated[
        list[str] | None, typer.Option("--with", help="NAME=VALUE, an argument that it is built with; may be repeated.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option(help="Its framework: torch, optax or keras. Told from it, if it can be.")
    ] = None,
    known: Annotated[Path | None, typer.Option(help="List of known failures, TOML or JSON.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results here; - for stdout.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write the report here, one page.")] = None,
) -> None:
    """Judge ports, and show what each passes, fails and does not provide."""
    json_only = json_file is not None and str(json_file) == "-"
    try:
        select(level, chapter, property)
        with _quiet(json_only):
            loaded = [load(target, switch=switch, built_with=built_with or (), adapter=adapter) for target in ports]
        lists = read_for(known, loaded) if known else {}
    except (PortError, KnownError, ValueError) as error:
        raise CannotRun(str(error)) from error
    for file in (json_file, html_file):
        if file and str(file) != "-" and not file.parent.is_dir():
            raise CannotRun(f"{file} cannot be written: there is no folder {file.parent}.")

    console = _console(stderr=json_only)
    verdicts: list[Verdict] = []
    for port in loaded:
        if verdicts:
            console.rule()
        options = dict(level=level, profile=profile, seed=seed, chapters=chapter, only=property)
        with _quiet(json_only):
            verdict = _judge(port, reasons_of(port, lists), options)
        verdicts.append(verdict)
        report.show(verdict, console)
        if verdict.interrupted:
            break

    code = 130 if verdicts[-1].interrupted else max(verdict.exit_code for verdict in verdicts)
    if json_file:
        text = json.dumps({"exit_code": code, "ports": [v.to_dict() for v in verdicts]}, indent=1, allow_nan=False)
        _write(json_file, text + "\n")
    if html_file:
        _write(html_file, report.html(verdicts))
    raise typer.Exit(code)


def _quiet(json_only: bool) -> contextlib.AbstractContextManager:
    """What a port prints goes elsewhere where the standard output is for JSON."""
    return contextlib.redirect_stdout(sys.stderr) if json_only else contextlib.nullcontext()


def _console(stderr: bool = False) -> Console:
    console = Console(stderr=stderr)
    if not console.is_terminal:
        console.width = 160  # a pipe or a file has no width of its own
    return console


def _judge(port: Port, known: Reasons, options: dict[str, Any]) -> Verdict:
    """Run the suite; what was finished when Ctrl-C came is a verdict, too."""
    finished: list[PropertyResult] = []
    with report.progress_bar(port.name) as bar:

        def progress(index: int, total: int, id: str, result: PropertyResult | None) -> None:
            bar(index, total, id, result)
            if result:
                finished.append(result)

        try:
            return Verdict(run(port, progress=progress, **options), known)
        except KeyboardInterrupt:
            asked = {name: options[name] for name in ("level", "profile", "seed")}
            partial = RunResult(
                port.name, port.target, port.dtypes, versions=versions(), results=tuple(finished), **asked
            )
            return Verdict(partial, known, interrupted=True)


def _write(file: Path, text: str) -> None:
    if str(file) == "-":
        sys.stdout.write(text)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CannotRun(f"{file} cannot be written: {error}") from error


@app.command("properties")
def properties_command(
    level: LevelOption = "contract",
    chapter: ChapterOption = None,
) -> None:
    """List the properties: id and what must hold."""
    try:
        found = select(level, chapter)
    except ValueError as error:
        raise CannotRun(str(error)) from error
    width = max(len(prop.id) for prop in found) if found else 0
    for prop in found:
        print(f"{prop.id:<{width}}  {prop.title}")


@app.command("mutants")
def mutants_command(seed: SeedOption = 0) -> None:
    """Prove that the suite can fail: hold each wrong port to the property meant for it alone. 1 if one survives."""
    from .mutants import MUTANTS, kill

    judged = []
    with report.counter("mutants") as progress:
        for number, mutant in enumerate(MUTANTS.values(), 1):
            judged.append((mutant, kill(mutant, seed=seed).status == "failed"))
            progress(number, len(MUTANTS))
    raise typer.Exit(report.show_mutants(judged, _console()))


vectors_app = typer.Typer(no_args_is_help=True, help="Test vectors: how a port in any language is tested.")
app.add_typer(vectors_app, name="vectors")


@vectors_app.command("write")
def vectors_write(folder: Annotated[Path, typer.Argument(metavar="DIR")]) -> None:
    """Write all vectors and their schema to a folder, as JSON."""
    try:
        files = vectors.write(folder)
    except OSError as error:
        raise CannotRun(f"{folder} cannot be written: {error}") from error
    for file in files:
        print(f"{file}  {file.stat().st_size:,} bytes")


@vectors_app.command("check")
def vectors_check(
    folder: Annotated[Path, typer.Argument(metavar="DIR")], port: Annotated[str, typer.Argument(help=PORT)]
) -> None:
    """Hold a port that Python can call to the vectors in a folder; exit codes as of `run`."""
    try:
        loaded, found = load(port), vectors.read(folder)
    except (PortError, vectors.VectorsError) as error:
        raise CannotRun(str(error)) from error
    with report.counter(loaded.name) as progress:
        results = vectors.check(found, loaded, progress)
    raise typer.Exit(report.show_vectors(loaded.name, results, _console()))


def main() -> None:
    """The entry point. A fault of the suite itself is not a verdict on the port: exit code 2, not 1."""
    try:
        app()
    except CannotRun as error:
        Console(stderr=True).print(Text(f"gc-conformance: {error}"), soft_wrap=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception:
        traceback.print_exc()
        print("gc-conformance: this is a fault of the suite, not a verdict on the port.", file=sys.stderr)
        raise SystemExit(2) from None

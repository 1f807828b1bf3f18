"""The command `gc-conformance`.

Exit codes: 0 conforms; 1 does not; 2 cannot be judged; 3 nothing failed, but nothing was judged of a chapter that was
asked for; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from . import INSTALL

try:
    import hypothesis  # noqa: F401
    import jsonschema  # noqa: F401
    import ml_dtypes  # noqa: F401
    import rich  # noqa: F401
    import typer
except ModuleNotFoundError as missing:
    print(f"gc-conformance needs {missing.name}: {INSTALL}", file=sys.stderr)
    raise SystemExit(2) from None

from . import cli_vectors, formats, known, page, report
from .cli_options import (
    PORT,
    CallOption,
    CannotRun,
    ChapterOption,
    CommandOption,
    LevelOption,
    LimitOption,
    ProfileOption,
    SeedOption,
    SuiteOption,
    write,
)
from .known import KnownError, Reasons, reasons_of
from .loading import COMMAND
from .port import PortError
from .process import WorkerFault
from .registry import VERSION, select
from .result import PropertyResult, RunResult
from .runner import TIME_LIMIT, judged, open_judges, versions
from .verdict import INTERRUPTED, Verdict, worst

app = typer.Typer(
    name="gc-conformance",
    help="Hold any port of Gradient Centralization to the mathematics and to the contract.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_vectors.app, name="vectors")


@app.command("run")
def run_command(
    ports: Annotated[list[str] | None, typer.Argument(metavar="PORT...", help=PORT)] = None,
    command: CommandOption = None,
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
    suite_version: SuiteOption = VERSION,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that judge side by side.")] = 1,
    time_limit: LimitOption = TIME_LIMIT,
    call: CallOption = False,
    known_file: Annotated[Path | None, typer.Option("--known", help="List of known failures, TOML or JSON.")] = None,
    write_known: Annotated[Path | None, typer.Option(help="Write what fails as such a list.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results here; - for stdout.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write the report here, one page.")] = None,
    junit_file: Annotated[Path | None, typer.Option("--junit", help="Write the results here as JUnit's XML.")] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", help="Append a summary here, for a CI's page; - for stdout.")
    ] = None,
    badge_file: Annotated[Path | None, typer.Option("--badge", help="Write a badge here, as SVG.")] = None,
) -> None:
    """Judge ports, and show what each passes, fails and does not provide."""
    targets = [*(ports or ()), *(f"{COMMAND} {words}" for words in command or ())]
    if not targets:
        raise CannotRun("name a PORT, or a program with --command.")
    files = (json_file, html_file, junit_file, markdown_file, badge_file, write_known)
    for file in files:
        if file and str(file) != "-" and not file.parent.is_dir():
            raise CannotRun(f"{file} cannot be written: there is no folder {file.parent}.")
    screen = report.Screen(stderr=any(file and str(file) == "-" for file in files))
    options: dict[str, Any] = {"level": level, "profile": profile, "seed": seed, "suite_version": suite_version}
    verdicts: list[Verdict] = []
    with contextlib.ExitStack() as stack:
        try:
            properties = select(level, chapter, property, suite_version)
            how: dict[str, Any] = {"call": call, "switch": switch, "built_with": built_with or [], "adapter": adapter}
            held = [stack.enter_context(_held(target, jobs, time_limit, **how)) for target in targets]
            lists = known.read_for(known_file, [judges[0] for judges in held]) if known_file else {}
        except (PortError, KnownError, ValueError) as error:
            raise CannotRun(str(error)) from error
        for judges in held:
            if verdicts:
                screen.rule()
            verdicts.append(_judge(judges, properties, reasons_of(judges[0], lists), tuple(chapter or ()), options))
            report.show(verdicts[-1], screen)
            if verdicts[-1].interrupted:
                break

    code = worst(verdict.exit_code for verdict in verdicts)
    if json_file:
        write(json_file, formats.to_json(verdicts, code))
    if html_file:
        write(html_file, page.html(verdicts))
    if junit_file:
        write(junit_file, formats.junit(verdicts))
    if markdown_file:
        write(markdown_file, formats.markdown(verdicts), append=True)
    if badge_file:
        write(badge_file, formats.badge(verdicts[0]))
    if write_known:
        try:
            entries = known.write(write_known, verdicts)
        except OSError as error:
            raise CannotRun(f"{write_known} cannot be written: {error}") from error
        screen.line(f"{write_known}: {entries} known failures. Say of each why, and where it is discussed.")
    raise typer.Exit(code)


@contextlib.contextmanager
def _held(target: str, jobs: int, time_limit: float, **how: Any) -> Iterator[list[Any]]:
    """The processes of one port, ended when done."""
    judges = open_judges(target, jobs, time_limit, **how)
    try:
        yield judges
    finally:
        for judge in judges:
            judge.close()


def _judge(judges: list, properties: list, reasons: Reasons, asked: tuple[str, ...], options: dict) -> Verdict:
    """Run the suite; what was finished when Ctrl-C came is a verdict, too, and says what was running."""
    finished: list[PropertyResult] = []
    running = ""
    with report.progress_bar(judges[0].name) as bar:

        def progress(index: int, total: int, id: str, result: PropertyResult | None) -> None:
            nonlocal running
            bar(index, total, id, result)
            running = id
            if result:
                finished.append(result)

        try:
            return Verdict(judged(judges, properties, chapters=asked, progress=progress, **options), reasons)
        except KeyboardInterrupt:
            about, rest = judges[0], {name: options[name] for name in ("level", "profile", "seed")}
            partial = RunResult(
                about.name,
                about.target,
                about.dtypes,
                versions=versions(),
                results=tuple(finished),
                suite=options["suite_version"],
                **rest,
            )
            return Verdict(partial, reasons, interrupted=True, running=running)


@app.command("properties")
def properties_command(
    level: LevelOption = "contract",
    chapter: ChapterOption = None,
    suite_version: SuiteOption = VERSION,
) -> None:
    """List the properties: id, since which version of the suite, and what must hold."""
    try:
        found = select(level, chapter, None, suite_version)
    except ValueError as error:
        raise CannotRun(str(error)) from error
    width = max(len(prop.id) for prop in found) if found else 0
    screen = report.Screen()
    for prop in found:
        screen.line(f"{prop.id:<{width}}  {prop.since}  {prop.title}")


@app.command("mutants")
def mutants_command(seed: SeedOption = 0, profile: ProfileOption = "standard") -> None:
    """Prove that the suite can fail: hold each wrong port to the property meant for it alone. 1 if one survives."""
    from .mutants import MUTANTS, kill

    tried = []
    with report.counter("mutants") as progress:
        for number, mutant in enumerate(MUTANTS.values(), 1):
            tried.append((mutant, kill(mutant, seed=seed, profile=profile).status == "failed"))
            progress(number, len(MUTANTS))
    raise typer.Exit(report.show_mutants(tried, report.Screen()))


def main() -> None:
    """The entry point. A fault of the suite itself is not a verdict on the port: exit code 2, not 1."""
    screen = report.Screen(stderr=True)
    try:
        code = app(standalone_mode=False) or 0
    except CannotRun as error:
        screen.line(f"gc-conformance: {error}")
        code = 2
    except typer.Exit as stop:
        code = stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        screen.line("gc-conformance: interrupted.")
        code = INTERRUPTED
    except typer.TyperException as error:  # a word of the command line that it does not know
        error.show()  # type: ignore[attr-defined]
        code = error.exit_code  # type: ignore[attr-defined]
    except WorkerFault as fault:
        screen.line(str(fault))
        screen.line("gc-conformance: this is a fault of the suite, not a verdict on the port.")
        code = 2
    except Exception:
        screen.line(traceback.format_exc())
        screen.line("gc-conformance: this is a fault of the suite, not a verdict on the port.")
        code = 2
    _leave(code)


def _leave(code: int) -> None:
    """Exit with this code, also where nobody reads what is still to be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    raise SystemExit(code)

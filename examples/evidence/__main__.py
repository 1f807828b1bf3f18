"""`python -m examples.evidence`: run what is not there yet, and write the page."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from examples.evidence import data, page, questions, results, runner
from examples.evidence.settings import Cell

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CACHE = ROOT / "runs/evidence"
INTERRUPTED = 130  # the exit code of a program that Ctrl-C stopped

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def evidence(
    data_folder: Annotated[Path, typer.Option("--data", help="The folder with CIFAR-10 and input.txt.")],
    only: Annotated[str, typer.Option(help="Questions, such as 1 or 1,3.  [default: all]")] = "",
    cells: Annotated[int | None, typer.Option(min=0, help="Stop after so many runs.  [default: all]")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each run.")] = 1,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time.  [default: the cores that are free]")] = None,
    out: Annotated[Path, typer.Option(help="The folder of the page; its lines of results are in results/.")] = DOCS,
) -> None:
    """Train with and without GC what has not been trained yet. Ctrl-C loses the runs that go on, and no other.

    The lines of runs that are done are in docs/results/, and docs/results.md is made of them. To run all of it again,
    name another folder, such as --out runs/again.
    """
    try:
        asked = {int(word) for word in only.split(",")} if only else None
    except ValueError:
        asked = {0}
    known = {block.question for block in questions.BLOCKS}
    if asked is not None and not asked <= known:
        fail(f"--only must be numbers of questions, {min(known)} to {max(known)}, with commas; got {only!r}")
    kept = out / "results"
    there = results.read(kept)
    missing = [cell for cell in questions.cells(asked) if cell.key not in there][:cells]
    for ends in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: otherwise the runs would go on, for nobody
        signal.signal(ends, signal.default_int_handler)
    try:
        for kind in sorted({"text" if cell.kind == "text" else "images" for cell in missing}):
            data.load(kind, data_folder, CACHE)
        run(missing, runner.Where(data_folder, CACHE, kept), threads, jobs or runner.free_cores())
        page.write(results.read(kept), results.spent(kept), out)
        if out.resolve() == DOCS:
            page.write_short(results.read(kept), ROOT / "README.md")
    except (data.Wrong, runner.Failed) as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("Stopped: the runs that were done are kept, and the same command goes on.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def run(missing: list[Cell], where: runner.Where, threads: int, jobs: int) -> None:
    """With a bar on a terminal, whose length is what the runs cost, and a line for each run elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.fields[runs]} of {task.fields[all]} runs"), BarColumn(), TimeElapsedColumn(),
               TextColumn("left:"), TimeRemainingColumn(elapsed_when_finished=False))  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal, speed_estimate_period=3600) as progress:
        task = progress.add_task("", total=sum(map(questions.cost, missing)), runs=0, all=len(missing))

        def done(cell: Cell) -> None:
            progress.update(task, advance=questions.cost(cell), runs=progress.tasks[0].fields["runs"] + 1)
            if not console.is_terminal:
                print(cell.key, flush=True)

        runner.run(missing, where, threads, jobs, done)


def fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(2)


if __name__ == "__main__":
    app()

"""`python -m examples.study`: train the whole grid, and write the page, its figure and its numbers into docs/."""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

import gc_core
from examples.study import experiment, figure, page
from gc_core.output import degrade

DOCS = Path(__file__).parents[2] / "docs"


def study(
    seeds: Annotated[int, typer.Option(min=2, help="How many seeds, from 0 on.")] = experiment.SEEDS,
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = DOCS,
) -> None:
    """Train small networks on the digits in every setting, with GC and without; write results.md and its figure."""
    degrade()
    try:
        runs = train(seeds)
    except KeyboardInterrupt:
        print("Stopped: nothing is written.", file=sys.stderr)
        raise typer.Exit(130) from None
    metrics = {
        "seeds": seeds,
        "versions": {
            "gradient-centralization": gc_core.__version__,
            "NumPy": version("numpy"),
            "scikit-learn": version("scikit-learn"),
            "Python": platform.python_version(),
        },
        "runs": runs,
    }
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(metrics) + "\n", encoding="utf-8")
    (out / "results.md").write_text(page.write(metrics), encoding="utf-8")
    figure.draw(metrics, out / "pictures/results.png")
    print(f"Written: {out / 'results.md'}, {out / 'results.json'}, {out / 'pictures/results.png'}")


def train(seeds: int) -> dict[str, Any]:
    """The whole grid, with a progress bar on a terminal."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        return experiment.run(seeds, lambda total: progress.update(task, total=total, advance=1))


if __name__ == "__main__":
    typer.run(study)

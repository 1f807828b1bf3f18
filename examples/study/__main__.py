"""`python -m examples.study`: train the whole grid seed by seed; when all are done, write the page and its figure."""

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
from examples.evidence import results
from examples.study import experiment, figure, page
from gc_core.output import degrade

OUT = Path("runs/study")


def study(
    seeds: Annotated[int, typer.Option(min=2, help="How many seeds, from 0 on.")] = experiment.SEEDS,
    out: Annotated[Path, typer.Option(help="The folder to write to. What is in it is not trained again.")] = OUT,
) -> None:
    """Train small networks on the digits in every setting, with GC and without; write digits.md and its figure.

    A seed is kept as soon as it is done: after Ctrl-C the same command goes on.
    """
    degrade()
    kept = lines(out)
    missing = [seed for seed in range(seeds) if seed not in kept]
    try:
        train(missing, out)
    except KeyboardInterrupt:
        there = len(lines(out).keys() & range(seeds))
        print(f"Stopped: {there} of {seeds} seeds are kept in {out}, and the same command goes on.", file=sys.stderr)
        raise typer.Exit(130) from None
    write(out, [lines(out)[seed] for seed in range(seeds)])


def lines(out: Path) -> dict[int, dict[str, Any]]:
    """The seeds that are there."""
    found = (json.loads(line) for line in results.whole_lines(out / "results/digits.jsonl"))
    return {line["seed"]: line for line in found}


def train(missing: list[int], out: Path) -> None:
    """These seeds, with a progress bar on a terminal."""
    versions = {
        "gradient-centralization": gc_core.__version__,
        "NumPy": version("numpy"),
        "scikit-learn": version("scikit-learn"),
        "Python": platform.python_version(),
    }
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(missing))

        def on_seed(seed: int, runs: dict[str, Any]) -> None:
            results.append(out / "results", json.dumps({"seed": seed, "versions": versions, "runs": runs}), "digits")
            progress.advance(task)

        experiment.run(missing, on_seed)


def write(out: Path, kept: list[dict[str, Any]]) -> None:
    """The page and its figure."""
    metrics = {"seeds": len(kept), "versions": kept[0]["versions"], "runs": experiment.together(kept)}
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    (out / "digits.md").write_text(page.write(metrics), encoding="utf-8")
    figure.draw(metrics, out / "pictures/digits.png")
    print(f"Written: {out / 'digits.md'}, {out / 'pictures/digits.png'}")


if __name__ == "__main__":
    typer.run(study)

"""The paper's numbers beside one's own, with their spread over seeds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from examples.digits.statistics import interval
from examples.reproduce import recipe as recipes

RESULT = "result.json"


def results(out: Path, name: str) -> Iterator[dict[str, Any]]:
    """Every finished run of a recipe."""
    for file in sorted(out.glob(f"{name}/*/{RESULT}")):
        yield json.loads(file.read_text(encoding="utf-8"))


def show(console: Console, name: str, out: Path) -> None:
    """Print the table of a recipe."""
    file = recipes.read(name)
    found: dict[tuple[str, str], dict[str, dict[int, dict]]] = {}
    for result in results(out, name):
        places = found.setdefault((result["variant"], result["optimizer"]), {})
        places.setdefault(result["gc"], {})[result["seed"]] = result["last"]
    paper = {(row["variant"], row["optimizer"]): row for row in file.get("paper", [])}
    measures = file.get("measures") or [file.get("measure", recipes.Recipe.measure)]
    for measure in measures:
        table = Table(box=SIMPLE_HEAD, title=f"{name}: {measure}, after the last epoch", title_justify="left")
        for heading in ("", "without GC", "GC on the gradient", "GC on the update"):
            table.add_column(heading, justify="left" if not heading else "right")
        for key in dict.fromkeys([*paper, *found]):
            printed = paper.get(key, {}).get(measure)
            if printed:
                table.add_row(f"{' '.join(key)}, paper", *printed, "")
            own = [
                {seed: last[measure] for seed, last in found.get(key, {}).get(place, {}).items() if measure in last}
                for place in ("off", "gradient", "update")
            ]
            if any(own):
                table.add_row(f"{' '.join(key)}, here", *map(spread, own))
                table.add_row("  with GC minus without, by seed", "", *(spread(paired(own[0], gc)) for gc in own[1:]))
        console.print(table)
    console.print(
        file["note"]
        + " ± is half of the 95 % interval over the seeds, whose number stands in brackets; one seed has no "
        "interval, and shows nothing.",
        style="dim",
        highlight=False,
    )


def paired(without: dict[int, float], with_gc: dict[int, float]) -> dict[int, float]:
    """The difference that GC makes in every seed that has both."""
    return {seed: with_gc[seed] - without[seed] for seed in without.keys() & with_gc.keys()}


def spread(values: dict[int, float]) -> str:
    """mean ± half width (number of seeds)"""
    if not values:
        return ""
    found = interval(list(values.values()))
    half = "" if found.half_width is None else f" ± {found.half_width:.2f}"
    return f"{found.mean:.2f}{half} ({len(values)})"

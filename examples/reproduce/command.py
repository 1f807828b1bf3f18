"""The command line: `list`, `run` and `table`."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from examples.reproduce import coco, data, table, training
from examples.reproduce import recipe as recipes
from examples.reproduce.recipe import Wrong

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True,
    help="The paper's experiments, with and without Gradient Centralization.",
)  # fmt: skip
Out = Annotated[Path, typer.Option(help="Where runs are kept.")]
RUNS = Path("runs/reproduce")


@contextmanager
def told() -> Iterator[None]:
    """What the user can put right is said in a few lines, with the exit code for wrong usage; and so is Ctrl-C."""
    try:
        yield
    except (Wrong, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the last checkpoint.", file=sys.stderr)
        raise typer.Exit(130) from None


@app.command("list")
def list_() -> None:
    """The recipes, their variants and optimizers."""
    for name in recipes.names():
        file = recipes.read(name)
        print(f"{name}\n  variants: {', '.join(file['variants'])}\n  optimizers: {', '.join(file['optimizers'])}")


@app.command("table")
def table_(recipe: str, out: Out = RUNS) -> None:
    """The paper's numbers beside those of the runs that are finished."""
    with told():
        table.show(Console(), recipe, out)


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="See `list`.")],
    data_folder: Annotated[Path, typer.Option("--data", help="The folder that holds the data set.")],
    variant: Annotated[str, typer.Option(help="See `list`; the first one if not given.")] = "",
    optimizer: Annotated[str, typer.Option(help="See `list`; the first one if not given.")] = "",
    gc: Annotated[str, typer.Option("--gc", help=f"Where GC goes: {', '.join(recipes.GC)}.")] = "gradient",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …; a GPU if there is one.")] = "",
    weights: Annotated[
        Path | None, typer.Option(help="A file of pretrained weights, where a recipe needs them.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="For coco: references/detection of torchvision's repository.")
    ] = None,
    every: Annotated[
        int, typer.Option(min=1, help="Steps between checkpoints; one is made after every epoch too.")
    ] = 500,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A line of the recipe, changed: batch=64.")
    ] = None,
    out: Out = RUNS,
) -> None:
    """Train. The same command goes on where an earlier one was stopped."""
    with told():
        if gc not in recipes.GC:
            raise Wrong(f"--gc must be one of {', '.join(recipes.GC)}; got {gc!r}")
        file = recipes.read(recipe)
        variant, optimizer = variant or next(iter(file["variants"])), optimizer or next(iter(file["optimizers"]))
        chosen = recipes.load(recipe, variant, optimizer, settings or [])
        device = usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        folder = out / recipe / f"{variant}-{optimizer}-gc_{gc}-seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        about: dict[str, Any] = {"variant": variant, "optimizer": optimizer, "gc": gc, "seed": seed}
        if chosen.format == "coco":
            last = coco.train(chosen, gc, seed, data_folder, folder, out / "checked", reference, device)
        else:
            print(f"Checking {data_folder}", flush=True)
            images = data.load(chosen, data_folder, out / "checked")
            with bar() as on_step:
                last = training.train(
                    chosen, gc, seed, images, folder, device=device, weights=weights, every=every, on_step=on_step
                )
        (folder / table.RESULT).write_text(json.dumps({**about, "last": last}) + "\n", encoding="utf-8")
        table.show(Console(), recipe, out)


def usable(device: str) -> str:
    """The device, if PyTorch knows it and can put a tensor there."""
    try:
        torch.zeros(1, device=device)
    except Exception as error:  # each backend raises its own
        raise Wrong(f"--device {device!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return device


@contextmanager
def bar() -> Iterator[Any]:
    """A progress bar over the steps, on a terminal."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("")
        yield lambda step, steps: progress.update(task, completed=step, total=steps)

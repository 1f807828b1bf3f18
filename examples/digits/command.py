"""The command line: options, progress, and the files of a run."""

import importlib
import itertools
import json
import os
import platform
import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import gc_core
from examples.digits import data, figure, report, training
from examples.digits.statistics import differences, summary

BACKENDS = ("numpy", "torch", "jax", "cupy")
INTERRUPTED = 130  # the exit code of a program that Ctrl-C stopped

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def digits(
    backend: Annotated[str, typer.Option(help=f"One of {', '.join(BACKENDS)}.")] = "numpy",
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0 on.")] = 10,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 25,
    out: Annotated[
        Path | None, typer.Option(help="A new or empty folder for the results.  [default: runs/digits-…]")
    ] = None,
) -> None:
    """Train a small network on handwritten digits with SGDM, GC-SGDM, Adam and GC-Adam.

    Prints what came out and writes metrics.json and digits.png. Ctrl-C keeps the seeds that are finished.
    """
    for name, value in (("--seeds", seeds), ("--epochs", epochs)):
        if value < 1:
            fail(f"{name} must be at least 1; got {value}")
    try:
        network = load_network(backend)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None

    with Interrupt() as interrupt:
        folder = new_folder(out, backend)
        finished = run(network, seeds, epochs, interrupt)
        if not finished:
            if out is None:
                folder.rmdir()
            print("Stopped before the first seed was finished: nothing is written.", file=sys.stderr)
            raise typer.Exit(INTERRUPTED)
        metrics = collect(finished, backend, network, seeds, epochs)
        try:
            write(
                folder / "metrics.json",
                lambda path: path.write_text(json.dumps(metrics, default=asdict) + "\n", encoding="utf-8"),
            )
            report.show(Console(), metrics)
            write(folder / "digits.png", lambda path: figure.draw(metrics, path))
        except KeyboardInterrupt:  # the second Ctrl-C
            names = ", ".join(sorted(file.name for file in folder.iterdir()))
            print(f"Stopped while writing to {folder}, which holds: {names or 'nothing'}.", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        print(f"\nWritten: {folder / 'metrics.json'}, {folder / 'digits.png'}", flush=True)
        if interrupt.asked:
            print(f"Stopped: {len(finished)} of {seeds} seeds were finished; the results are theirs.", file=sys.stderr)
            raise typer.Exit(INTERRUPTED)


class Stopped(Exception):
    """Raised between two epochs when Ctrl-C has come."""


class Interrupt:
    """Takes note of Ctrl-C, so that it never comes in the middle of something. The second one stops at once."""

    def __enter__(self) -> "Interrupt":
        self.asked = False
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, *_: Any) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, self._before)
        # Not print: the signal may have come in the middle of another one.
        os.write(2, b"\nStopping; the seeds that are finished are kept. Ctrl-C once more: at once.\n")

    def stop(self) -> None:
        """Raise Stopped if Ctrl-C has come."""
        if self.asked:
            raise Stopped


def run(network: ModuleType, seeds: int, epochs: int, interrupt: Interrupt) -> list[dict[str, Any]]:
    """Train every method from every seed: the curves by method of each seed that was finished."""
    steps = {method.name: training.make_step(network, method) for method in training.METHODS}
    finished = []
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left:"),
               TimeRemainingColumn())  # fmt: skip
    with suppress(Stopped), Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=seeds * len(training.METHODS) * epochs)

        def on_epoch() -> None:
            progress.advance(task)
            interrupt.stop()

        for seed in range(seeds):
            curves = {}
            for method in training.METHODS:
                progress.update(task, description=f"seed {seed + 1} of {seeds}, {method.name:18}")
                curves[method.name] = training.train(network, method, steps[method.name], seed, epochs, on_epoch)
            finished.append(curves)
    return finished


def collect(
    finished: list[dict[str, Any]], backend: str, network: ModuleType, seeds: int, epochs: int
) -> dict[str, Any]:
    """What metrics.json holds: versions, options, every curve of every seed, and what the report says of them."""
    curves = {
        method: {name: [seed[method][name] for seed in finished] for name in finished[0][method]}
        for method in finished[0]
    }
    framework = importlib.import_module(backend)
    return {
        "backend": backend,
        "versions": {
            "python": platform.python_version(),
            "gradient-centralization": gc_core.__version__,
            "numpy": version("numpy"),
            "scikit-learn": version("scikit-learn"),
            backend: framework.__version__,
        },
        "options": {
            "seeds": seeds,
            "epochs": epochs,
            "batch": data.BATCH,
            "sizes": data.SIZES,
            "layout": network.LAYOUT,
            "gamma": training.GAMMA,
        },
        "methods": [method._asdict() for method in training.METHODS],
        "interrupted": len(finished) < seeds,
        "seeds": list(range(len(finished))),
        "steps_per_epoch": len(finished[0]["SGDM"]["loss"]) // epochs,
        "curves": curves,
        "summary": summary(curves),
        "differences": differences(curves),
    }


def write(path: Path, fill: Callable[[Path], Any]) -> None:
    """The whole file or none: it gets its name when it is complete."""
    unfinished = path.with_name(f".unfinished-{path.name}")
    try:
        fill(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load_network(backend: str) -> ModuleType:
    """The network of this backend; or one line that says what is missing."""
    if backend not in BACKENDS:
        fail(f"--backend must be one of {', '.join(BACKENDS)}; got {backend!r}")
    try:
        framework = importlib.import_module(backend)
        if backend == "cupy":
            need_gpu(framework)
        return importlib.import_module(f"examples.digits.{backend}_network")
    except ModuleNotFoundError as error:
        extra = {"cupy": "cupy-cuda13"}.get(backend, backend)
        install = f"{shlex.quote(sys.executable)} -m pip install --constraint constraints.txt --editable '.[{extra}]'"
        fail(f"--backend {backend} needs {error.name}, which is not installed. In this folder: {install}")
    except ImportError as error:
        fail(f"--backend {backend}: it is installed but cannot be imported: {error}")


def need_gpu(cupy: Any) -> None:
    """Without a GPU CuPy can be imported, and fails at the first array."""
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        fail(f"--backend cupy needs an NVIDIA GPU and its driver, and CuPy finds none here ({error})")


def new_folder(out: Path | None, backend: str) -> Path:
    """The folder of this run, made now so that a bad one is known before the training. Never one that holds files."""
    try:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            if any(out.iterdir()):
                fail(f"--out {out} is not empty, and results are never overwritten: name another folder")
            return out
        for number in itertools.count(1):
            folder = Path("runs") / f"digits-{backend}-{number}"
            with suppress(FileExistsError):
                folder.mkdir(parents=True)
                return folder
    except OSError as error:
        fail(f"cannot write to {out or 'runs'}: {error.strerror or error}")
    raise AssertionError


def fail(message: str) -> NoReturn:
    """One line, and the exit code for wrong usage."""
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(2)

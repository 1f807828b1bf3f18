"""`gc-conformance vectors`: write test vectors, and hold a port to them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from . import report, vectors
from .cli_options import PORT, CallOption, CannotRun, LimitOption, write
from .loading import COMMAND
from .port import PortError
from .process import Worker
from .runner import TIME_LIMIT

app = typer.Typer(no_args_is_help=True, help="Test vectors: how a port in any language is tested.")


@app.command("write")
def vectorswrite(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    pack: Annotated[bool, typer.Option("--pack", help="Into one archive, named by their version.")] = False,
) -> None:
    """Write all vectors and their schema to a folder, as JSON."""
    try:
        files = [vectors.pack(folder)] if pack else vectors.write(folder)
    except OSError as error:
        raise CannotRun(f"{folder} cannot be written: {error}") from error
    for file in files:
        print(f"{file}  {file.stat().st_size:,} bytes")


@app.command("check")
def vectors_check(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    port: Annotated[str | None, typer.Argument(help=PORT)] = None,
    command: Annotated[str | None, typer.Option(help="A program that is a port.")] = None,
    time_limit: LimitOption = TIME_LIMIT,
    call: CallOption = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all results here; - for stdout.")] = None,
) -> None:
    """Hold a port to the vectors in a folder; exit codes as of `run`."""
    if (port is None) == (command is None):
        raise CannotRun("name a PORT, or a program with --command.")
    target = port or f"{COMMAND} {command}"
    try:
        found = vectors.read(folder)
        worker = Worker(target, time_limit, call=call)
    except (PortError, vectors.VectorsError) as error:
        raise CannotRun(str(error)) from error
    screen = report.Screen(stderr=str(json_file) == "-")
    with contextlib.closing(worker), report.counter(worker.name) as progress:
        results = vectors.check(found, worker.vector, progress)
    code = report.show_vectors(worker.name, vectors.VERSION, results, screen)
    if json_file:
        write(json_file, vectors.to_json(worker.name, results, code))
    raise typer.Exit(code)

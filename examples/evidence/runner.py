"""Runs, one at a time or a few, each in a process of its own; a line is kept as soon as one is done."""

import datetime
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from examples.evidence import results
from examples.evidence.settings import Cell

try:
    import fcntl
except ImportError:  # Windows: there nothing keeps two commands apart
    fcntl = None

ROOT = Path(__file__).parents[2]
CELL = "examples.evidence.cell"
NICE = 19  # a machine is for those who sit at it
# glibc otherwise hands the memory of each step's activations back to the system: a fifth of a run's time.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}


class Failed(Exception):
    """A run that ended without a result, or could not begin; its text says why."""


class Where(NamedTuple):
    """The folders of a run."""

    data: Path
    cache: Path
    out: Path


def free_cores() -> int:
    """How many runs at a time: as many as there are cores that nobody uses now, and one at least."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, round(cores - (os.getloadavg()[0] if hasattr(os, "getloadavg") else 0)))


@contextmanager
def alone(cache: Path) -> Iterator[None]:
    """Two commands at once would run the same cells."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failed(f"another command is running cells (it holds {cache / 'lock'})") from None
        yield


def run(cells: list[Cell], where: Where, threads: int, jobs: int, done: Callable[[Cell], None]) -> None:
    """Run these cells and append their lines. Whatever ends this ends the runs that go on: they alone are lost.

    Raises:
        Failed: a run ended without a result, or another command is at it.
    """
    going: set[subprocess.Popen] = set()
    stopped = threading.Event()
    with alone(where.cache), ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(_one, cell, where, threads, going, stopped): cell for cell in cells}
        try:
            for future in as_completed(waiting):
                line, seconds = future.result()
                cell = waiting[future]
                results.append(where.out, line, cell.kind)
                today = datetime.datetime.now(datetime.UTC).date().isoformat()
                spent = {"cell": cell.key, "core_seconds": round(seconds, 1), "date": today}
                results.append(where.out, json.dumps(spent), "spent")
                done(cell)
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(going):
                process.kill()


def _one(
    cell: Cell, where: Where, threads: int, going: set[subprocess.Popen], stopped: threading.Event
) -> tuple[str, float]:
    """The line of a cell, and the seconds of cores that it took."""
    environment = {**os.environ, **MEMORY, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", CELL, json.dumps(cell.to_dict()), str(where.data.resolve()),
               str(where.cache.resolve()), str(threads), str(NICE)]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, encoding="utf-8",
    ) as process:  # fmt: skip
        going.add(process)
        if stopped.is_set():  # it began while the others were ended
            process.kill()
        try:
            printed, said = process.communicate()
        finally:
            going.discard(process)
    if process.returncode != 0:
        last = said.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise Failed(f"the cell `{cell.key}` failed: {last[0]}")
    line, seconds = printed.splitlines()
    return line, float(seconds)

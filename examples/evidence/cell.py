"""One run in a process of its own: `python -m examples.evidence.cell CELL DATA CACHE THREADS NICE`.

It prints its line, and how many seconds of cores it took.
"""

import json
import os
import platform
import signal
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import gc_core
from examples.evidence import data, images, results, text
from examples.evidence.settings import Cell

RUN = {"images": images.run, "tuning": images.tune, "text": text.run}


def line(cell: Cell, found: dict[str, Any], about_data: str) -> str:
    """What is kept of a run: nothing in it differs when it is run again on the same machine."""
    about = {
        "data": about_data,
        "machine": f"{processor()}, {platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "versions": {
            "gradient-centralization": gc_core.__version__,
            "torch": version("torch"),
            "numpy": version("numpy"),
            "python": platform.python_version(),
        },
    }
    return json.dumps({**cell.to_dict(), "found": results.rounded(found), "about": about})


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one
    cell, threads, nice = Cell.from_dict(json.loads(sys.argv[1])), int(sys.argv[4]), int(sys.argv[5])
    os.nice(nice)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    loaded = data.load(cell.kind, Path(sys.argv[2]), Path(sys.argv[3]))
    print(line(cell, RUN[cell.kind](cell.setting, cell.seed, loaded), loaded.about))
    print(time.process_time())


if __name__ == "__main__":
    main()

"""What importing each package costs beside importing its framework alone, as a difference.

Writes `benchmarks/results/import_time.json`. Every import runs in a fresh process; within a round all of them take
turns, in random order, so that what else the machine does falls on all alike.
"""

import json
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import harness

FILE = Path(__file__).parent / "results" / "import_time.json"
ROUNDS = 15
CASES = {  # package: what it needs anyway, and by how many ms it may exceed that
    "gc_core": ("numpy", 20),
    "gc_torch": ("torch", 60),
    "gc_jax": ("jax, optax", 40),
}
# Of CPU time, too: on a busy machine it varies less.
TIMED = """
import time
wall, cpu = time.perf_counter(), time.process_time()
import {modules}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def milliseconds(modules: str) -> tuple[float, float]:
    """Of wall and CPU time, that importing them takes in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(modules=modules)], check=True, capture_output=True, text=True
    )
    wall, cpu = map(float, done.stdout.split())
    return 1000 * wall, 1000 * cpu


def measured(rounds: int, seed: int = 0) -> dict[str, dict[str, Any]]:
    """The differences of every round, and their medians, by package."""
    rng = random.Random(seed)
    asked = [words for package, (base, _) in CASES.items() for words in (base, f"{base}, {package}")]
    taken: dict[str, list[tuple[float, float]]] = {words: [] for words in asked}
    for round_ in range(-1, rounds):  # the first one fills the caches of the disk and of bytecode
        rng.shuffle(asked)
        for words in asked:
            one = milliseconds(words)
            if round_ >= 0:
                taken[words].append(one)
    return {package: case(package, taken) for package in CASES}


def case(package: str, taken: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """What one package adds: a round's two imports are compared with each other alone."""
    base, at_most = CASES[package]
    alone, beside = taken[base], taken[f"{base}, {package}"]
    more = [[b - a for a, b in zip(first, second, strict=True)] for first, second in zip(alone, beside, strict=True)]
    walls, cpus = (sorted(of) for of in zip(*more, strict=True))
    quarter = len(walls) // 4
    return {
        "beside": base,
        "rounds": len(walls),
        "framework_ms": statistics.median(wall for wall, _ in alone),
        "more_ms": statistics.median(walls),
        "more_ms_quartiles": [walls[quarter], walls[-1 - quarter]],
        "more_cpu_ms": statistics.median(cpus),
        "at_most_ms": at_most,
    }


if __name__ == "__main__":
    found = measured(int(sys.argv[1]) if sys.argv[1:] else ROUNDS)
    results = {"about": harness.machine(), "rows": [{"package": package, **one} for package, one in found.items()]}
    FILE.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))

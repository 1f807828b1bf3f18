"""What every benchmark here shares: interleaved timing, ratios with their intervals, a table, a JSON file, a picture.

A benchmark is a list of cases. In a case several peers do the same work; each does it once in every round, in an order
drawn anew, so that whatever disturbs the machine disturbs all of them. The peer that the others are held against is
there twice (A/A): what its two medians differ by is noise.
"""

import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
AGAIN = "the same again (A/A)"


@dataclass
class Case:
    """What was measured of one workload.

    Args:
        name: of the workload: "resnet50, Adam".
        base: the peer that the others are held against; `AGAIN` is the same a second time.
        numbers, tensors: how many the workload has.
        floor: bytes that a step cannot but move.
        seconds: of every round, by peer.
        extra: anything else, by peer: {"gc_torch": {"MiB beyond": 0.1}}.
    """

    name: str
    base: str
    numbers: int
    tensors: int
    floor: int
    seconds: dict[str, list[float]]
    extra: dict[str, dict[str, float]] = field(default_factory=dict)

    def median(self, peer: str) -> float:
        return statistics.median(self.seconds[peer])

    def ratio(self, peer: str) -> float:
        """Of the medians."""
        return self.median(peer) / self.median(self.base)

    def interval(self, peer: str) -> tuple[float, float]:
        """95 % of the ratios when rounds are drawn again (bootstrap)."""
        rng = np.random.default_rng(0)
        ours, base = np.array(self.seconds[peer]), np.array(self.seconds[self.base])
        drawn = rng.integers(len(base), size=(2000, len(base)))
        low, high = np.quantile(np.median(ours[drawn], axis=1) / np.median(base[drawn], axis=1), [0.025, 0.975])
        return float(low), float(high)


def measure(
    steps: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    warm_up: int = 3,
    before: Callable[[str], Any] | None = None,
    wait: Callable[[], Any] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of each peer in each round.

    Args:
        steps: what each peer does.
        rounds: how often.
        warm_up: rounds before those.
        before: called with the peer's name before each of its steps, outside the time.
        wait: returns when a device has done all that it was given.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order, rng = list(steps), random.Random(0)
    gc.collect()
    gc.disable()  # a collection would fall into some peer's time
    try:
        for round_ in range(-warm_up, rounds):
            rng.shuffle(order)
            for name in order:
                if before is not None:
                    before(name)
                wait()
                start = time.perf_counter()
                steps[name]()
                wait()
                if round_ >= 0:
                    seconds[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return seconds


def peak_beyond(step: Callable[[], Any]) -> float:
    """MiB of memory that a step needs beside what the process has before it, at its highest.

    Raises:
        NotImplementedError: the system is not Linux with glibc, and does not tell it.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else memory that earlier steps have freed would be used again, unseen
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak is what there is now
    except (AttributeError, OSError, TypeError) as error:  # Windows has no library of the process
        raise NotImplementedError(f"the memory of a step is measured on Linux with glibc alone: {error}") from None
    before = _status("VmRSS")
    step()
    return max(0, _status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def copy_bandwidth(copy: Callable[[], Any], numbers: int, wait: Callable[[], Any] = lambda: None) -> float:
    """Bytes a second, read and written, of the best of many copies of that many float32 numbers."""
    best = min(min(measure({"": copy}, 20, wait=wait)[""]) for _ in range(2))
    return 2 * 4 * numbers / best


def machine() -> dict[str, Any]:
    """What the figures hang on: hardware and versions, and nothing that names the machine."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    versions = {"python": platform.python_version()}
    for name in ("numpy", "torch", "numba", "triton", "jax", "optax", "cupy-cuda13x", "gradient-centralization"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.system(), "versions": versions}


def save(name: str, about: Mapping[str, Any], cases: Iterable[Case]) -> Path:
    """Write `results/NAME.json`: what it was measured on, and every case with all of its seconds."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    rounded = [
        {**asdict(case), "seconds": {peer: [float(f"{t:.4g}") for t in times] for peer, times in case.seconds.items()}}
        for case in cases
    ]
    path.write_text(json.dumps({"about": about, "cases": rounded}, indent=1) + "\n", encoding="utf-8")
    return path


def load(name: str) -> tuple[dict[str, Any], list[Case]]:
    """What `save` wrote."""
    found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found["about"], [Case(**case) for case in found["cases"]]


def show(title: str, cases: Iterable[Case]) -> None:
    """Print a table: for each case, each peer's median, its ratio to the base, and the bytes a second by the floor."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column, justify in (
        ("case", "left"), ("peer", "left"), ("ms", "right"), ("ratio", "right"), ("95 %", "left"), ("GB/s", "right"),
        ("beside", "left"),
    ):  # fmt: skip
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for case in cases:
        for i, peer in enumerate(case.seconds):
            low, high = case.interval(peer)
            table.add_row(
                case.name if i == 0 else "",
                peer,
                f"{1000 * case.median(peer):.3f}",
                "1" if peer == case.base else f"{case.ratio(peer):.2f}",
                "" if peer == case.base else f"{low:.2f}–{high:.2f}",
                f"{case.floor / case.median(peer) / 1e9:.1f}",
                ", ".join(f"{what} {value:.2f}" for what, value in case.extra.get(peer, {}).items()),
                end_section=i == len(case.seconds) - 1,
            )
    Console(width=130).print(table)


def picture(
    path: Path, models: list[Case], sweep: Mapping[str, list[Case]], peers: list[str], ceiling: tuple[str, float]
) -> None:
    """Left: ratios to the base by workload. Right: bytes a second by size, below what the plainest operation reaches.

    Args:
        path: of the picture.
        models: cases for the bars.
        sweep: cases by what varies ("parameters"), for the lines; drawn over `numbers`.
        peers: those to draw.
        ceiling: the name of that operation, and its bytes a second.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (bars, lines) = pyplot.subplots(1, 2, figsize=(13, 4.8), layout="constrained")
    colors = {peer: f"C{i}" for i, peer in enumerate(peers)}
    height = 0.8 / len(peers)
    for i, peer in enumerate(peers):
        there = [(j, case) for j, case in enumerate(models) if peer in case.seconds]
        places = [j + (i - (len(peers) - 1) / 2) * height for j, _ in there]
        ratios = [case.ratio(peer) for _, case in there]
        low, high = zip(*[case.interval(peer) for _, case in there], strict=True) if there else ((), ())
        errors = [[max(0, r - x) for r, x in zip(ratios, low, strict=True)],
                  [max(0, x - r) for r, x in zip(ratios, high, strict=True)]]  # fmt: skip
        bars.barh(places, ratios, height, xerr=errors, color=colors[peer], label=peer)
    bars.axvline(1, color="black", linewidth=0.8)
    bars.set_yticks(range(len(models)), [case.name for case in models])
    bars.invert_yaxis()
    bars.set_xscale("log")
    ticks = [0.5, 1, 2, 4, 8]
    bars.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    bars.minorticks_off()
    bars.set_xlabel(f"time of a step, relative to {models[0].base}" if models else "")
    bars.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    for style, (what, cases) in zip(("-", "--", ":"), sweep.items(), strict=False):
        for peer in peers:
            there = [case for case in cases if peer in case.seconds]
            if there:
                lines.plot(
                    [case.numbers for case in there],
                    [case.floor / case.median(peer) / 1e9 for case in there],
                    style, marker="o", markersize=3, color=colors[peer], label=f"{peer}, {what}",
                )  # fmt: skip
    lines.axhline(ceiling[1] / 1e9, color="black", linewidth=0.8, linestyle="--", label=ceiling[0])
    lines.set_xscale("log")
    lines.set_ylim(bottom=0)
    lines.set_xlabel("parameters")
    lines.set_ylabel("GB/s, by the fewest bytes a step can move")
    lines.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)

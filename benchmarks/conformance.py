"""How long the conformance suite takes on one CPU port: python -m benchmarks.conformance [PORT] [--profile quick]

Wall and processor time of each profile against what it may take, and the slowest properties. The port is judged as the
command judges it, in a process of its own; `gc_core` where none is named; `gc_conformance.honest:Straight --call` has
what every chapter asks for. With --keep, the times are kept in benchmarks/results/conformance.json.
"""

import json
import os
import sys
import time
from typing import Annotated

import typer

import gc_conformance
from benchmarks.harness import RESULTS, machine

FILE = RESULTS / "conformance.json"
MAY_TAKE = {"quick": 10.0, "standard": 60.0}  # seconds


def measure(port: str, call: bool, profile: str) -> tuple[float, float, list]:
    """Wall seconds, processor seconds with those of the port's process, and the results."""
    before, started = os.times(), time.perf_counter()
    result = gc_conformance.run(port, call=call, profile=profile, level="contract")
    after = os.times()
    spent = sum(after[:4]) - sum(before[:4])
    return time.perf_counter() - started, spent, sorted(result.results, key=lambda one: -one.seconds)


def main(
    port: Annotated[str, typer.Argument(help="What gc-conformance takes.")] = "gc_core",
    call: Annotated[bool, typer.Option("--call", help="PORT is a class or a function that makes the port.")] = False,
    profile: Annotated[list[str] | None, typer.Option(help="quick or standard; both where left out.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the times.")] = False,
) -> None:
    late = False
    rows = json.loads(FILE.read_text(encoding="utf-8"))["rows"] if FILE.exists() else {}
    for name in profile or list(MAY_TAKE):
        wall, spent, results = measure(port, call, name)
        late = late or spent > MAY_TAKE[name]
        print(f"{name}: {wall:.1f} s, {spent:.1f} s of the processor; it may take {MAY_TAKE[name]:g} s on a free one")
        row = {"seconds": wall, "seconds of the processor": spent, "may take": MAY_TAKE[name]}
        rows[f"{port}, {name}"] = {**row, "properties": sum(one.status != "not provided" for one in results)}
        for one in results[:5]:
            print(f"  {one.seconds:5.2f} s  {one.id} ({one.examples} examples)")
    if keep:
        FILE.write_text(json.dumps({"about": machine(), "rows": rows}, indent=1) + "\n", encoding="utf-8")
    sys.exit(late)


if __name__ == "__main__":
    typer.run(main)

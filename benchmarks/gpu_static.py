"""What a step costs on a GPU as far as it can be computed without one: `python -m benchmarks.gpu_static`.

The Triton kernel is compiled for every model, dtype, rule and place of GC that is listed, and for every kind of block
in it alone. Of the machine code are read: registers, spills, the width of loads and stores, instructions. Of the list
of work: elements, programs, launches. From both, by this model:

    bytes an element    loads and stores in PTX, over the elements of a block
    issue slots         warp instructions ÷ (4 a clock · the clocks that the bytes take at 92 % of copy bandwidth)

A multiprocessor issues 4 warp instructions a clock. Of an H200 a copy has been seen at 4.3 TB/s, with 132 of them at
1.98 GHz: 92 % is 15.15 bytes a clock and multiprocessor. Of a kind with loops every instruction is counted for every
turn, which is too much. Nothing here has been measured.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.gpu_compile import THREADS, Compiled, bits, step
from benchmarks.gpu_speed import WORKLOADS
from benchmarks.shapes import Shape
from gc_core.plan import Row
from gc_torch import kernels_gpu_work as list_of_work
from gc_torch import table

NAME = "computed_gpu"
BYTES_A_CLOCK = 0.92 * 4.3e12 / (132 * 1.98e9)
ISSUED = 4  # warp instructions a clock
ITEMSIZE = {"float32": 4, "bfloat16": 2}
RULES = {"SGD": ("sgd", "MOMENTUM", "L2"), "AdamW": ("adam", "DECOUPLED")}
PLACES = {"gradient": (), "update": ("ON_UPDATE",)}
FEWEST = {"SGD": 5, "AdamW": 7}  # passes
SLOTS = {"float32": 0.60, "bfloat16": 0.85}
WARPS = 16
KINDS = ("FLAT", "SPLIT", "COLUMNS", "LONG", "GROUPS", "ROWS", "PACKED", "WIDE", "RAGGED", "TALL")


def rows_of(shapes: list[Shape]) -> np.ndarray:
    """The table of a model whose tensors lie at multiples of 16 bytes."""
    import torch

    rows = np.zeros((len(shapes), len(table.COLUMNS)), np.int64)
    rows[:, : table.STEP] = 4096
    for row, one in zip(rows, shapes, strict=True):
        rule = Row("", one.shape, one.shape, one.axes, "")
        seen = table.geometry(torch.empty(one.shape, device="meta"), rule)
        assert seen is not None
        row[table.OUTER :] = seen
    return rows


def name_of(kind: int) -> str:
    """Of a kind of block: "ROWS 1024", "TALL 2", "PACKED 16 an element at a time"."""
    plain, apart = kind % list_of_work.UNALIGNED, kind >= list_of_work.UNALIGNED
    name = max((name for name in KINDS if getattr(list_of_work, name) <= plain), key=lambda x: getattr(list_of_work, x))
    more = plain - getattr(list_of_work, name)
    size = {
        "ROWS": f" {list_of_work.SHORTEST << more}", "PACKED": f" {list_of_work.SHORTEST << more}",
        "WIDE": f" {more + 1}", "RAGGED": f" {more + 1}", "TALL": f" {more + 1}", "GROUPS": f" {more}",
    }.get(name, "")  # fmt: skip
    return f"{name}{size}{' an element at a time' if apart else ''}"


def turns(kind: int, row: np.ndarray, itemsize: int) -> tuple[int, int]:
    """How many tiles a program of this kind has, and how often it runs through its code.

    Returns:
        Elements a thread of the accesses that stand in the code, and turns.
    """
    plain, tile = kind % list_of_work.UNALIGNED, list_of_work.TILE
    each = tile // THREADS
    if plain >= list_of_work.WIDE:
        first = next(getattr(list_of_work, x) for x in ("TALL", "RAGGED", "WIDE") if plain >= getattr(list_of_work, x))
        return each * (plain - first + 1), 1
    _, r1, _, r2 = (int(x) for x in row[table.OUTER : table.CENTRALIZE])
    part = tile if kind < list_of_work.UNALIGNED else tile // 2
    line = list_of_work.STRIP // itemsize
    if plain == list_of_work.COLUMNS:
        return part // THREADS, -(-r1 // (part // line))
    if list_of_work.GROUPS <= plain < list_of_work.ROWS:
        return part // THREADS, -(-r1 // (part // (line << plain - list_of_work.GROUPS)))
    if plain in (list_of_work.LONG, list_of_work.SPLIT):
        return part // THREADS, -(-r1 * r2 // part)
    return each, 1


def case(model: str, shapes: list[Shape], dtype: str, rule: str, place: str, compiled: Any) -> dict[str, Any]:
    """One model, computed. `compiled` gives what was found of a kernel by options, kinds and capability."""
    itemsize = ITEMSIZE[dtype]
    kind, *names = RULES[rule]
    options = bits(kind, *names, *PLACES[place], half=itemsize == 2)
    rows = rows_of(shapes)
    entries, launches = list_of_work.parts(list_of_work.work(rows, itemsize, "L2" in names), one_by_one=False)
    ((_, _, present),) = launches
    whole: Compiled = compiled(options, present, dtype, 90)
    older: Compiled = compiled(options, present, dtype, 80)

    sizes = rows[:, [table.OUTER, table.R1, table.INNER, table.R2]].prod(1)
    own, tensor = entries >> 56, entries >> 32 & 0xFFFFFF
    blocks: list[dict[str, Any]] = []
    warp_instructions = moved = 0.0
    for one in np.unique(own).tolist():
        alone: Compiled = compiled(options, 1 << one, dtype, 90)
        bytes_a_thread, narrow = alone.moved(itemsize)
        there = tensor[own == one]
        tensors, programs = np.unique(there, return_counts=True)
        # A tensor has blocks of one kind, but for its last one where elements do not come out even.
        elements, run = 0.0, 0.0
        for at, number in zip(tensors.tolist(), programs.tolist(), strict=True):
            elements += sizes[at] * number / (tensor == at).sum()
            run += number * alone.instructions * turns(one, rows[at], itemsize)[1]
        each = turns(one, rows[tensors[0]], itemsize)[0]
        bytes_each = bytes_a_thread / each
        warps_run = run * THREADS / 32
        clocks = elements * bytes_each / BYTES_A_CLOCK
        blocks.append(
            {
                "kind": name_of(one), "share of elements": elements / sizes.sum(), "programs": int(programs.sum()),
                "registers": alone.registers, "spilled": alone.spilled, "bytes an element": bytes_each,
                "narrow accesses": narrow, "instructions an element": warps_run * 32 / elements,
                "issue slots": warps_run / ISSUED / clocks,
            }
        )  # fmt: skip
        warp_instructions += warps_run
        moved += elements * bytes_each
    return {
        "model": model, "dtype": dtype, "rule": rule, "gc_on": place, "tensors": len(shapes),
        "numbers": int(sizes.sum()), "launches": 1 + (kind == "adam"), "registers": whole.registers,
        "spilled": whole.spilled, "warps a multiprocessor": whole.warps, "shared bytes": whole.shared,
        "registers sm_80": older.registers, "spilled sm_80": older.spilled,
        "bytes an element": moved / float(sizes.sum()), "fewest bytes": FEWEST[rule] * itemsize,
        "issue slots": warp_instructions / ISSUED / (moved / BYTES_A_CLOCK), "blocks": blocks,
    }  # fmt: skip


def missed(one: dict[str, Any]) -> list[str]:
    """Which goals a case does not reach, and what holds it."""
    found = []
    if one["spilled"] or one["spilled sm_80"]:
        found.append(f"spills {max(one['spilled'], one['spilled sm_80'])} bytes a thread")
    if one["warps a multiprocessor"] < WARPS:
        found.append(f"{one['warps a multiprocessor']} warps a multiprocessor, of {WARPS}")
    for block in one["blocks"]:
        if block["issue slots"] > SLOTS[one["dtype"]] and block["share of elements"] > 0.01:
            found.append(f"{block['kind']}: {100 * block['issue slots']:.0f} % of the issue slots")
        if block["narrow accesses"] and block["share of elements"] > 0.01:
            found.append(f"{block['kind']}: {block['narrow accesses']} loads and stores of less than 16 bytes")
        if block["bytes an element"] > one["fewest bytes"]:
            found.append(
                f"{block['kind']}: {block['bytes an element']:g} bytes an element, not {one['fewest bytes']}, where a "
                "cache holds nothing: more rows than registers can keep are read a second time"
            )
    return found


def wanted(models: list[str]) -> Iterator[tuple[str, list[Shape], str, str, str]]:
    for model in models:
        for dtype in ITEMSIZE:
            for rule in RULES:
                for place in PLACES:
                    yield model, WORKLOADS[model](), dtype, rule, place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[*WORKLOADS], choices=[*WORKLOADS])
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    known: dict[Any, Compiled] = {}

    def compiled(options: int, kinds: int, dtype: str, capability: int) -> Compiled:
        key = options, kinds, dtype, capability
        if key not in known:
            known[key] = step(options, kinds, dtype, capability=capability)
        return known[key]

    def compute(one: tuple[str, list[Shape], str, str, str]) -> dict[str, Any]:
        found = case(*one, compiled)
        found["missed"] = missed(found)
        print(f"  {' '.join((one[0], *one[2:]))}: {'; '.join(found['missed']) or 'all goals'}", file=sys.stderr)
        return found

    with ThreadPoolExecutor(arguments.processes) as pool:
        cases = list(pool.map(compute, wanted(arguments.models)))
    machine = harness.machine()
    about = {
        "computed": "from machine code and lists of work; nothing was measured, and no GPU was there",
        "versions": {name: machine["versions"][name] for name in ("triton", "torch") if name in machine["versions"]},
        "bytes a clock and multiprocessor": round(BYTES_A_CLOCK, 2),
    }
    file = harness.RESULTS / f"{NAME}.json"
    if file.exists():  # the other models stay what they were
        kept = json.loads(file.read_text(encoding="utf-8"))["cases"]
        cases += [one for one in kept if one["model"] not in arguments.models]
        cases.sort(key=lambda one: [*WORKLOADS].index(one["model"]))
    file.write_text(json.dumps({"about": about, "cases": rounded(cases)}, indent=1) + "\n", encoding="utf-8")
    print(file.relative_to(harness.RESULTS.parents[1]))


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()

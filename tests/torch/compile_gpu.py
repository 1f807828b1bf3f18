"""The Triton kernel compiled for GPUs, without one: a program, for where Triton's interpreter is on nothing compiles.

python -m tests.torch.compile_gpu FEW|ALL [FIRST STEP]        writes one line of JSON for each kernel
"""

import itertools
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)

from benchmarks.gpu_compile import bits, count, kinds_of, step
from gc_torch import kernels_gpu_work as work

EVERY_ROW = [("ROWS", k) for k in range(9)]
EVERY_KIND = ["FLAT", "COLUMNS", "LONG", *EVERY_ROW, *(("GROUPS", k) for k in range(4))]
EVERY_KIND += [("PACKED", k) for k in range(9)]
KEPT = [(name, k) for name in ("WIDE", "RAGGED", "TALL") for k in range(work.KEPT)]
UNALIGNED = ["FLAT", "SPLIT", "COLUMNS", "LONG", *(("GROUPS", k) for k in range(4)), *(("PACKED", k) for k in range(9))]
SCALER = ("SCALED", "GUARDED", "LR_TENSOR")


def apart(*names: Any) -> int:
    """The same kinds, read an element at a time."""
    return kinds_of(*names) << work.UNALIGNED


def few() -> Iterator[dict[str, Any]]:
    """One of each: both rules, both places, both architectures, every dtype, aligned and not."""
    some = kinds_of("FLAT", ("ROWS", 6), ("WIDE", 1), ("TALL", 5))
    yield dict(name="adam aligned", options=bits("adam"), kinds=some, dtype="float32", capability=90)
    full = bits("sgd", "MOMENTUM", "NESTEROV", "L2", "ON_UPDATE", "MAXIMIZE", *SCALER)
    some = kinds_of(("ROWS", 8), ("ROWS", 0), ("PACKED", 0), ("TALL", work.KEPT_WITH_L2 - 1), "COLUMNS")
    yield dict(name="sgd aligned", options=full, kinds=some, dtype="float32", capability=80)
    full = bits("adam", "AMSGRAD", "DECOUPLED", "ON_UPDATE", *SCALER, half=True)
    some = kinds_of("FLAT", ("PACKED", 3), ("RAGGED", 0), ("TALL", 0))
    yield dict(name="adam aligned", options=full, kinds=some, dtype="bfloat16", capability=90)
    some = apart("COLUMNS", ("PACKED", 0), "FLAT")
    yield dict(name="adam apart", options=bits("adam", half=True), kinds=some, dtype="float16", state_dtype="float32", capability=80)  # fmt: skip # noqa: E501
    yield dict(name="adam apart", options=bits("adam"), kinds=apart("FLAT", "SPLIT"), dtype="float64", capability=90)
    some = kinds_of("FLAT", ("ROWS", 6), ("TALL", 0))
    for way, dtype in (("KAHAN", "bfloat16"), ("STOCHASTIC", "bfloat16"), ("STOCHASTIC", "float16")):
        yield dict(name="low precision", options=bits("adam", way, half=True), kinds=some, dtype=dtype, capability=90)
    # What is computed of rows of 1024 must not hang on what is in the launch beside them.
    for names in ([], ["FLAT"], [("ROWS", 6)], ["FLAT", ("ROWS", 6)]):
        yield dict(name="alone", options=bits("adam"), kinds=kinds_of(*names), dtype="float32", capability=90)


def every() -> Iterator[dict[str, Any]]:
    """Every option, dtype and kind of block, for sm_80 and sm_90."""
    sgds = [("MOMENTUM",), ("MOMENTUM", "NESTEROV"), ("MOMENTUM", "FRESH"), ("MOMENTUM", "FRESH", "NESTEROV"), ()]
    rules = [*(("sgd", rest) for rest in sgds), ("adam", ()), ("adam", ("AMSGRAD",))]
    halves = [("float16", None), ("bfloat16", None), ("bfloat16", "float32"), ("float16", "float32")]
    for capability, (rule, rest), decay, place, more in itertools.product(
        (90, 80), rules, ((), ("L2",), ("DECOUPLED",)), ((), ("ON_UPDATE",)), ((), ("MAXIMIZE",), SCALER)
    ):
        for dtype, state in (("float32", None), ("float64", None), *halves):
            options = bits(rule, *rest, *decay, *place, *more, half=dtype not in ("float32", "float64"))
            for name, kinds in (
                ("aligned", kinds_of(*EVERY_KIND, *KEPT)),
                ("apart", apart(*UNALIGNED)),
            ):
                yield dict(
                    name=f"{rule} {name} {options}", options=options, kinds=kinds, dtype=dtype, state_dtype=state,
                    capability=capability,
                )  # fmt: skip


if __name__ == "__main__":
    chosen = list(few() if sys.argv[1] == "FEW" else every())
    first, by = (int(x) for x in sys.argv[2:4]) if len(sys.argv) > 3 else (0, 1)  # a sample of them
    for one in chosen[first::by]:
        name = one.pop("name")
        print(json.dumps({"name": name, **one, **asdict(step(**one))}), flush=True)
    for more in ((), ("STOCHASTIC",)):
        print(json.dumps({"name": "count", "dtype": "float32", **asdict(count(80, *more))}))

"""The Triton kernel compiled for GPUs, without one: what its machine code loads, keeps and spills.

    python -m tests.torch.compile_gpu FEW|ALL          writes one line of JSON for each kernel

Run in a process of its own: where Triton's interpreter is on, nothing can be compiled.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gc_torch import kernels_gpu as k

NUMBERS = ("lr", "decay", "a", "b", "c", "d", "eps", "log_beta1", "log_beta2")
EVERY_KIND = sum(1 << kind for kind in range(k.LAST.value + 1))
ALIGNED_KINDS = EVERY_KIND & ~(1 << k.SPLIT) & ~(1 << k.GROUPS)  # these two never are
SCALER = k.SCALED.value | k.GUARDED.value | k.LR_TENSOR.value


def options(*names: str) -> int:
    return sum(getattr(k, name).value for name in names)


def compiled(
    function, constexprs: dict, pointers: tuple[str, ...], numbers: tuple[str, ...], capability: int, warps: int
):
    signature = {name: "*i64" if name in ("work", "rows") else "*fp32" for name in pointers}
    signature |= dict.fromkeys(numbers, "i64") | dict.fromkeys(constexprs, "constexpr")
    source = ASTSource(function, signature, constexprs, {})
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})


def step(capability: int, bits: int, kinds: int, aligned: bool, dtype, state_dtype, step_dtype=tl.float32):
    constexprs = dict(
        OPTIONS=bits, KINDS=kinds, ALIGNED=aligned, DTYPE=dtype, STATE_DTYPE=state_dtype, STEP_DTYPE=step_dtype
    )
    pointers = ("work", "rows", "lr_tensor", "found_inf", "grad_scale")
    return compiled(k._step, constexprs, pointers, NUMBERS, capability, k.WARPS)


def count(capability: int):
    constexprs = dict(OPTIONS=k.GUARDED.value, BLOCK=k._AT_ONCE, STEP_DTYPE=tl.float32)
    return compiled(k._count, constexprs, ("rows", "found_inf"), ("tensors",), capability, 4)


def report(name: str, make, *arguments) -> dict:
    start = time.perf_counter()
    made = make(*arguments)
    seconds = time.perf_counter() - start
    ptx, folder = made.asm["ptx"], Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(made.asm["cubin"])
        command = [folder / "cuobjdump", "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = map(int, re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage).groups())
    return {
        "name": name,
        "accesses": Counter(re.findall(r"\b((?:ld|st)\.global\S*)", ptx)),
        "double precision": len(re.findall(r"\.f64", ptx)),
        "registers": registers,
        "stack": stack + local,
        "seconds": round(seconds, 2),
    }


PLAIN = {"sgd": options("MOMENTUM"), "adam": options("ADAM")}


def few():
    """One of each: both rules, both places, both architectures, every dtype, aligned and not."""
    yield "adam float32 aligned sm_90", step, 90, PLAIN["adam"], ALIGNED_KINDS, True, tl.float32, tl.float32
    full = options("MOMENTUM", "NESTEROV", "L2", "ON_UPDATE", "MAXIMIZE") | SCALER
    rows, columns = 1 << k.LAST.value | 1 << k.ROWS, 1 << k.COLUMNS | 1 << k.GROUPS
    yield "sgd float32 aligned sm_80", step, 80, full, rows | 1 << k.COLUMNS, True, tl.float32, tl.float32
    full = options("ADAM", "AMSGRAD", "DECOUPLED", "ON_UPDATE") | SCALER
    yield (
        "adam bfloat16 aligned sm_90",
        step,
        90,
        full,
        1 << k.LONG | 1 << k.FLAT | rows,
        True,
        tl.bfloat16,
        tl.bfloat16,
    )
    yield "adam float16 unaligned sm_80", step, 80, PLAIN["adam"], columns | rows, False, tl.float16, tl.float32
    yield (
        "adam float64 unaligned sm_90",
        step,
        90,
        PLAIN["adam"],
        1 << k.ROWS | 1 << k.SPLIT,
        False,
        tl.float64,
        tl.float64,
    )
    yield "count sm_80", count, 80


def every():
    """Every option, dtype and alignment, with all kinds of blocks at once, for sm_80 and sm_90."""
    sgds = [
        options(*rest)
        for rest in (
            (),
            ("MOMENTUM",),
            ("MOMENTUM", "NESTEROV"),
            ("MOMENTUM", "FRESH"),
            ("MOMENTUM", "FRESH", "NESTEROV"),
        )
    ]
    adams = [options("ADAM"), options("ADAM", "AMSGRAD")]
    halves = [(tl.float16, tl.float16), (tl.bfloat16, tl.bfloat16), (tl.bfloat16, tl.float32), (tl.float16, tl.float32)]
    dtypes = [(tl.float32, tl.float32), (tl.float64, tl.float64), *halves]
    decays = [0, options("L2"), options("DECOUPLED")]
    places = [0, options("ON_UPDATE")]
    rest = [0, options("MAXIMIZE"), SCALER]
    for capability, rule, decay, place, more in itertools.product((90, 80), sgds + adams, decays, places, rest):
        for (dtype, state), aligned in itertools.product(dtypes, (True, False)):
            bits = rule | decay | place | more
            kinds = ALIGNED_KINDS if aligned else EVERY_KIND
            name = f"{bits} {dtype} {state} {'aligned' if aligned else 'unaligned'} sm_{capability}"
            yield name, step, capability, bits, kinds, aligned, dtype, state
    yield from (("count sm_80", count, 80), ("count sm_90", count, 90))


if __name__ == "__main__":
    chosen = list(few() if sys.argv[1] == "FEW" else every())
    start, step_by = (int(x) for x in sys.argv[2:4]) if len(sys.argv) > 3 else (0, 1)  # a sample of them
    for one in chosen[start::step_by]:
        print(json.dumps(report(*one)), flush=True)

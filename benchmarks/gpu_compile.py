"""The Triton kernel compiled for a GPU, without one: what its machine code loads, keeps and spills.

In a process where Triton's interpreter is on, nothing can be compiled: TRITON_INTERPRET must not be set.
"""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gc_torch import kernels_gpu, kernels_gpu_rules
from gc_torch import kernels_gpu_step as kernels
from gc_torch import kernels_gpu_work as list_of_work

DTYPES = {"float16": tl.float16, "bfloat16": tl.bfloat16, "float32": tl.float32, "float64": tl.float64}
THREADS = 32 * kernels.WARPS
_WIDTHS = {"b8": 1, "b16": 2, "b32": 4, "b64": 8}


@dataclass
class Compiled:
    """What was found of one kernel.

    Args:
        registers: a thread.
        spilled: bytes a thread.
        shared: bytes a program.
        instructions: of a thread, from the first to the last, without the branches that division and root take for
            numbers near the ends of their range. Of a loop they are counted once.
        fused: products and sums that are one operation, in PTX.
        accesses: loads and stores of global memory, in PTX, by their form.
    """

    registers: int
    spilled: int
    shared: int
    instructions: int
    fused: int
    accesses: dict[str, int]
    double: int

    def moved(self, itemsize: int) -> tuple[int, int]:
        """Bytes that a thread loads and stores of tensors; and how many of its accesses are not of 16 bytes.

        What every program reads before its block, entries of the list and of the table and some numbers, is left out.
        """
        moved = narrow = 0
        for form, number in self.accesses.items():
            vector, kind = re.search(r"(?:\.v(\d))?\.(b\d+)$", form).groups()  # type: ignore[union-attr]
            size = int(vector or 1) * _WIDTHS[kind]
            if size == 16 or vector or (size == itemsize and "evict" in form):
                moved += size * number
                narrow += number if size != 16 else 0
        return moved, narrow

    @property
    def warps(self) -> int:
        """How many of them a multiprocessor holds at a time, of the 64 that there could be."""
        by_registers = 65536 // (-(-self.registers // 8) * 8 * THREADS)
        by_memory = 227 * 1024 // (self.shared + 1024)
        return kernels.WARPS * min(64 // kernels.WARPS, by_registers, by_memory)


def bits(kind: str, *names: str, half: bool = False) -> int:
    """Options by name, as the kernel has them."""
    names = (*names, *(["ADAM"] if kind == "adam" else []), *(["HALF"] if half else []))
    return sum(getattr(kernels_gpu_rules, name).value for name in names)


def step(options: int, kinds: int, dtype: str, state_dtype: str | None = None, capability: int = 90) -> Compiled:
    """The kernel for these options and kinds of blocks.

    Args:
        options: from `bits`.
        kinds: of blocks, as bits, from `kernels_gpu_work.parts`.
        dtype, state_dtype: of parameters and states.
        capability: 90 for sm_90.
    """
    constants = dict(OPTIONS=options, KINDS=kinds, DTYPE=DTYPES[dtype], STATE_DTYPE=DTYPES[state_dtype or dtype])
    wide = "*fp64" if dtype == "float64" else "*fp32"
    pointers = dict(work="*i64", rows="*i64", corrections=wide, lr_tensor=wide, found_inf="*fp32", grad_scale="*fp32")
    numbers = dict.fromkeys(("lr", "decay", "a", "b", "c", "d", "eps"), "i64")
    return _compiled(kernels.step, pointers | numbers, constants, capability, kernels.WARPS)


def count(capability: int = 90, *more: str) -> Compiled:
    """The kernel that counts the steps."""
    constants = dict(
        OPTIONS=bits("adam", "GUARDED", *more), BLOCK=kernels_gpu.AT_ONCE, STEP_DTYPE=tl.float32, A=tl.float32
    )
    pointers = dict(rows="*i64", corrections="*fp32", found_inf="*fp32")
    numbers = dict.fromkeys(("log_beta1", "log_beta2", "tensors"), "i64")
    return _compiled(kernels.count, pointers | numbers, constants, capability, 4)


def _compiled(function, signature: dict, constants: dict, capability: int, warps: int) -> Compiled:
    source = ASTSource(function, signature | dict.fromkeys(constants, "constexpr"), constants, {})
    made = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "enable_fp_fusion": False},
    )
    ptx = made.asm["ptx"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(made.asm["cubin"])
        usage = _tool("cuobjdump", "-res-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    registers, stack, local = map(int, re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage).groups())  # type: ignore[union-attr]
    instructions = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\w+)", code, re.M)
    if "RET" in instructions:  # what is called for numbers near the ends of their range stands behind the rest
        before = instructions[: instructions.index("RET")]
        instructions = before[: len(before) - before[::-1].index("EXIT")]
    return Compiled(
        registers,
        stack + local,
        made.metadata.shared,
        len([one for one in instructions if one != "NOP"]),
        len(re.findall(r"\bfma\.rn", ptx)),
        dict(Counter(re.findall(r"\b((?:ld|st)\.global\S*)", ptx))),
        len(re.findall(r"\.f64", ptx)),
    )


def _tool(name: str, *arguments: str) -> str:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


def kinds_of(*names: str | tuple[str, int]) -> int:
    """Kinds of blocks by name, as bits: "FLAT", ("ROWS", 3)."""
    pairs = [(name, 0) if isinstance(name, str) else name for name in names]
    return sum(1 << (getattr(list_of_work, name) + more) for name, more in pairs)

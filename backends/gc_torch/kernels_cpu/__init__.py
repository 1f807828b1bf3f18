"""The steps of SGD and Adam with GC on a CPU: one pass over all tensors of a table (module `table`), by Numba.

Memory is what such a step waits for, and it is fastest where each thread walks through a tensor in one long run. A
gradient must be read twice, for its means and for the step, the second time from a cache:

    rows      A weight vector is summed up, then stepped on: it is in the thread's own cache.
    columns   A panel, of up to `LANES` neighbouring numbers in every row, is summed up row after row, then stepped on
              row after row. A panel larger than a thread's own cache is walked through by all threads together, first
              for the sums, then for the step: so it is in the cache that they share.

A list of items, cut by the shapes alone, says what there is to do (module `work`), and every sum is added up in an
order that follows from the shape: the number of threads changes no bit. Sums are in double precision.

Read `steps` (a step), `work`, `run` (what a thread does with an item), then the arithmetic: `rows`, `strips`,
`columns`, `bfloat16`. `compiling`, `entry` and `threads` are Numba's and OpenMP's side.
"""

from typing import Any

import numba  # first: where it is absent, this is the name to install
import torch
from torch import Tensor

from gc_core.reasons import Why
from gc_torch import table
from gc_torch.path import Missing, Unavailable

if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise Unavailable(Why(Missing.SWITCHED_OFF, name="Numba", setting="NUMBA_DISABLE_JIT"))

from gc_torch.kernels_cpu.entry import entry
from gc_torch.kernels_cpu.steps import Steps
from gc_torch.kernels_cpu.work import shares, work

__all__ = ["DTYPES", "NAME", "Steps", "compile_for", "shares", "takes", "work"]

NAME = "Numba"
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def takes(group: dict[str, Any], p: Tensor, of_states: torch.dtype, seen: table.Geometry) -> bool:
    """Whether the kernel is right: between the two stages of a panel, bfloat16 would round the states."""
    return p.dtype != torch.bfloat16 or (of_states == p.dtype and (group["gc_on"] == "gradient" or seen.r1 == 1))


def compile_for(kind: str, dtype: torch.dtype) -> str:
    """Have what steps of this kind need compiled; "compiled", or "loaded" from the cache on disk."""
    function = entry(kind, dtype).function
    return "loaded" if getattr(function, "cache_hits", 0) else "compiled"

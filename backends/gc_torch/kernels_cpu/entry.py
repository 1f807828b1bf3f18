"""What is compiled for each kind of optimizer and dtype, and the cache on disk of what was."""

# Numba's decorators change what a function takes.
# pyright: reportCallIssue=false

import functools
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import cfunc, types
from numba.np.numpy_support import from_dtype

from gc_torch import table
from gc_torch.kernels_cpu.run import thread
from gc_torch.kernels_cpu.threads import ON_THIS_THREAD

log = logging.getLogger("gc_torch")


class Compiled(NamedTuple):
    """A function that takes the address of a job."""

    address: int
    call: Callable[[int], None]  # on this thread
    function: Any


def computed_in(dtype: torch.dtype) -> np.dtype:
    """The dtype of the numbers of a step."""
    return np.dtype(np.float64 if dtype == torch.float64 else np.float32)


@functools.cache
def entry(kind: str, dtype: torch.dtype) -> Compiled:
    """The function of a thread for tensors of this dtype, from the cache or compiled now.

    Where nothing can be cached (no place to write, a full disk, a broken file), it is compiled in every process.
    """
    try:
        return _compile(kind, dtype, cache=True)
    except Exception as error:  # UnpicklingError too, where a file ends too early
        log.warning(
            "what Numba compiles cannot be kept (%s), so the first step of every process takes some seconds: set "
            "NUMBA_CACHE_DIR to a folder that can be written to",
            error,
        )
        return _compile(kind, dtype, cache=False)


def _compile(kind: str, dtype: torch.dtype, *, cache: bool) -> Compiled:
    signature = types.void(types.CPointer(from_dtype(computed_in(dtype))))
    adam, half = True if kind == "adam" else None, True if dtype == torch.bfloat16 else None
    function = cfunc(signature, nopython=True, cache=cache)(thread(adam, half, _sources()))
    return Compiled(function.address, ON_THIS_THREAD(function.address), function)


@functools.cache
def _sources() -> str:
    """What the pages say that are compiled together: Numba alone looks at the one of the outermost function."""
    pages = [*sorted(Path(__file__).parent.glob("*.py")), Path(table.__file__)]
    return hashlib.sha256(b"".join(page.read_bytes() for page in pages)).hexdigest()

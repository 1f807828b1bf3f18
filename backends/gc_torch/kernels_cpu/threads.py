"""The threads that a step runs on: PyTorch's own.

Threads of our own would wait for PyTorch's, which spin for a while after their work is done; on few cores that costs a
quarter of the step.
"""

import ctypes
import os
import threading
from typing import Any

import numpy as np
import torch

from gc_core.reasons import Why
from gc_torch.path import Missing, Unavailable

ON_THIS_THREAD = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_forked = False  # of OpenMP's threads a child process has none, and would wait for them


def _find() -> Any:
    """OpenMP's function that runs another one on all threads of a team, as the loader finds it for PyTorch.

    That of the process comes first: where an OpenMP was preloaded, PyTorch's threads are its.
    """
    for library in (None, torch._C.__file__):
        try:
            return ctypes.CDLL(library).GOMP_parallel
        except (AttributeError, OSError, TypeError):  # Windows has no library of the process
            continue
    raise Unavailable(Why(Missing.NO_THREADS, name="Numba"))


_parallel = _find()
_parallel.argtypes, _parallel.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):  # systems without it do not fork
    os.register_at_fork(after_in_child=_note_fork)


def at_most() -> int:
    """How many threads a step may use."""
    return 1 if _forked else torch.get_num_threads()


def run(address: int, job: int, threads: int) -> None:
    """Call a compiled function with a job on so many threads, and wait for them."""
    _parallel(address, job, threads, 0)


class _Memory(threading.local):
    """What steps need for themselves while they run, one after another: kept, as large as the largest has asked for."""

    words = np.zeros(0)


_memory = _Memory()


def memory(words: int) -> np.ndarray:
    """So many double words, aligned to 64 bytes, of this thread of Python. Their content is any."""
    if len(_memory.words) < words:
        raw = np.zeros(words + 8)
        shift = -raw.ctypes.data % 64 // 8
        _memory.words = raw[shift : shift + words]
    return _memory.words

"""Which step carries an update: a kernel of ours, or one of PyTorch's own: fused, foreach or the for-loop.

All of them give the same numbers to rounding. What `foreach` or `fused` of a parameter group asks for is taken, except
where that step of PyTorch is known to be wrong: then the next one is. A kernel stands in for the fused step, with GC,
where there is one for the device and it can take these tensors.
"""

import functools
import importlib
import logging
import time
import warnings
from collections.abc import Sequence
from enum import Enum
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from gc_core.reasons import GCWarning, Why
from gc_torch import compat, memory
from gc_torch.arrays import is_dense, is_half

log = logging.getLogger("gc_torch")

FUSED, FOREACH, LOOP, KERNEL = "fused", "foreach", "for-loop", "kernel"

# The pages with kernels, by the type of the device: each has `Steps`, `DTYPES`, and `NAME` for people.
KERNELS = {"cuda": "gc_torch.kernels_gpu", "cpu": "gc_torch.kernels_cpu"}
_loaded: dict[str, ModuleType | None] = {}
_missing: dict[str, Why] = {}  # why a page cannot be used
_compiled: set[tuple[str, str, torch.dtype]] = set()


class Missing(Enum):
    """Why there is no kernel, and PyTorch's own step is used."""

    ABSENT = "without {name}, which is not installed: pip install {name} makes it faster"
    SWITCHED_OFF = "without {name}, which {setting} switches off: unset it, and it is faster"
    NO_THREADS = "without {name}: this PyTorch has no OpenMP, whose threads the kernel needs"
    BROKEN = "without {name}, which fails here: {error}"


class Unavailable(ImportError):
    """Raised by a page with kernels that cannot be used here."""

    def __init__(self, why: Why):
        super().__init__(why)
        self.why = why


def kernels(group: dict[str, Any], device: torch.device) -> ModuleType | None:
    """The page with the kernel for a group whose path is fused; None: there is none, or it cannot take the options."""
    page = KERNELS.get(device.type)
    if page is None or is_plain(group) or not sees_numbers(group) or memory.is_watched():
        return None
    if page not in _loaded:
        try:
            _loaded[page] = importlib.import_module(page)
        except Unavailable as error:
            _loaded[page], _missing[page] = None, error.why
        except ModuleNotFoundError as error:
            _loaded[page] = None
            _missing[page] = Why(Missing.ABSENT, name=(error.name or "").partition(".")[0])
        except Exception as error:  # a library that cannot be loaded, a file that cannot be read
            _give_up(page, page.rpartition(".")[2], error)
    if page in _missing:
        return None
    if device.type == "cuda" and _loaded[page] is not None and not _is_known(device):
        return None
    return _loaded[page]


def is_plain(group: dict[str, Any]) -> bool:
    """Whether all that is asked for is what PyTorch's own optimizer does."""
    return group["gc_on"] is None and group["low_precision"] is None


def is_ready(kernel: ModuleType, kind: str, dtype: torch.dtype) -> bool:
    """Whether a kernel is compiled, which takes some seconds the first time; where that fails, it is given up."""
    page = kernel.__name__
    if page in _missing:
        return False
    compile_for = getattr(kernel, "compile_for", None)
    if compile_for is None or (page, kind, dtype) in _compiled:
        return True
    started = time.perf_counter()
    try:
        how = compile_for(kind, dtype)
    except Exception as error:
        _give_up(page, kernel.NAME, error)
        return False
    _compiled.add((page, kind, dtype))
    log.info("%s step of %s for %s %s in %.1f s", kernel.NAME, kind, dtype, how, time.perf_counter() - started)
    return True


def _give_up(page: str, name: str, error: Exception) -> None:
    _loaded.setdefault(page, None)
    _missing[page] = Why(Missing.BROKEN, name=name, error=f"{type(error).__name__}: {error}"[:300])
    warnings.warn(f"PyTorch's own step is used, {_missing[page]}", GCWarning, stacklevel=2)


@functools.cache
def _is_known(device: torch.device) -> bool:
    """Whether it is a GPU for which the tests compile the kernel: NVIDIA's, of compute capability 8.0 or more."""
    if torch.version.hip is not None or not torch.cuda.is_available():  # there are fake tensors "on" a GPU
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def why_no_kernel(group: dict[str, Any], params: list[Tensor]) -> Why | None:
    """Why there is no kernel for these parameters, where there could be one."""
    for p in params:
        if kernels(group, p.device) is None and (why := _missing.get(KERNELS.get(p.device.type, ""))):
            return why
    return None


def kernel_is_right(kernel: ModuleType, p: Tensor, grad: Tensor, states: Sequence[Tensor | None]) -> bool:
    """Whether a kernel can take these tensors: plain memory of their own, the same strides, states of one dtype.

    Args:
        kernel: its page.
        p: the parameter.
        grad: its gradient.
        states: None for one that is not there yet.
    """
    there = [state for state in states if state is not None]
    if not all(map(memory.is_addressable, (p, grad, *there))):
        return False
    if p.dtype not in kernel.DTYPES or _memory(grad) != _memory(p):
        return False
    if there and there[0].dtype not in (p.dtype, torch.float32):
        return False
    return all(_memory(state) == (there[0].dtype, *_memory(p)[1:]) for state in there)


def _memory(x: Tensor) -> tuple[Any, ...]:
    return x.dtype, x.device, x.shape, x.stride()


def choose(group: dict[str, Any], params: list[Tensor]) -> tuple[str, str]:
    """The path for a group, and the one for parameters for which its fused step is not right."""
    if group["fused"]:
        return FUSED, _default(group, params)
    if group["foreach"]:
        return FOREACH, FOREACH
    if group["fused"] is not None or group["foreach"] is not None:
        return LOOP, LOOP
    # Without GC, and nothing asked for, results are those of PyTorch's own choice to the last bit.
    default = _default(group, params)
    return (default if is_plain(group) or not _fused_is_offered(group, params) else FUSED), default


def fused_is_right(kind: str, w: Tensor, others: Sequence[Tensor], *, widened: bool) -> bool:
    """Whether PyTorch's fused step is right for these tensors.

    On a CPU it walks through all of them as through one flat array, so they must be dense and have the same strides
    (on a GPU it refuses others), and SGD leaves whole blocks of half-precision numbers as they were.

    Args:
        kind: "sgd" or "adam".
        w: the parameter.
        others: what else the step reads and writes for it.
        widened: whether half precision comes to the step as float32.
    """
    if kind == "sgd" and not widened and is_half(w) and w.device.type == "cpu":
        return False
    strides = w.stride()
    for other in others:
        if other.stride() != strides or other.is_neg():
            return False
    return is_dense(w) and not w.is_neg()


def sees_numbers(group: dict[str, Any]) -> bool:
    """Whether the options but lr are numbers, which fused steps want, and no compiler is at work, which fuses better
    what it can see into."""
    options = (*group.get("betas", ()), group["weight_decay"], group.get("momentum"))
    return not (torch.compiler.is_compiling() or any(isinstance(option, Tensor) for option in options))


def _fused_is_offered(group: dict[str, Any], params: list[Tensor]) -> bool:
    if not sees_numbers(group):
        return False
    return compat.fused_or_foreach(params, group["differentiable"], use_fused=True)[0]


def _default(group: dict[str, Any], params: list[Tensor]) -> str:
    """PyTorch's own choice when nothing is asked for."""
    if isinstance(group["lr"], Tensor) and not group.get("capturable", True):
        return LOOP  # its foreach Adam refuses a tensor lr
    return FOREACH if compat.fused_or_foreach(params, group["differentiable"], use_fused=False)[1] else LOOP

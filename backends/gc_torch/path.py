"""Which step carries an update: a kernel of ours, or one of PyTorch's own: fused, foreach or the for-loop.

All of them give the same numbers to rounding. What `foreach` or `fused` of a parameter group asks for is taken, except
where that step of PyTorch is known to be wrong: then the next one is. A kernel stands in for the fused step, with GC,
where there is one for the device and it can take these tensors.
"""

import functools
import importlib
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from gc_core.reasons import GCWarning
from gc_torch import compat
from gc_torch.arrays import is_dense, is_half

FUSED, FOREACH, LOOP, KERNEL = "fused", "foreach", "for-loop", "kernel"

# The pages with kernels, by the type of the device: each has `Steps`, `DTYPES`, and `NAME` for people.
KERNELS = {"cuda": "gc_torch.kernels_gpu", "cpu": "gc_torch.kernels_cpu"}
_loaded: dict[str, ModuleType | None] = {}
_compiled: set[tuple[str, str, torch.dtype]] = set()
_absent: dict[str, Exception] = {}


def kernels(group: dict[str, Any], device: torch.device) -> ModuleType | None:
    """The page with the kernel for a group whose path is fused; None: there is none, or it cannot take the options."""
    page = KERNELS.get(device.type)
    if page is None or group["gc_on"] is None or not sees_numbers(group):
        return None
    if page not in _loaded:
        try:
            _loaded[page] = importlib.import_module(page)
        except Exception as error:  # whatever is wrong with a compiler, there is a step
            _leave_out(page, error)
    if device.type == "cuda" and _loaded[page] is not None and not _is_known(device):
        return None
    return _loaded[page]


def compiles(kernel: ModuleType, kind: str, dtype: torch.dtype) -> bool:
    """Whether the kernel can be had for a step of this kind and dtype; found out once, before anything changes."""
    if (kernel.__name__, kind, dtype) not in _compiled:
        try:
            if hasattr(kernel, "compile"):  # Triton compiles at the launch
                kernel.compile(kind, dtype)
            _compiled.add((kernel.__name__, kind, dtype))
        except Exception as error:
            _leave_out(kernel.__name__, error)
            return False
    return True


def _leave_out(page: str, error: Exception) -> None:
    """Take the next path from now on, and say so once; that a package is absent is no fault, and stands in the repr."""
    _loaded[page], _absent[page] = None, error
    if not isinstance(error, (ModuleNotFoundError, NotImplementedError)):
        what = f"PyTorch's own steps carry GC, for {page} cannot be used: {_remedy(page)}"
        warnings.warn(what, GCWarning, stacklevel=2)


def _remedy(page: str) -> str:
    """What is wrong, and what mends it, for people."""
    error = _absent[page]
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"pip install {error.name} would make it faster"
    what = f"{' '.join(str(error).split())[:200]}"
    if isinstance(error, NotImplementedError):
        return f"no kernel: {what}"
    compilers = "numba llvmlite" if page == KERNELS["cpu"] else "triton"
    return f"{type(error).__name__}: {what}; pip install --force-reinstall {compilers} may mend it"


@functools.cache
def _is_known(device: torch.device) -> bool:
    """Whether it is a GPU for which the tests compile the kernel: NVIDIA's, of compute capability 8.0 or more."""
    if torch.version.hip is not None or not torch.cuda.is_available():  # there are fake tensors "on" a GPU
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def would_be_faster(group: dict[str, Any], params: list[Tensor]) -> str:
    """Where a kernel is missing: what it needs, for people; else nothing."""
    for p in params:
        if kernels(group, p.device) is None and KERNELS.get(p.device.type) in _absent:
            return f" ({_remedy(KERNELS[p.device.type])})"
    return ""


def kernel_is_right(kernel: ModuleType, p: Tensor, grad: Tensor, states: Sequence[Tensor | None]) -> bool:
    """Whether a kernel can take these tensors: floating point, with the same strides, states of one dtype.

    Args:
        kernel: its page.
        p: the parameter, without gaps in its memory.
        grad: its gradient.
        states: None for one that is not there yet.
    """
    if p.dtype not in kernel.DTYPES or (grad.dtype, grad.device, grad.stride()) != (p.dtype, p.device, p.stride()):
        return False
    there = [state for state in states if state is not None]
    if there and there[0].dtype not in (p.dtype, torch.float32):
        return False
    alike = (there[0].dtype, p.device, p.stride()) if there else None
    return all((state.dtype, state.device, state.stride()) == alike for state in there)


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
    return (default if group["gc_on"] is None or not _fused_is_offered(group, params) else FUSED), default


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
        if other.stride() != strides:
            return False
    return is_dense(w)


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

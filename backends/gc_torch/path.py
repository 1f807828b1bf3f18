"""Which of PyTorch's own steps carries an update: fused, foreach or the for-loop. A faster kernel would be chosen here.

All three give the same numbers to rounding. What `foreach` or `fused` of a parameter group asks for is taken, except
where that step of PyTorch is known to be wrong: then the next one is.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import _default_to_fused_or_foreach

from gc_torch.arrays import is_half

FUSED, FOREACH, LOOP = "fused", "foreach", "for-loop"


def choose(group: dict[str, Any], kind: str, tensors: list[Tensor], *, widened: bool) -> str:
    """The path for one parameter.

    Args:
        group: the options of its group.
        kind: "sgd" or "adam".
        tensors: what the step reads and writes for it: weight, gradient, and the state there is.
        widened: whether half precision comes to the step as float32.
    """
    if group["fused"]:
        return FUSED if fused_is_right(kind, tensors, widened) else _foreach_or_loop(group, tensors)
    if group["foreach"]:
        return FOREACH
    if group["fused"] is not None or group["foreach"] is not None:
        return LOOP
    # Without GC, and nothing asked for, results are those of PyTorch's own choice to the last bit.
    if group["gc_on"] is not None and _fused_is_offered(group, tensors) and fused_is_right(kind, tensors, widened):
        return FUSED
    return _foreach_or_loop(group, tensors)


def fused_is_right(kind: str, tensors: list[Tensor], widened: bool) -> bool:
    """Whether PyTorch's fused step is right for these tensors.

    On a CPU it walks through all of them as through one flat array, so they must be dense and have the same strides
    (on a GPU it refuses others), and SGD leaves whole blocks of half-precision numbers as they were.
    """
    w = tensors[0]
    if kind == "sgd" and w.device.type == "cpu" and is_half(w) and not widened:
        return False
    strides = w.stride()
    if any(tensor.stride() != strides for tensor in tensors[1:]):
        return False
    return w.is_contiguous() or bool(torch.ops.aten.is_non_overlapping_and_dense(w))


def _fused_is_offered(group: dict[str, Any], tensors: list[Tensor]) -> bool:
    # A compiler fuses better what it can see into. Other options than lr as tensors would be read, or refused.
    if torch.compiler.is_compiling() or group["differentiable"] or _tensors_among_options(group):
        return False
    return _default_to_fused_or_foreach(tensors[:1], False, use_fused=True)[0]


def _tensors_among_options(group: dict[str, Any]) -> bool:
    options = (*group.get("betas", ()), group["weight_decay"], group.get("momentum"))
    return any(isinstance(option, Tensor) for option in options)


def _foreach_or_loop(group: dict[str, Any], tensors: list[Tensor]) -> str:
    """PyTorch's own choice when nothing is asked for."""
    if isinstance(group["lr"], Tensor) and "capturable" in group and not group["capturable"]:
        return LOOP  # its foreach Adam refuses a tensor lr
    foreach = _default_to_fused_or_foreach(tensors[:1], group["differentiable"], use_fused=False)[1]
    return FOREACH if foreach else LOOP

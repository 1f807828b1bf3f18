"""Layers of other libraries that are no subclasses of PyTorch's: how each stores its weights.

A class counts only where that library defines it, or a class derived from it; no library is imported here.
"""

import re
from collections.abc import Callable
from typing import Any

from torch import nn

from gc_core import layouts
from gc_core.layouts import View

Shape = tuple[int, ...]
Found = tuple[View, str]  # the view, and how the weight is stored in words


def view_of(module: nn.Module, cls: type, local: str, shape: Shape) -> Found | None:
    """The view of a parameter, and how it is stored in words; None if no library is known to define its layer."""
    for one in cls.__mro__:
        find = _LIBRARIES.get(one.__module__.partition(".")[0])
        if find and (found := find(module, one.__name__, local, shape)):
            return found
    return None


def _transformers(module: Any, name: str, local: str, shape: Shape) -> Found | None:
    if name == "Conv1D" and local == "weight":
        return layouts.out_last(shape), "(in, out)"
    # Experts declare how they are stored; where they do not, nothing here can know.
    if re.fullmatch(r"(gate_|up_|gate_up_|down_)proj", local) and len(shape) == 3:
        transposed = getattr(module, "is_transposed", name == "Llama4TextExperts" or None)
        if isinstance(transposed, bool):
            rule = layouts.out_last if transposed else layouts.out_first
            return layouts.stacked(rule, shape), "(expert, in, out)" if transposed else "(expert, out, in)"
    if name.endswith("Router") and local == "weight" and len(shape) == 2:
        return layouts.out_first(shape), "(out, in)"
    if name.endswith("ParallelExperts") and local == "weight" and len(shape) == 3:
        return layouts.stacked(layouts.out_first, shape), "(expert, out, in)"
    if name == "XLNetRelativeAttention" and len(shape) == 3:
        if local in ("q", "k", "v", "r"):
            return layouts.heads_out(shape), "(in, heads, head_dim)"
        if local == "o":
            return layouts.weight(shape, (1, 2), ""), "(out, heads, head_dim)"
    return None


def _geometric(module: Any, name: str, local: str, shape: Shape) -> Found | None:
    if name == "Linear" and local == "weight":
        return layouts.out_first(shape), "(out, in)"
    if name == "HeteroLinear" and local == "weight":
        return layouts.stacked(layouts.out_last, shape), "(type, in, out)"
    return None


def _timm(module: Any, name: str, local: str, shape: Shape) -> Found | None:
    if name == "CondConv2d" and local == "weight":
        return _flat_experts(shape, module.weight_shape), "(expert, out·in·k·k)"
    return None


def _flat_experts(shape: Shape, one: Any) -> View:
    """(experts, out·in·k·k): a kernel of shape `one` for each expert."""
    seen = (shape[0], *map(int, one))
    return layouts.weight(seen, range(2, len(seen)), "", stored=shape)


_LIBRARIES: dict[str, Callable[[Any, str, str, Shape], Found | None]] = {
    "transformers": _transformers,
    "torch_geometric": _geometric,
    "timm": _timm,
}

"""Low-rank factors, ΔW = B A: where they stand in a model, by the names that their libraries give them.

The weight vectors of ΔW are its rows, and their sums are ΔW·1 = B (A·1): centralizing the rows of A conserves them
where they start at zero, centralizing B over the rank conserves nothing. So A is the layer's weight, and B is left
alone (`gc_core.theory.low_rank_training_keeps_the_sums`).
"""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gc_core import layouts
from gc_core.layouts import View
from gc_core.reasons import Reason, Why
from gc_torch.layers import view_of
from gc_torch.operator import center

# What stands on the side of the input, and on that of the output: PEFT and loralib, torchtune, diffusers and kohya.
_PAIRS = {
    "lora_A": "lora_B",
    "lora_a": "lora_b",
    "lora_down": "lora_up",
    "lora_embedding_A": "lora_embedding_B",
}
_OTHERS = {  # of PEFT: products of more than two, and what they are multiplied by
    r"hada_(w|t)\d(_[ab])?|lokr_(w|t)\d(_[ab])?|(b?oft|c3a|fourierft|randlora)_\w+": Reason.FACTOR,
    r"(ia3_l|(vera|randlora)_(lambda_\w+|gamma)|ln_tuning_\w+)": Reason.SCALE,
    r"lora_magnitude_vector": Reason.MAGNITUDE,
}


def factors(model: nn.Module) -> dict[tuple[nn.Module, str], View]:
    """The views of all parameters that are low-rank factors, by the module that owns each and its name in it."""
    found: dict[tuple[nn.Module, str], View] = {}
    for module in model.modules():
        names: dict[str, Any] = {**module._modules, **module._parameters}
        for first, second in _PAIRS.items():
            a, b = names.get(first), names.get(second)
            if a is None or b is None:
                continue
            for place, parameter in _parameters(module, second, b):
                if parameter.ndim > 1:
                    found[place] = layouts.left_alone(parameter.shape, Why(Reason.FACTOR))
            if "embedding" in first:
                for place, parameter in _parameters(module, first, a):
                    found[place] = layouts.left_alone(parameter.shape, layouts.EMBEDDING)
            elif isinstance(a, Tensor) and isinstance(b, Tensor) and (view := _raw(a, b)):
                found[module, first] = view
        for name, value in names.items():
            for pattern, reason in _OTHERS.items():
                if value is not None and re.fullmatch(pattern, name):
                    for place, parameter in _parameters(module, name, value):
                        found[place] = layouts.left_alone(parameter.shape, Why(reason))
    return found


def _parameters(owner: nn.Module, name: str, value: Any) -> Iterator[tuple[tuple[nn.Module, str], Tensor]]:
    if isinstance(value, Tensor):
        yield (owner, name), value
        return
    for module in value.modules():
        for local, parameter in module._parameters.items():
            if parameter is not None:
                yield (module, local), parameter


def _raw(a: Tensor, b: Tensor) -> View | None:
    """Of two matrices the one on the side of the input, where only one way of storing them fits."""
    if a.ndim != 2 or b.ndim != 2:
        return None
    out_first, out_last = a.shape[0] == b.shape[1], a.shape[1] == b.shape[0]
    if out_first == out_last:
        return None
    view = layouts.out_first(a.shape) if out_first else layouts.out_last(a.shape)
    return view if view.axes is None else view._replace(why=Why(Reason.FACTOR_IN))


@torch.no_grad()
def center_low_rank(model: nn.Module) -> list[str]:
    """Start low-rank factors in the hyperplane: subtract from each row of every A its mean, W = W₀ + B A.

    With A·1 = 0 the sums of the rows of B A are 0, and GC keeps them there (under SGD, and where gc_on="update").

    Args:
        model: whose pairs of factors are known by their names. Each B must be zero still, so that nothing changes in
            what the model computes.

    Returns:
        The names of the parameters that were centred.

    Raises:
        ValueError: there are no such factors, or a B is not zero; then nothing has changed.

    >>> layer = nn.Module()
    >>> layer.lora_A, layer.lora_B = nn.Linear(4, 2, bias=False), nn.Linear(2, 3, bias=False)
    >>> _ = nn.init.zeros_(layer.lora_B.weight)
    >>> center_low_rank(layer), bool(layer.lora_A.weight.sum(1).abs().max() < 1e-6)
    (['lora_A.weight'], True)
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in nn.Module.named_parameters(model)}
    known = factors(model)
    found: list[tuple[Tensor, View]] = []
    for module in model.modules():
        its: dict[str, Any] = {**module._modules, **module._parameters}
        for first, second in _PAIRS.items():
            if its.get(first) is None or its.get(second) is None or "embedding" in first:
                continue
            for _, b in _parameters(module, second, its[second]):
                if b.ndim > 1 and b.count_nonzero():
                    raise ValueError(f"{names[b]} must be zero still, for otherwise the model would change; it is not")
            for (owner, local), a in _parameters(module, first, its[first]):
                view = known.get((owner, local)) or view_of(owner, local, a)
                if view.axes is not None:
                    found.append((a, view))
    if not found:
        raise ValueError("the model must have low-rank factors, as lora_A beside lora_B; none were found")
    for a, view in found:
        a.copy_(center(a.reshape(view.shape), view.axes).reshape(a.shape))
    return [names[a] for a, _ in found]

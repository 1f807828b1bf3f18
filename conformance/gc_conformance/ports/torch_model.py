"""Real PyTorch layers for parameters that the suite describes in words: for optimizers that look at the model."""

from __future__ import annotations

import torch
from torch import nn

CONVOLUTIONS = {f"conv{n}d": getattr(nn, f"Conv{n}d") for n in (1, 2, 3)}
TRANSPOSED = {f"conv_transpose{n}d": getattr(nn, f"ConvTranspose{n}d") for n in (1, 2, 3)}


def module_of(kind: str, stored: str, shape: tuple[int, ...], groups: int = 1, **others) -> tuple[nn.Module, str]:
    """A layer with a parameter of this shape, and the parameter's name in it.

    Raises:
        NotImplementedError: a layer of which no module is made here.
    """
    if others or stored.startswith("stack"):
        raise NotImplementedError(f"a module for {kind} with {', '.join(others) or stored}")
    if kind == "linear" and stored == "out in":
        return nn.Linear(shape[1], shape[0], bias=False), "weight"
    if kind == "bilinear":
        return nn.Bilinear(shape[1], shape[2], shape[0], bias=False), "weight"
    if kind in CONVOLUTIONS and stored.startswith("out in"):
        made = CONVOLUTIONS[kind](shape[1] * groups, shape[0], shape[2:], groups=groups, bias=False)
        return made, "weight"
    if kind in TRANSPOSED and stored.startswith("in out"):
        made = TRANSPOSED[kind](shape[0], shape[1] * groups, shape[2:], groups=groups, bias=False)
        return made, "weight"
    if kind == "embedding" and len(shape) == 2:
        return nn.Embedding(shape[0], shape[-1]), "weight"
    if kind == "norm_scale" and len(shape) == 1:
        return nn.LayerNorm(shape[0]), "weight"
    if kind == "bias" and len(shape) == 1:
        return nn.Linear(1, shape[0]), "bias"
    raise NotImplementedError(f"a module for {kind} stored ({stored})")


def model_of(params: dict[str, torch.Tensor], layers: dict[str, dict]) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """A model of such layers, and the parameters in it by the suite's names; all others of the model are frozen."""
    model, found = nn.Module(), {}
    for name, w in params.items():
        module, own = module_of(shape=tuple(w.shape), **layers[name])
        for other in module.parameters():
            other.requires_grad_(False)
        parameter = nn.Parameter(w.clone())
        setattr(module, own, parameter)
        model.add_module(name.replace(".", "_"), module)
        found[name] = parameter
    return model, found

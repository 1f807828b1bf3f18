"""What is known of layers by their class: how each of them stores its own parameters.

A class is known if its library defines it, or it is derived from such a class; libraries are not imported for it.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from gc_core import layouts
from gc_core.layouts import View
from gc_core.reasons import Reason, Why
from gc_torch import compat, libraries


def view_of(module: nn.Module, local_name: str, parameter: Tensor) -> View:
    """How GC sees one parameter, by the class of the module that owns it; hooks and parametrizations considered.

    Args:
        module: the layer. Of a parametrization the layer whose tensor it makes, not the list that stands in it.
        local_name: the parameter's name in the layer: "weight", or "parametrizations.weight.original1".
        parameter: the parameter, or a tensor of its shape.

    Raises:
        ValueError: the parameter has no shape of its own: its layer is lazy, or it is a flat shard.

    >>> layer = nn.ConvTranspose2d(8, 6, 2, groups=2)
    >>> view_of(layer, "weight", layer.weight)[:2]
    ((2, 4, 3, 2, 2), (1, 3, 4))
    """
    refuse_shapeless(local_name, parameter)
    if local_name.startswith("parametrizations.") and parametrize.is_parametrized(module):
        _, tensor_name, learned = local_name.split(".", 2)
        return _of_parametrization(module, tensor_name, learned, parameter)
    return _of_hook(module, local_name, parameter) or _of_layer(module, local_name, parameter)


def refuse_shapeless(name: str, parameter: Tensor) -> None:
    """Raise if which weights feed one output unit cannot be known of a parameter."""
    if is_lazy(parameter):
        raise ValueError(
            f"{name} has no shape yet, for its layer is lazy: run the model once on a batch, and make the plan or "
            "the optimizer after that"
        )
    if getattr(parameter, "_fsdp_flattened", False):
        raise ValueError(
            f"{name} is a flat shard of FullyShardedDataParallel (FSDP1), of shape {tuple(parameter.shape)}: which "
            "weights feed one output unit is lost. Shard with fully_shard (FSDP2), which keeps shapes, or call "
            'gc_torch.attach(None, model, where="backward") before the model is wrapped'
        )


# ---- What stands between a parameter and its layer


def _of_parametrization(layer: nn.Module, tensor_name: str, learned: str, parameter: Tensor) -> View:
    """torch.nn.utils.parametrizations: what is learned stands in for a tensor of the layer."""
    kinds = [type(one) for one in layer.parametrizations[tensor_name].children()]  # type: ignore[union-attr,index]
    if kinds == [compat.WEIGHT_NORM]:
        if learned == "original0":
            return layouts.left_alone(parameter.shape, layouts.MAGNITUDE)
        return _of_layer(layer, tensor_name, parameter, "direction of ")
    if kinds == [compat.SPECTRAL_NORM]:
        return _of_layer(layer, tensor_name, parameter, "original of ")
    if kinds == [compat.ORTHOGONAL]:
        return layouts.left_alone(parameter.shape, layouts.ORTHOGONAL)
    return layouts.left_alone(parameter.shape, layouts.PARAMETRIZED)


def _of_hook(module: nn.Module, local: str, parameter: Tensor) -> View | None:
    """torch.nn.utils.weight_norm and spectral_norm, the older forms: a hook computes the layer's tensor."""
    for hook in compat.forward_pre_hooks(module):
        if isinstance(hook, WeightNorm) and local == f"{hook.name}_g":
            return layouts.left_alone(parameter.shape, layouts.MAGNITUDE)
        if isinstance(hook, WeightNorm) and local == f"{hook.name}_v":
            return _of_layer(module, hook.name, parameter, "direction of ")
        if isinstance(hook, SpectralNorm) and local == f"{hook.name}_orig":
            return _of_layer(module, hook.name, parameter, "original of ")
    if local.endswith("_orig"):  # pruning, or an unknown hook
        return layouts.left_alone(parameter.shape, layouts.PARAMETRIZED)
    return None


def _stand_ins(module: nn.Module) -> Iterator[tuple[Tensor, str, bool]]:
    """Parameters in whose place the layer reads a tensor computed from them, its name, and whether it has it already.

    What the layer does with that tensor is what counts: the norm that it is divided by depends on more weights.
    """
    if parametrize.is_parametrized(module):
        for tensor_name, chain in module.parametrizations.items():  # type: ignore[union-attr]
            kinds = [type(one) for one in chain.children()]
            if kinds in ([compat.WEIGHT_NORM], [compat.SPECTRAL_NORM]):
                learned = "original1" if kinds == [compat.WEIGHT_NORM] else "original"
                yield getattr(chain, learned), tensor_name, True
    for hook in compat.forward_pre_hooks(module):
        if isinstance(hook, (WeightNorm, SpectralNorm)):
            learned = "_v" if isinstance(hook, WeightNorm) else "_orig"
            yield getattr(module, hook.name + learned), hook.name, False


@contextmanager
def standing_in(
    model: nn.Module, parameters: Mapping[str, Tensor], found: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """While the model runs, say of each tensor that a layer reads in a parameter's place which parameter that is."""
    names = {parameter: name for name, parameter in parameters.items()}
    with ExitStack() as stack:
        for module in model.modules():
            for parameter, tensor_name, ready in _stand_ins(module):
                if (name := names.get(parameter)) is None:
                    continue
                if ready:
                    found(name, getattr(module, tensor_name))
                else:  # by a hook that comes after the one which computes the layer's tensor
                    after = lambda module, _, name=name, at=tensor_name: found(name, getattr(module, at))  # noqa: E731
                    stack.callback(module.register_forward_pre_hook(after).remove)
        yield


# ---- PyTorch's own layers

_NORMS = (compat.NORM, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_OUT_FIRST = {  # layer -> the names of its weights
    nn.Linear: r"weight",
    nn.Bilinear: r"weight",
    compat.CONV: r"weight",
    nn.RNNBase: r"weight_(ih|hh|hr)_l\d+(_reverse)?",
    nn.RNNCellBase: r"weight_(ih|hh)",
    nn.MultiheadAttention: r"in_proj_weight|[qkv]_proj_weight",
}
_BY_NAME = {  # a raw parameter of another module is left alone; its name may say why
    r".*(relative_position|rel_pos).*|attention_bias(es)?": Reason.RELATIVE_POSITION,
    r"bias.*|.*_bias(es)?": Reason.BIAS,
    r".*pos(ition(al)?)?_emb.*": Reason.POSITION,
    r".*(_tokens?|class_embedding)": Reason.TOKEN,
    r"layer_scale.*|gamma(_\d+)?|lambda_?\d*": Reason.LAYER_SCALE,
    r"gain|(\w+_)?scale|temperature|logit_scale": Reason.SCALE,
}
_SCALES = r"g|b|alpha|beta|a_?2|b_?2|weight"  # so called, and with at most one axis longer than 1


def _of_layer(module: nn.Module, local: str, parameter: Tensor, prefix: str = "") -> View:
    """How a layer sees one of its own parameters."""
    shape = tuple(parameter.shape)
    cls = _class_of(module)
    layer = prefix + cls.__name__
    if issubclass(cls, (nn.Embedding, nn.EmbeddingBag)) and local == "weight":
        return layouts.left_alone(shape, layouts.EMBEDDING)
    if issubclass(cls, _NORMS) and local in ("weight", "bias"):
        return layouts.left_alone(shape, layouts.NORM)
    if issubclass(cls, nn.PReLU) and local == "weight":
        return layouts.left_alone(shape, layouts.ACTIVATION)
    if issubclass(cls, nn.MultiheadAttention) and local in ("bias_k", "bias_v"):
        return layouts.left_alone(shape, layouts.BIAS_KV)
    if (
        issubclass(cls, compat.CONV_TRANSPOSED) and local == "weight" and hasattr(module, "groups")
    ):  # a traced one has none
        groups: int = module.groups  # type: ignore[assignment]
        out, more = (f"out/{groups}", f", {groups} groups") if groups > 1 else ("out", "")
        return _named(layouts.in_out(shape, groups), layer, f"(in, {out}{', k' * (len(shape) - 2)}){more}")
    for known, names in _OUT_FIRST.items():
        transposed = issubclass(cls, compat.CONV_TRANSPOSED)
        if issubclass(cls, known) and not transposed and re.fullmatch(names, local):
            rest = ", in" if known is nn.Bilinear else ", k" * (len(shape) - 2)
            return _named(layouts.out_first(shape), layer, f"(out, in{rest})")
    if found := libraries.view_of(module, cls, local, shape):
        return _named(found[0], layer, found[1])
    return layouts.left_alone(shape, why_unknown(cls, local, shape))


def _named(view: View, layer: str, stored: str) -> View:
    return view if view.axes is None else view._replace(why=Why(Reason.LAYER, layer=layer, stored=stored))


def why_unknown(cls: type, local: str, shape: Sequence[int]) -> Why:
    """Why a parameter of an unknown layer is left alone, as its name may say."""
    long_axes = sum(n > 1 for n in shape)
    if len(shape) <= 1 and "norm" in cls.__name__.lower():
        return layouts.NORM
    for pattern, reason in _BY_NAME.items():
        if re.fullmatch(pattern, local):
            return Why(reason)
    if long_axes <= 1 and (len(shape) > 2 or re.fullmatch(_SCALES, local)) and not issubclass(cls, nn.Linear):
        return Why(Reason.SCALE)
    return layouts.UNKNOWN


def _class_of(module: nn.Module) -> type:
    """The layer's class: of a parametrized or sharded (FSDP2) one that it had before, of a scripted one its source."""
    cls = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        return _class_before_scripting(module) or cls
    while (before := cls.__bases__[-1]) and cls.__name__ in (
        f"Parametrized{before.__name__}",
        f"FSDP{before.__name__}",
    ):
        cls = before
    return cls


def _class_before_scripting(module: Any) -> type | None:
    """By the name that TorchScript gives its types, __torch__.package.page.Class, if that is imported."""
    name = re.sub(r"___torch_mangle_\d+\.", "", module._c._type().qualified_name()).removeprefix("__torch__.")
    page, _, cls = name.rpartition(".")
    found = getattr(sys.modules.get(page), cls, None)
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None

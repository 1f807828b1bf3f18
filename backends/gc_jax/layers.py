"""What the layers of Flax (Linen and NNX), Equinox and Keras store: the half of a plan that knows the libraries.

Each layer's parameters are said once, by the name of its class: a reason to leave one alone, or a `Weight`. The
libraries are known by their names and never imported, so a plan needs none that the model does not.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gc_core import layouts

Rule = Callable[[Sequence[int]], layouts.View]


class Weight(NamedTuple):
    """The weight of a linear map: the rule for one such layer, and the shape that one has (None: not known)."""

    rule: Rule
    shape: tuple[int | None, ...]


UNCLEAR = "its bias does not fit the layout: are layers stacked? declare or override"

Stored = Callable[[Any, str], Weight | str]  # (layer, name of its parameter) -> what it is, or why it is left alone


def summed_over(axes: Sequence[int]) -> Rule:
    """The rule of a weight whose layer says which axes it sums over."""
    return lambda shape: layouts.weight(shape, axes, "by the axes it sums over")


def library(module: Any) -> str | None:
    """The library that an object is a module of: "linen", "nnx", "equinox", "keras"; None for anything else."""
    for cls in type(module).__mro__:
        for name, (prefix, base) in _BASES.items():
            if cls.__name__ == base and f"{cls.__module__}.".startswith(prefix):
                return name
    return None


_BASES = {
    "linen": ("flax.linen.", "Module"),
    "nnx": ("flax.nnx.", "Module"),
    "equinox": ("equinox.", "Module"),
    "keras": ("keras.", "Layer"),
}


def known(module: Any) -> tuple[str, Stored] | None:
    """The name of a layer, and what it stores by the first of its classes that is in the table; None if none is."""
    for cls in type(module).__mro__:
        if (stored := _TABLES.get(library(module) or "", {}).get(cls.__name__)) is not None:
            return type(module).__name__, stored
    return None


def _all(reason: str) -> Stored:
    return lambda layer, leaf: reason


def _weights(**leaves: Callable[[Any], Weight]) -> Stored:
    """These parameters are weights; any other one of the layer is a bias."""
    return lambda layer, leaf: leaves[leaf](layer) if leaf in leaves else layouts.BIAS


def _ints(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def _einsum(equation: str | None, shape: Sequence[int | None]) -> Weight | str:
    """A weight that is the second operand of an einsum: its fan-in is what the result has lost."""
    if equation is None or "->" not in equation or equation.count(",") != 1:
        return "equation not known: override if it is a linear map's weight"
    operands, result = equation.replace(" ", "").split("->")
    letters = operands.split(",")[1]
    if "." in letters:
        return f"axes not all named in {equation!r}: override"
    axes = tuple(axis for axis, letter in enumerate(letters) if letter not in result)
    return Weight(summed_over(axes), tuple(shape) or (None,) * len(letters))


# ---- Flax: out last, but for what a layer says of itself


def _transposed(layer: Any, k: tuple[int, ...], size_in: int | None, size_out: int) -> Weight:
    if layer.transpose_kernel:
        return Weight(layouts.out_before_last, (*k, size_out, size_in))
    return Weight(layouts.out_last, (*k, size_in, size_out))


def _linen_dense_general(layer: Any) -> Weight:
    features, batch, axis = _ints(layer.features), len(_ints(layer.batch_dims)), len(_ints(layer.axis))
    return Weight(summed_over(range(batch, batch + axis)), (*(None,) * (batch + axis), *features))


def _linen_conv_local(layer: Any) -> Weight:
    # (spatial places of the output…, k·in, out): every place has filters of its own.
    places = len(_ints(layer.kernel_size))
    return Weight(summed_over((places,)), (*(None,) * (places + 1), layer.features))


_LINEN: dict[str, Stored] = {
    "Dense": _weights(kernel=lambda layer: Weight(layouts.out_last, (None, layer.features))),
    "DenseParams": _weights(kernel=lambda layer: Weight(layouts.out_last, (None, layer.features))),
    "DenseGeneral": _weights(kernel=_linen_dense_general),
    "Einsum": lambda layer, leaf: _einsum(layer.einsum_str, layer.shape) if leaf == "kernel" else layouts.BIAS,
    "Conv": _weights(kernel=lambda layer: Weight(layouts.out_last, (*_ints(layer.kernel_size), None, layer.features))),
    "ConvLocal": _weights(kernel=_linen_conv_local),
    "ConvTranspose": _weights(kernel=lambda layer: _transposed(layer, _ints(layer.kernel_size), None, layer.features)),
    "Embed": _all(layouts.EMBEDDING),
    "WeightNorm": _all(layouts.MAGNITUDE),
    "PReLU": _all(layouts.ACTIVATION),
}

_NNX: dict[str, Stored] = {
    "Linear": _weights(kernel=lambda layer: Weight(layouts.out_last, (layer.in_features, layer.out_features))),
    "LinearGeneral": _weights(
        kernel=lambda layer: Weight(
            summed_over(range(len(layer.batch_axis), len(layer.batch_axis) + len(layer.in_features))),
            (*layer.batch_axis.values(), *layer.in_features, *layer.out_features),
        )
    ),
    "Einsum": lambda layer, leaf: _einsum(layer.einsum_str, layer.kernel_shape) if leaf == "kernel" else layouts.BIAS,
    "Conv": _weights(kernel=lambda layer: Weight(layouts.out_last, tuple(layer.kernel_shape))),
    "ConvTranspose": _weights(
        kernel=lambda layer: _transposed(layer, layer.kernel_size, layer.in_features, layer.out_features)
    ),
    # x A B is two linear maps in a row.
    "LoRA": _weights(
        lora_a=lambda layer: Weight(layouts.out_last, (layer.in_features, None)),
        lora_b=lambda layer: Weight(layouts.out_last, (None, layer.out_features)),
    ),
    "Embed": _all(layouts.EMBEDDING),
    "PReLU": _all(layouts.ACTIVATION),
}

for _norm in ("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm"):
    _LINEN[_norm] = _NNX[_norm] = _all(layouts.NORM)


# ---- Equinox: out first, transposed convolutions as well


def _equinox_conv(layer: Any) -> Weight:
    return Weight(layouts.out_first, (layer.out_channels, layer.in_channels // layer.groups, *_ints(layer.kernel_size)))


def _equinox_linear(layer: Any) -> Weight:
    sizes = (1 if size == "scalar" else size for size in (layer.out_features, layer.in_features))
    return Weight(layouts.out_first, tuple(sizes))


def _equinox_cell(gates: int) -> Stored:
    return _weights(
        weight_ih=lambda cell: Weight(layouts.out_first, (gates * cell.hidden_size, cell.input_size)),
        weight_hh=lambda cell: Weight(layouts.out_first, (gates * cell.hidden_size, cell.hidden_size)),
    )


_EQUINOX: dict[str, Stored] = {
    "Linear": _weights(weight=_equinox_linear),
    "Conv": _weights(weight=_equinox_conv),
    "ConvTranspose": _weights(weight=_equinox_conv),
    "GRUCell": _equinox_cell(3),
    "LSTMCell": _equinox_cell(4),
    "Embedding": _all(layouts.EMBEDDING),
    "LayerNorm": _all(layouts.NORM),
    "RMSNorm": _all(layouts.NORM),
    "GroupNorm": _all(layouts.NORM),
    "BatchNorm": _all(layouts.NORM),
    "PReLU": _all(layouts.ACTIVATION),
    "WeightNorm": _all(layouts.MAGNITUDE),
    "StateIndex": _all("state of the model, not a parameter"),
}


# ---- Keras: out last, but for transposed and depthwise convolutions


def _any_size(rule: Rule, ndim: Callable[[Any], int]) -> Callable[[Any], Weight]:
    return lambda layer: Weight(rule, (None,) * ndim(layer))


def _matrix(layer: Any) -> int:
    return 2


def _kernel(layer: Any) -> int:
    return len(_ints(layer.kernel_size)) + 2


_KERAS_LORA = {name: _any_size(layouts.out_last, _matrix) for name in ("lora_kernel_a", "lora_kernel_b")}
_KERAS_CELL = _weights(
    kernel=_any_size(layouts.out_last, _matrix), recurrent_kernel=_any_size(layouts.out_last, _matrix)
)

_KERAS: dict[str, Stored] = {
    "Dense": _weights(kernel=_any_size(layouts.out_last, _matrix), **_KERAS_LORA),
    "EinsumDense": lambda layer, leaf: _einsum(layer.equation, ()) if leaf == "kernel" else layouts.BIAS,
    "BaseConv": _weights(kernel=_any_size(layouts.out_last, _kernel)),
    "BaseConvTranspose": _weights(kernel=_any_size(layouts.out_before_last, _kernel)),
    "BaseDepthwiseConv": _weights(kernel=_any_size(layouts.depthwise, _kernel)),
    "BaseSeparableConv": _weights(
        depthwise_kernel=_any_size(layouts.depthwise, _kernel), pointwise_kernel=_any_size(layouts.out_last, _kernel)
    ),
    "SimpleRNNCell": _KERAS_CELL,
    "GRUCell": _KERAS_CELL,
    "LSTMCell": _KERAS_CELL,
    "ConvLSTMCell": _weights(
        kernel=_any_size(layouts.out_last, _kernel), recurrent_kernel=_any_size(layouts.out_last, _kernel)
    ),
    "Embedding": _all(layouts.EMBEDDING),
    "BatchNormalization": _all(layouts.NORM),
    "LayerNormalization": _all(layouts.NORM),
    "RMSNormalization": _all(layouts.NORM),
    "GroupNormalization": _all(layouts.NORM),
    "PReLU": _all(layouts.ACTIVATION),
}

_TABLES = {"linen": _LINEN, "nnx": _NNX, "equinox": _EQUINOX, "keras": _KERAS}


# ---- Plain trees: what the names of the leaves say

_WEIGHTS = ("kernel", "w", "weight", "recurrent_kernel", "weight_ih", "weight_hh")
_REASONS = {
    "bias": layouts.BIAS,
    "b": layouts.BIAS,
    "scale": layouts.NORM,
    "gamma": layouts.NORM,
    "beta": layouts.NORM,
    "offset": layouts.NORM,
    "negative_slope": layouts.ACTIVATION,
    "layer_scale": layouts.LAYER_SCALE,
    "cls": layouts.TOKEN,
    "cls_token": layouts.TOKEN,
    "class_token": layouts.TOKEN,
}


def by_name(
    names: Sequence[str], shape: Sequence[int], bias: Sequence[int] | None, attention: bool, layout: str
) -> Weight | str:
    """What a leaf of a plain tree is, by its name and its layer's.

    Args:
        names: the parts of its name, the last one its own.
        shape: without the axes along which layers are stacked; so is that of the bias.
        bias: the shape of the bias beside it, if there is one: it shows where a kernel has its outputs.
        attention: whether a query stands beside its layer.
        layout: how weights are stored, as declared.
    """
    leaf, layer = (part.lower().rstrip("0123456789_") for part in (names[-1], names[-2] if len(names) > 1 else ""))
    if leaf in _REASONS:
        return layouts.MAGNITUDE if leaf == "scale" and layer in _WEIGHTS else _REASONS[leaf]
    if "rel" in leaf and ("pos" in leaf or "bias" in leaf or "emb" in leaf):
        return layouts.RELATIVE_POSITION
    if "emb" in leaf:
        return layouts.POSITION if "pos" in leaf else layouts.EMBEDDING
    if leaf not in _WEIGHTS:
        return layouts.UNKNOWN
    if "emb" in layer:
        return layouts.EMBEDDING
    any_size = (None,) * len(shape)
    if layout == "out_first":
        if (
            bias is not None
            and leaf in ("kernel", "w", "weight")
            and (bias[:1] != shape[:1] or math.prod(bias[1:]) != 1)
        ):
            return UNCLEAR
        return Weight(layouts.out_first, any_size)
    if len(shape) == 3 and layer in ("query", "key", "value") and (bias is None or tuple(bias) == tuple(shape[1:])):
        return Weight(layouts.heads_out, any_size)
    if len(shape) == 3 and layer == "out" and attention:
        return Weight(layouts.heads_in, any_size)
    if bias is None or leaf == "recurrent_kernel" or tuple(bias) == tuple(shape[-1:]):
        return Weight(layouts.out_last, any_size)
    if len(shape) > 2 and tuple(bias) == (shape[-2],):
        return Weight(layouts.out_before_last, any_size)
    return UNCLEAR

"""What the layers of Keras store: out last, but for transposed and depthwise convolutions."""

from collections.abc import Callable
from typing import Any

from gc_core import layouts
from gc_core.reasons import Why
from gc_jax.weight import FACTOR, Rule, Stored, Weight, by_einsum, has, ints


def _any_size(rule: Rule, ndim: Callable[[Any], int]) -> Callable[[Any], Weight]:
    return lambda layer: Weight(rule, (None,) * ndim(layer))


def _matrix(layer: Any) -> int:
    return 2


def _kernel(layer: Any) -> int:
    return len(ints(layer.kernel_size)) + 2


def _einsum_factor(layer: Any) -> Weight | Why:
    """The first factor of an EinsumDense: as its kernel, with the rank in place of the last axis."""
    what = by_einsum(layer.equation, ())
    if isinstance(what, Weight) and layer.equation.partition("->")[0].strip()[-1] in layer.equation.split("->")[1]:
        return what
    return FACTOR  # the rank stands in place of an axis that is summed over: no weight vector runs along it


_MATRIX, _CONV = _any_size(layouts.out_last, _matrix), _any_size(layouts.out_last, _kernel)
_CELL = has(kernel=_MATRIX, recurrent_kernel=_MATRIX)

KERAS: dict[str, Stored] = {
    "Dense": has(kernel=_MATRIX, lora_kernel_a=_MATRIX, lora_kernel_b=FACTOR),
    "EinsumDense": has(
        kernel=lambda layer: by_einsum(layer.equation, ()), lora_kernel_a=_einsum_factor, lora_kernel_b=FACTOR
    ),
    "BaseConv": has(kernel=_CONV, lora_kernel_a=_CONV, lora_kernel_b=FACTOR),
    "BaseConvTranspose": has(kernel=_any_size(layouts.out_before_last, _kernel)),
    "BaseDepthwiseConv": has(kernel=_any_size(layouts.depthwise, _kernel)),
    "BaseSeparableConv": has(depthwise_kernel=_any_size(layouts.depthwise, _kernel), pointwise_kernel=_CONV),
    "SimpleRNNCell": _CELL,
    "GRUCell": _CELL,
    "LSTMCell": _CELL,
    "ConvLSTMCell": has(kernel=_CONV, recurrent_kernel=_CONV),
    "Embedding": has(
        embeddings=layouts.EMBEDDING, lora_embeddings_a=layouts.EMBEDDING, lora_embeddings_b=layouts.EMBEDDING
    ),
    "PReLU": has(alpha=layouts.ACTIVATION),
}

for _norm in ("BatchNormalization", "LayerNormalization", "RMSNormalization", "GroupNormalization"):
    KERAS[_norm] = has(gamma=layouts.NORM, beta=layouts.NORM, scale=layouts.NORM)

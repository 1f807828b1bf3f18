"""What the layers of Flax store: out last, but for what a layer says of itself."""

from typing import Any

from gc_core import layouts
from gc_jax.weight import FACTOR, Stored, Weight, all_are, by_einsum, has, ints, summed_over


def _transposed(layer: Any, k: tuple[int, ...], size_in: int | None, size_out: int) -> Weight:
    if layer.transpose_kernel:
        return Weight(layouts.out_before_last, (*k, size_out, size_in))
    return Weight(layouts.out_last, (*k, size_in, size_out))


def _linen_dense_general(layer: Any) -> Weight:
    features, batch, axis = ints(layer.features), len(ints(layer.batch_dims)), len(ints(layer.axis))
    return Weight(summed_over(range(batch, batch + axis)), (*(None,) * (batch + axis), *features))


def _linen_conv_local(layer: Any) -> Weight:
    # (spatial places of the output…, k·in, out): every place has filters of its own.
    places = len(ints(layer.kernel_size))
    return Weight(summed_over((places,)), (*(None,) * (places + 1), layer.features))


LINEN: dict[str, Stored] = {
    "Dense": has(kernel=lambda layer: Weight(layouts.out_last, (None, layer.features))),
    "DenseParams": has(kernel=lambda layer: Weight(layouts.out_last, (None, layer.features))),
    "DenseGeneral": has(kernel=_linen_dense_general),
    "Einsum": has(kernel=lambda layer: by_einsum(layer.einsum_str, layer.shape)),
    "Conv": has(kernel=lambda layer: Weight(layouts.out_last, (*ints(layer.kernel_size), None, layer.features))),
    "ConvLocal": has(kernel=_linen_conv_local),
    "ConvTranspose": has(kernel=lambda layer: _transposed(layer, ints(layer.kernel_size), None, layer.features)),
    "Embed": has(embedding=layouts.EMBEDDING),
    "WeightNorm": all_are(layouts.MAGNITUDE),
    "PReLU": has(negative_slope=layouts.ACTIVATION),
}

NNX: dict[str, Stored] = {
    "Linear": has(kernel=lambda layer: Weight(layouts.out_last, (layer.in_features, layer.out_features))),
    "LinearGeneral": has(
        kernel=lambda layer: Weight(
            summed_over(range(len(layer.batch_axis), len(layer.batch_axis) + len(layer.in_features))),
            (*layer.batch_axis.values(), *layer.in_features, *layer.out_features),
        )
    ),
    "Einsum": has(kernel=lambda layer: by_einsum(layer.einsum_str, layer.kernel_shape)),
    "Conv": has(kernel=lambda layer: Weight(layouts.out_last, tuple(layer.kernel_shape))),
    "ConvTranspose": has(
        kernel=lambda layer: _transposed(layer, ints(layer.kernel_size), layer.in_features, layer.out_features)
    ),
    # x A B: the weight vectors are the columns of A B, and the mean of each is (the means of A) times a column of B.
    "LoRA": has(lora_a=lambda layer: Weight(layouts.out_last, (layer.in_features, None)), lora_b=FACTOR),
    "Embed": has(embedding=layouts.EMBEDDING),
    "WeightNorm": all_are(layouts.MAGNITUDE),
    "PReLU": has(negative_slope=layouts.ACTIVATION),
}

for _norm in ("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm"):
    LINEN[_norm] = NNX[_norm] = has(scale=layouts.NORM, bias=layouts.NORM)

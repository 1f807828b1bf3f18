"""What the layers of Equinox store: out first, transposed convolutions as well."""

from typing import Any

from gc_core import layouts
from gc_core.reasons import Reason, Why
from gc_jax.weight import Stored, Weight, all_are, has, ints


def _conv(layer: Any) -> Weight:
    return Weight(layouts.out_first, (layer.out_channels, layer.in_channels // layer.groups, *ints(layer.kernel_size)))


def _linear(layer: Any) -> Weight:
    sizes = (1 if size == "scalar" else size for size in (layer.out_features, layer.in_features))
    return Weight(layouts.out_first, tuple(sizes))


def _cell(gates: int) -> Stored:
    return has(
        weight_ih=lambda cell: Weight(layouts.out_first, (gates * cell.hidden_size, cell.input_size)),
        weight_hh=lambda cell: Weight(layouts.out_first, (gates * cell.hidden_size, cell.hidden_size)),
    )


EQUINOX: dict[str, Stored] = {
    "Linear": has(weight=_linear),
    "Conv": has(weight=_conv),
    "ConvTranspose": has(weight=_conv),
    "GRUCell": _cell(3),
    "LSTMCell": _cell(4),
    "Embedding": has(weight=layouts.EMBEDDING),
    "PReLU": has(negative_slope=layouts.ACTIVATION),
    "WeightNorm": has(g=layouts.MAGNITUDE),
    "StateIndex": all_are(Why(Reason.STATE)),
}

for _norm in ("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm"):
    EQUINOX[_norm] = has(weight=layouts.NORM, bias=layouts.NORM)

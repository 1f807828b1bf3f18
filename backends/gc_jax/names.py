"""What the names of a plain tree say of its leaves: Linen's, Haiku's, your own.

A name decides only where it can: what several layers would store under that name and with that shape is asked for.
"""

import re
from collections.abc import Mapping, Sequence

from gc_core import layouts
from gc_core.reasons import Reason, Why
from gc_jax.weight import FACTOR, Weight

_KERNELS = ("kernel", "w", "weight")
_WEIGHTS = (*_KERNELS, "recurrent_kernel", "weight_ih", "weight_hh", "w_i", "w_h", "lora_a", "lora_kernel_a")
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
    "lora_b": FACTOR,
    "lora_kernel_b": FACTOR,
}
BIAS_UNFIT = Why(Reason.BIAS_UNFIT)

Shape = Sequence[int]


def by_name(names: Sequence[str], shape: Shape, beside: Mapping[str, Shape], layout: str) -> Weight | Why:
    """What a leaf of a plain tree is, by its name and its layer's.

    Args:
        names: the parts of its name, the last one its own.
        shape: without the axes along which layers are stacked; so are those of the leaves beside it.
        beside: the shapes of what else there is: "bias" of its own layer; "query", "key", "value" and "out", the
            leaves of its name in the layers beside its own that are called so.
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
    bias = beside.get("bias")
    # A convolution that cuts an image into patches is called an embedding, too: "kernel" is never a table.
    if "emb" in layer and leaf != "kernel" and len(shape) == 2 and bias is None:
        return layouts.EMBEDDING
    rule = _out_first if layout == "out_first" else _out_last
    return rule(leaf, layer, tuple(shape), None if bias is None else tuple(bias), beside)


def stacked_by_name(name: str) -> tuple[int, ...]:
    """The axes along which layers are stacked, where the name of the leaf says so: Haiku's `layer_stack`."""
    return (0,) * ("__layer_stack" in name)


def _out_first(leaf: str, layer: str, shape: Shape, bias: Shape | None, beside: Mapping[str, Shape]) -> Weight | Why:
    if bias is not None and leaf in _KERNELS and (bias[:1] != shape[:1] or any(size != 1 for size in bias[1:])):
        return BIAS_UNFIT
    if bias is None and _may_be_a_stack(layer, shape):
        return _unclear(leaf, layer, shape)
    return Weight(layouts.out_first, (None,) * len(shape))


def _out_last(leaf: str, layer: str, shape: Shape, bias: Shape | None, beside: Mapping[str, Shape]) -> Weight | Why:
    any_size = (None,) * len(shape)
    if leaf not in _KERNELS:  # recurrent cells have one bias for several weights
        return Weight(layouts.out_last, any_size)
    if layer in ("query", "key", "value", "out") and {"query", "key", "value"} & beside.keys() and len(shape) > 2:
        return _attention(leaf, layer, shape, bias, beside)
    if "transpose" in layer:
        return _transposed(leaf, layer, shape, bias)
    if bias is None:
        return _unclear(leaf, layer, shape) if _may_be_a_stack(layer, shape) else Weight(layouts.out_last, any_size)
    if bias == shape[-1:]:
        return Weight(layouts.out_last, any_size)
    if len(shape) > 2 and bias == (shape[-2],):
        return Weight(layouts.out_before_last, any_size)
    return BIAS_UNFIT


def _attention(leaf: str, layer: str, shape: Shape, bias: Shape | None, beside: Mapping[str, Shape]) -> Weight | Why:
    """Flax's kernels, (in, heads, head_dim) and (heads, head_dim, out): a stack of matrices has three axes, too."""
    if bias == tuple(shape[-1:]):  # the bias of a plain layer that is called so, or of "out"
        return Weight(layouts.out_last if layer != "out" or len(shape) > 3 else layouts.heads_in, (None,) * len(shape))
    out = tuple(beside.get("out", ()))
    heads = [tuple(beside[name])[1:] for name in ("query", "value", "key") if name in beside]
    if len(shape) == 3 and layer != "out":
        if bias == tuple(shape[1:]) or (bias is None and len(out) == 3 and out[:2] == tuple(shape[1:])):
            return Weight(layouts.heads_out, (None,) * 3)
    elif len(shape) == 3 and tuple(shape[:2]) in heads and bias is None:
        return Weight(layouts.heads_in, (None,) * 3)
    return _unclear(leaf, layer, shape) if bias is None else BIAS_UNFIT


def _transposed(leaf: str, layer: str, shape: Shape, bias: Shape | None) -> Weight | Why:
    """Haiku and Keras store (k…, out, in), and Flax (k…, in, out) unless told otherwise."""
    if len(shape) < 3:
        return _unclear(leaf, layer, shape)
    out_before = bias == (shape[-2],)
    out_last = bias == (shape[-1],)
    if bias is not None and not (out_before or out_last):
        return BIAS_UNFIT
    if re.search(r"conv(\d|_n)_?d_transpose", layer) and (bias is None or out_before):
        return Weight(layouts.out_before_last, (None,) * len(shape))
    if out_before != out_last:
        return Weight(layouts.out_before_last if out_before else layouts.out_last, (None,) * len(shape))
    return _unclear(leaf, layer, shape)


def _may_be_a_stack(layer: str, shape: Shape) -> bool:
    """Three axes without a bias: a convolution over a line, or matrices of many layers."""
    return len(shape) == 3 and "conv" not in layer


def _unclear(leaf: str, layer: str, shape: Shape) -> Why:
    return Why(Reason.NAME_UNCLEAR, name=f"{layer}.{leaf}".lstrip("."), shape="×".join(map(str, shape)))

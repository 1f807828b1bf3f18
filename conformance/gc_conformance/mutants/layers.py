"""Wrong choices of axes: one at least for each row of the table of layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..chapters.layers import ROWS
from ..honest import Straight
from .register import mutant


class WrongRow(Straight):
    """Has its own idea of one kind of layer; `axes` says over which axes it averages, or None."""

    def __init__(self, row, axes):
        self.row, self.axes = row, axes

    def centralize_layer(self, kind, grad, *, stored, **layer):
        if (
            kind != self.row.kind
            or stored != self.row.stored
            or any(
                layer.get(name) != value
                for name, value in (self.row.options or ({},))[0].items()
                if name in ("part", "tied")
            )
        ):
            return super().centralize_layer(kind, grad, stored=stored, **layer)
        axes = self.axes(grad.ndim)
        return grad.copy() if axes is None else self._center(grad, axes)


def _all_but_first(ndim):
    return tuple(range(1, ndim)) or (0,)


def _all_but_last(ndim):
    return tuple(range(ndim - 1)) or (0,)


LAYER_MISTAKES: dict[str, tuple[str, str, Callable[[int], tuple[int, ...] | None]]] = {
    "linear_out_last": ("DenseTakenForLinear", "Takes a Dense kernel for a PyTorch weight.", _all_but_first),
    "linear_out_first": ("LinearTakenForDense", "Takes a PyTorch weight for a Dense kernel.", _all_but_last),
    "conv2d_out_first": ("SpatialMeanOfKernel", "Averages a convolution over h and w only.", lambda n: (2, 3)),
    "conv2d_out_last": ("FlaxKernelTakenForTorch", "Takes a Flax kernel for a PyTorch one.", _all_but_first),
    "conv_transpose2d": ("TransposedTakenForConv", "Takes a transposed convolution for a convolution.", _all_but_first),
    "grouped_conv_transpose": (
        "IgnoresGroups",
        "Averages a grouped transposed convolution over all groups.",
        lambda n: (0, 2, 3),
    ),
    "conv_transpose_out_first": (
        "EquinoxTakenForTorch",
        "Takes Equinox's transposed kernel for PyTorch's.",
        lambda n: (0, 2, 3),
    ),
    "conv_transpose_out_in": ("KerasTakenForFlax", "Takes Keras's transposed kernel for Flax's.", _all_but_last),
    "depthwise_out_last": (
        "DepthwiseTakenForConv",
        "Averages a depthwise kernel over its channels, too.",
        _all_but_last,
    ),
    "attention_heads": ("HeadsAveraged", "Averages a query kernel over its heads.", _all_but_last),
    "attention_out_heads": (
        "OutputTakenForQuery",
        "Averages an attention output kernel over heads alone.",
        lambda n: (0,),
    ),
    "stacked_out_last": ("StackAveraged", "Averages over a stack of layers.", _all_but_last),
    "experts": ("ExpertsAveraged", "Averages over the experts.", lambda n: (0,)),
    "depthwise_1x1": ("FreezesDepthwise", "Centralizes a fan-in of 1, which freezes the layer.", _all_but_first),
    "linear_fan_in_one": ("FreezesLinear", "Centralizes Linear(1, n), which freezes it.", _all_but_first),
    "layer_scale": ("FreezesLayerScale", "Centralizes layer scale by its shape, which freezes it.", _all_but_first),
    "embedding": ("EmbeddingTouched", "Centralizes embeddings.", _all_but_first),
    "tied_embedding": ("TiedTakenForHead", "Centralizes an embedding because it is the head as well.", _all_but_first),
    "position_embedding": ("PositionsTouched", "Centralizes position embeddings by their rank.", _all_but_first),
    "class_token": ("TokenTouched", "Centralizes a class token by its rank.", _all_but_first),
    "relative_position_table": ("TableTouched", "Centralizes a table of relative positions.", _all_but_first),
    "norm_scale_3d": ("NormTouched", "Centralizes a normalization's scale by its rank.", _all_but_first),
    "bias": ("BiasTouched", "Centralizes biases.", lambda n: (0,)),
    "bias_heads": ("HighRankBiasTouched", "Centralizes biases of rank two and more.", _all_but_first),
    "recurrent": ("GatesAveraged", "Averages recurrent weights over the gates.", lambda n: (0,)),
    "weight_norm_magnitude": ("MagnitudeTouched", "Centralizes the magnitude of weight_norm.", _all_but_first),
    "unknown": ("GuessesByShape", "Guesses that any matrix is a weight.", _all_but_first),
}
for _row in ROWS:
    _name, _what, _axes = LAYER_MISTAKES.get(
        _row.id,
        (
            f"Misses_{_row.id}",
            "Does not centralize this layer." if _row.over else "Centralizes this parameter.",
            (lambda n: None) if _row.over else _all_but_first,
        ),
    )
    mutant(f"layers.{_row.id}", _name, _what)(partial(WrongRow, _row, _axes))


@mutant("layers.fan_in_axes_none")
class AxesForVectors(Straight):
    """Finds fan-in axes where there are none."""

    def fan_in_axes(self, shape, layout):
        return tuple(range(1, len(shape))) if layout == "out_first" else tuple(range(len(shape) - 1))


@mutant("layers.fan_in_axes_out_first")
class LayoutsSwappedFirst(Straight):
    """Takes out_first for out_last."""

    def fan_in_axes(self, shape, layout):
        return super().fan_in_axes(shape, "out_last")


@mutant("layers.fan_in_axes_out_last")
class LayoutsSwappedLast(Straight):
    """Takes out_last for out_first."""

    def fan_in_axes(self, shape, layout):
        return super().fan_in_axes(shape, "out_first")


@mutant("layers.input_unchanged")
class LayersInPlace(Straight):
    """Centralizes the gradient of a layer in place."""

    def centralize_layer(self, kind, grad, **layer):
        grad[...] = super().centralize_layer(kind, grad, **layer)
        return grad

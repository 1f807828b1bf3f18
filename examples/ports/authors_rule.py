"""The authors' rule as they published it, stated again in NumPy: the mean over all axes but the first, by rank alone.

`all_layers` takes every gradient with two axes or more; `convolutions`, the paper's setting for ImageNet, takes those
with four or more. Shapes are PyTorch's. This is the rule, not the authors' program.
"""

import numpy as np

from examples.ports.adapter import (
    BY_RANK,
    FAN_IN_ONE,
    NOT_WEIGHTS,
    OUT_LAST,
    STACKS,
    TRANSPOSED,
    first_is_output,
    only,
    stored_by,
)

packages = ("numpy",)


class _Rule:
    def __init__(self, name, least, causes):
        self.name, self._least, self.causes = name, least, causes

    def _own(self, shape):
        return first_is_output(shape) if len(shape) >= self._least else None

    def _centralized(self, grad):
        own = self._own(grad.shape)
        return grad.copy() if own is None else grad - grad.mean(own, keepdims=True)

    def centralize(self, grad, axis):
        only(self._own(grad.shape), axis, grad.shape)
        with np.errstate(all="ignore"):
            return self._centralized(grad)

    def centralize_layer(self, kind, grad, *, stored, part="weight", groups=1, stack=None, tied=False):
        """The rule sees gradients alone, whatever layer they belong to."""
        stored_by("torch", kind, stored, part, groups, stack)
        return self._centralized(grad)


all_layers = _Rule(
    "the authors' rule: all layers",
    2,
    {
        BY_RANK: (*NOT_WEIGHTS, "layers.attention_bias_kv", "layers.weight_norm_magnitude", "layers.orthogonal"),
        FAN_IN_ONE: ("layers.depthwise_1x1", "layers.linear_fan_in_one"),
        TRANSPOSED: ("layers.*conv_transpose*",),
        STACKS: ("layers.stacked_out_first", "layers.experts"),
        OUT_LAST: ("layers.linear_out_last*",),
    },
)
convolutions = _Rule(
    "the authors' rule: convolutions only",
    4,
    {
        "By choice, tensors of two and three axes are left alone.": (
            *("layers.linear_out_first", "layers.linear_out_last", "layers.bilinear", "layers.conv1d_out_first"),
            *("layers.recurrent*", "layers.gru_and_rnn", "layers.attention_*", "layers.stacked_out_first"),
            *("layers.experts", "layers.weight_norm_direction", "layers.spectral_norm", "layers.conv_transpose1d"),
        ),
        TRANSPOSED: ("layers.conv_transpose2d", "layers.conv_transpose3d", "layers.grouped_conv_transpose"),
        FAN_IN_ONE: ("layers.depthwise_1x1",),
        BY_RANK: ("layers.bias_4d",),
    },
)

"""The authors' rule as they published it, stated again in NumPy: the mean over all axes but the first, by rank alone.

`all_layers` takes every gradient with two axes or more; `convolutions`, the paper's setting for ImageNet, takes those
with four or more. Shapes are PyTorch's. This is the rule, not the authors' program.
"""

import numpy as np

from examples.ports.adapter import first_is_output, only, stored_by

packages = ("numpy",)


class _Rule:
    def __init__(self, name, least):
        self.name, self._least = name, least

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


all_layers = _Rule("the authors' rule: all layers", 2)
convolutions = _Rule("the authors' rule: convolutions only", 4)

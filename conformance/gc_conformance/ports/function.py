"""A function on tensors that chooses its axes itself, as a port: what the adapters of all frameworks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import storage


class Function:
    """A port of one function of a gradient. Other axes than its own are *not provided*.

    Attributes:
        made: takes a gradient, and returns one or None, having changed what it was given.
        framework: whose models it is for: "torch", "jax" or "keras".
        layout: which axis it takes for the output.
        least: the dimensions below which it leaves gradients alone.
    """

    def __init__(
        self,
        made: Callable,
        *,
        name: str,
        dtypes: tuple[str, ...],
        framework: str,
        layout: str,
        least: int,
        arrays: Any,
    ):
        self.made, self.name, self.dtypes = made, name or getattr(made, "__qualname__", repr(made)), dtypes
        self.framework, self.layout, self.least = framework, layout, least
        self.from_numpy, self.to_numpy, self.copy = arrays.from_numpy, arrays.to_numpy, arrays.copy

    def _own(self, grad: Any) -> Any:
        given = self.copy(grad)  # in place is how some are offered, and not what is judged here
        result = self.made(given)
        return given if result is None else result

    def centralize(self, grad, axis):
        storage.only(storage.own_axes(grad.shape, self.layout, self.least), axis, grad.shape)
        return self._own(grad)

    def centralize_layer(self, kind, grad, **words):
        """The function sees tensors alone, whatever layer they belong to."""
        storage.require(self.framework, kind, **words)
        return self._own(grad)

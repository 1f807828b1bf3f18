"""An optimizer with a switch as a port: what the adapters of all frameworks share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..port import PortError
from . import storage
from .switch import Switch, check, without_decay


class Optimizer:
    """The port. An adapter adds its arrays, `steps`, and how a reproduction spells them.

    Attributes:
        framework: whose models it is for: "torch", "jax" or "keras".
        layout: which axis of a weight is the output.
        given: how many arguments `made` takes before those of the switch and the options.
        made, plain: what builds the optimizer, and the same without a switch, where there is one.
        options: every other argument that it is built with.
    """

    framework, layout, given = "", "out_last", 0

    def __init__(
        self,
        made: Callable,
        switch: str | Switch | dict[str, dict[str, Any]],
        plain: Callable | None,
        options: dict[str, Any],
        declared: dict[str, Any] | None = None,
    ):
        self.made, self.switch, self.plain, self.options = made, Switch.parse(switch), plain, options
        self.label = getattr(made, "__qualname__", repr(made))
        self.name = f"{self.label}({self.switch.text})"
        check(made, self.switch, options, given=self.given)
        for name, value in (declared or {}).items():
            setattr(self, name, value)

    def steps(self, made: Callable, arguments: dict[str, Any], params: dict, layers: dict) -> Any:
        """An optimizer over new parameters, with `step(gradients)`, `params()` and `state()`."""
        raise NotImplementedError

    def switched(self, params, layers, gc, **options):
        for words in layers.values():
            storage.require(self.framework, **words)
        made = self.plain if gc is None else self.made
        if made is None:
            raise NotImplementedError("no optimizer without a switch is named")
        if unknown := [name for name in options if not _takes(made, name)]:
            raise NotImplementedError(f"{', '.join(unknown)} is none of its arguments")
        return self.steps(made, self.fixed(made) | self.switch.of(gc) | options, params, layers)

    def fixed(self, made: Callable) -> dict[str, Any]:
        return {**without_decay(made), **self.options}

    def tried(self, weight: Any, method: str) -> Any:
        """The optimizer over one weight, with GC off, to see that it can be built and has such a method.

        Raises:
            PortError: it cannot, or has not.
        """
        stored = "out in" if self.layout == "out_first" else "in out"
        try:
            probe = self.switched({"weight": weight}, {"weight": {"kind": "linear", "stored": stored}}, "off")
            if not hasattr(probe.optimizer, method):
                raise TypeError(f"it returns a {type(probe.optimizer).__name__}, which has no {method}")
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise PortError(f"{self.label} cannot be built: {why} (arguments: --with NAME=VALUE).") from error
        return probe


def _takes(made: Callable, name: str) -> bool:
    parameters = inspect.signature(made).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

"""Keras 3: an optimizer class with a switch, or a function on tensors, as a port."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import keras as _keras  # pyright: ignore[reportMissingImports]
import numpy as np

from . import switched
from .function import Function
from .switch import Switch, imported, spelled

keras: Any = _keras  # whose modules are found when they are asked for, which type checkers do not see


def from_numpy(array: np.ndarray) -> Any:
    return keras.ops.convert_to_tensor(np.array(array))


def to_numpy(tensor: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(tensor))


def copy(tensor: Any) -> Any:
    return keras.ops.copy(tensor)


class Steps:
    """An optimizer over new variables."""

    def __init__(self, made: Callable, params: dict[str, Any], arguments: dict[str, Any]):
        self.variables = {
            name: keras.Variable(w, name=name.replace(".", "_"), dtype=keras.backend.standardize_dtype(w.dtype))
            for name, w in params.items()
        }
        self.optimizer = made(**arguments)
        self.optimizer.build(list(self.variables.values()))

    def step(self, gradients: Callable[[dict], dict]) -> None:
        given = gradients({name: v.value for name, v in self.variables.items()})
        self.optimizer.apply([given[name] for name in self.variables], list(self.variables.values()))

    def params(self) -> dict[str, Any]:
        return {name: copy(v.value) for name, v in self.variables.items()}

    def state(self) -> dict[str, Any]:
        return {f"{i}.{v.name}": copy(v.value) for i, v in enumerate(self.optimizer.variables)}


class Optimizer(switched.Optimizer):
    """The port: see `optimizer`."""

    framework = "keras"
    from_numpy = staticmethod(from_numpy)
    to_numpy = staticmethod(to_numpy)
    dtypes: tuple[str, ...] = ("float32",)

    def steps(self, made, arguments, params, layers):
        return Steps(made, params, arguments)

    def spelling(self, options: dict[str, Any], changed: Callable[[str], str]) -> tuple[str, ...]:
        line, name = imported(self.made)
        fixed, modules = spelled(self.fixed(self.made) | options)
        return (
            f"import keras; {line}{modules}",
            "p = {n: keras.Variable(weights[n]) for n in names}; "
            f"optimizer = {name}(**{self.switch.arguments}[gc]{fixed}); optimizer.build([*p.values()])",
            f"optimizer.apply([keras.ops.convert_to_tensor({changed('np.asarray(p[n])')}) for n in p], [*p.values()])",
            "{n: np.array(p[n]) for n in p}",
            "[np.array(v) for v in optimizer.variables]",
        )


def optimizer(
    made: Callable,
    switch: str | Switch | dict[str, dict[str, Any]],
    *,
    plain: Callable | None = None,
    declared: dict[str, Any] | None = None,
    **options: Any,
) -> Optimizer:
    """A class of keras.optimizers' kind, or a function that builds an optimizer, as a port.

    Args:
        made: called with the arguments; returns a Keras optimizer.
        switch: the argument that switches GC, as `Switch.parse` reads it.
        plain: the same optimizer without a switch.
        declared: what the chapter `switch` lets a port declare.
        options: every other argument that it is built with.

    Raises:
        PortError: it has no such argument, or cannot be built with these.
    """
    port = Optimizer(made, switch, plain, options, declared)
    port.tried(from_numpy(np.ones((4, 3), "float32")), "apply")
    return port


def function(
    made: Callable,
    *,
    name: str = "",
    dtypes: tuple[str, ...] = ("float32",),
    layout: str = "out_last",
    least: int = 2,
) -> Function:
    """A function of a gradient that averages over all axes but the output's, as a port.

    Args:
        made: takes a tensor of Keras's backend and returns one.
        layout: "out_first" or "out_last", which axis it takes for the output.
        least: the dimensions below which it leaves tensors alone.
    """
    arrays = sys.modules[__name__]
    return Function(made, name=name, dtypes=dtypes, framework="keras", layout=layout, least=least, arrays=arrays)

"""Keras 3: an optimizer class with a switch, or a function on tensors, as a port."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import keras as _keras  # pyright: ignore[reportMissingImports]
import numpy as np

from ..port import PortError
from . import storage
from .function import Function
from .switch import Switch, check, imported, spelled

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


class Optimizer:
    """The port: see `optimizer`."""

    library, layout = "keras", "out_last"
    from_numpy = staticmethod(from_numpy)
    to_numpy = staticmethod(to_numpy)
    dtypes: tuple[str, ...] = ("float32",)

    def __init__(self, made: Callable, switch: Switch, plain: Callable | None, options: dict[str, Any]):
        self.made, self.switch, self.plain, self.options = made, switch, plain, options
        self.name = f"{getattr(made, '__qualname__', made)}({switch.text})"

    def switched(self, params, layers, gc, **options):
        for words in layers.values():
            storage.require("keras", **words)
        made = self.plain if gc is None else self.made
        if made is None:
            raise NotImplementedError("no optimizer without a switch is named")
        arguments = {**self.options, **self.switch.of(gc), **options}
        parameters = inspect.signature(made).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        if unknown := [name for name in options if name not in parameters and not takes_any]:
            raise NotImplementedError(f"{', '.join(unknown)} is none of its arguments")
        return Steps(made, params, arguments)

    def spelling(self, options: dict[str, Any], changed: Callable[[str], str]) -> tuple[str, ...]:
        line, name = imported(self.made)
        fixed, modules = spelled({**self.options, **options})
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
    switch = Switch.parse(switch)
    check(made, switch, options, given=0)
    port = Optimizer(made, switch, plain, options)
    for name, value in (declared or {}).items():
        setattr(port, name, value)
    try:
        probe = np.ones((4, 3), "float32")
        port.switched({"weight": from_numpy(probe)}, {"weight": {"kind": "linear", "stored": "in out"}}, "off")
    except Exception as error:
        name = getattr(made, "__qualname__", made)
        raise PortError(
            f"{name} cannot be built: {type(error).__name__}: {error} (arguments: --with NAME=VALUE)."
        ) from error
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
    return Function(made, name=name, dtypes=dtypes, library="keras", layout=layout, least=least, arrays=arrays)

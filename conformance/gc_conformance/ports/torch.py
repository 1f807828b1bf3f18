"""PyTorch: an optimizer class with a switch, or a function on tensors, as a port.

>>> import torch                                                          # doctest: +SKIP
>>> from gc_conformance.ports.torch import optimizer                      # doctest: +SKIP
>>> from pytorch_optimizer import Ranger                                  # doctest: +SKIP
>>> gc_conformance.run(optimizer(Ranger, "use_gc"), profile="quick")      # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import inspect
import io
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from . import switched
from .function import Function
from .switch import Switch, imported, spelled
from .torch_model import model_of


def from_numpy(array: np.ndarray) -> torch.Tensor:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.to(torch.float32).numpy().astype(ml_dtypes.bfloat16)
    return tensor.numpy().copy()


def copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone()


class Steps:
    """An optimizer over new parameters. `loss` is what its closure returns: the gradients are the suite's."""

    def __init__(self, made: Callable, given: Any, parameters: dict[str, torch.nn.Parameter], closure: bool):
        self.parameters, self.closure = parameters, closure
        with contextlib.redirect_stdout(io.StringIO()):  # some print a page when they are made
            self.optimizer = made(given)

    def step(self, gradients: Callable[[dict], dict]) -> None:
        def closure() -> torch.Tensor:
            with torch.no_grad():
                given = gradients({name: p.detach() for name, p in self.parameters.items()})
                for name, parameter in self.parameters.items():
                    parameter.grad = given[name]
            return torch.ones(())

        with contextlib.redirect_stdout(io.StringIO()):
            if self.closure:
                self.optimizer.step(closure)
            else:
                closure()
                self.optimizer.step()

    def params(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.parameters.items()}

    def state(self) -> dict[str, torch.Tensor]:
        return dict(_leaves(self.optimizer.state_dict().get("state", {})))


def _leaves(tree: Any, path: str = "state") -> Any:
    """Tensors and numbers in a state, by their path."""
    if isinstance(tree, torch.Tensor):
        yield path, tree.detach().clone()
    elif isinstance(tree, (bool, int, float)):
        yield path, torch.tensor(float(tree), dtype=torch.float64)
    elif isinstance(tree, (dict, list, tuple)):
        entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in entries:
            yield from _leaves(value, f"{path}.{key}")


class Optimizer(switched.Optimizer):
    """The port: see `optimizer`."""

    framework, layout, given = "torch", "out_first", 1
    from_numpy = staticmethod(from_numpy)
    to_numpy = staticmethod(to_numpy)
    model, closure = False, False

    def steps(self, made, arguments, params, layers):
        if self.model:
            given, parameters = model_of(params, layers)
        else:
            parameters = {name: torch.nn.Parameter(w.clone()) for name, w in params.items()}
            given = list(parameters.values())
        return Steps(partial(made, **arguments), given, parameters, self.closure)

    def spelling(self, options: dict[str, Any], changed: Callable[[str], str]) -> tuple[str, ...] | None:
        if self.model:
            return None
        line, name = imported(self.made)
        fixed, modules = spelled(self.fixed(self.made) | options)
        gradients = f"[setattr(p[n], 'grad', torch.tensor({changed('p[n].detach().numpy()')})) for n in p]"
        return (
            f"import torch; {line}{modules}",
            "p = {n: torch.nn.Parameter(torch.tensor(weights[n])) for n in names}; "
            f"optimizer = {name}([*p.values()], **{self.switch.arguments}[gc]{fixed})",
            f"optimizer.step(lambda: {gradients} and torch.ones(()))"
            if self.closure
            else f"{gradients}; optimizer.step()",
            "{n: p[n].detach().clone() for n in p}",
            "optimizer.state_dict()['state']",
        )


def optimizer(
    made: Callable,
    switch: str | Switch | dict[str, dict[str, Any]],
    *,
    plain: Callable | None = None,
    model: bool = False,
    closure: bool | None = None,
    dtypes: tuple[str, ...] = ("float32", "float64"),
    declared: dict[str, Any] | None = None,
    **options: Any,
) -> Optimizer:
    """A class of torch.optim's kind, or a function that builds an optimizer of parameters, as a port.

    Args:
        made: called with a list of parameters and the arguments.
        switch: the argument that switches GC, as `Switch.parse` reads it: "use_gc", or "gc_on=gradient,none", or by
            place the arguments, {"gradient": {...}, "off": {...}}.
        plain: the same optimizer without a switch.
        model: hand over a model of real layers instead of a list of parameters.
        closure: whether step is to be given a closure; without it, where it makes no step without one.
        dtypes: that it claims.
        declared: what the chapter `switch` lets a port declare: layout, decay, linear, centralizes, changes_gradients.
        options: every other argument that it is built with.

    Raises:
        PortError: it has no such argument, or cannot be built with these.
    """
    port = Optimizer(made, switch, plain, options, declared)
    port.model, port.closure = model, bool(closure)
    port.dtypes = dtypes  # type: ignore[attr-defined]
    probe = port.tried(torch.ones(3, 4), "step")
    if closure is None:
        port.closure = not _steps(probe) and "closure" in inspect.signature(probe.optimizer.step).parameters
    return port


def _steps(probe: Steps) -> bool:
    """Whether it makes a step without a closure."""
    try:
        probe.step(lambda params: {name: torch.ones_like(w) for name, w in params.items()})
    except Exception:
        return False
    return True


def function(
    made: Callable,
    *,
    name: str = "",
    dtypes: tuple[str, ...] = ("float32", "float64"),
    layout: str = "out_first",
    least: int = 2,
) -> Function:
    """A function of a gradient, in place or not, that averages over all axes but the output's, as a port.

    Args:
        made: takes a tensor, and returns one or None, having changed what it was given.
        layout: "out_first" or "out_last", which axis it takes for the output.
        least: the dimensions below which it leaves tensors alone.
    """
    arrays = sys.modules[__name__]
    return Function(made, name=name, dtypes=dtypes, framework="torch", layout=layout, least=least, arrays=arrays)

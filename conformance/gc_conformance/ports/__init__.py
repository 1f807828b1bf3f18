"""Adapters that make a port of what a framework's users have: an optimizer class, a factory, a function on tensors.

    gc_conformance.ports.torch    a class of torch.optim's kind, a function that builds one, a function on tensors
    gc_conformance.ports.optax    a factory of an Optax transformation
    gc_conformance.ports.keras    a class of keras.optimizers' kind
    gc_conformance.ports.jax      a function on JAX arrays

Importing one imports its framework and no other; importing this page imports none. On the command line the framework is
found from what is named: `gc-conformance run pytorch_optimizer:Ranger --switch use_gc`.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Sequence
from typing import Any

from ..port import PortError
from .switch import Switch, options_of

FRAMEWORKS = ("torch", "optax", "keras", "jax")


def framework_of(found: Any) -> str | None:
    """Which adapter is for this object: by its class's ancestors, or by what the module that made it has imported."""
    if inspect.isclass(found):
        for ancestor in found.__mro__:
            root = ancestor.__module__.split(".")[0]
            if root in ("torch", "keras"):
                return root
    module = sys.modules.get(getattr(found, "__module__", None) or "")
    names = {value.__name__.split(".")[0] for value in vars(module or object).values() if inspect.ismodule(value)}
    names |= {str(getattr(value, "__module__", "")).split(".")[0] for value in vars(module or object).values()}
    known = [name for name in FRAMEWORKS if name in names]
    if "optax" in known:
        return "optax"
    return known[0] if len(known) == 1 else None


def adapt(
    found: Any, *, switch: str | None = None, built_with: Sequence[str] = (), framework: str | None = None
) -> Any:
    """The port that an optimizer with a switch is.

    Args:
        found: an optimizer class, or a function that builds one.
        switch: the argument that switches GC: its name, for True and False; or name=on,off or name=on,off,update.
        built_with: every other argument that it is built with, as name=value.
        framework: "torch", "optax", "keras" or "jax"; found from the object without it.

    Raises:
        PortError: the framework cannot be told or is not installed, or the object cannot be built like this.
    """
    framework = framework or framework_of(found)
    name = getattr(found, "__qualname__", repr(found))
    if framework not in FRAMEWORKS:
        raise PortError(f"{name}: no framework can be told from it; name one by --adapter torch, optax or keras.")
    if not callable(found):
        raise PortError(f"{name} is a {type(found).__name__}; a switch needs a class or a function that builds one.")
    try:
        adapter = importlib.import_module(f".{framework}", __name__)
    except ModuleNotFoundError as missing:
        raise PortError(f"{name} needs the adapter for {framework}, and {missing.name} is not installed.") from missing
    if not hasattr(adapter, "optimizer"):
        raise PortError(f"{framework} has no optimizers with a switch; use optax.")
    if not switch:
        raise PortError(f"{name} is an optimizer; name the argument that switches GC by --switch.")
    port = adapter.optimizer(found, Switch.parse(switch), **options_of(built_with))
    port.name = f"{name}({', '.join([port.switch.text, *built_with])})"
    return port

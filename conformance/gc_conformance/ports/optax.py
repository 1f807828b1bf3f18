"""Optax: a factory with a switch, or GC as a transformation in front of another, as a port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from ..port import PortError
from . import storage
from .jax import copy, from_numpy, own_dtypes, to_numpy
from .switch import Switch, check, imported, spelled, without_decay

__all__ = ["copy", "from_numpy", "in_front", "optimizer", "to_numpy"]


class Steps:
    """A transformation, applied to a dict of arrays."""

    def __init__(self, made: optax.GradientTransformation, params: dict[str, jax.Array]):
        self.made: optax.GradientTransformation = made
        self.values: Any = dict(params)
        self.kept = made.init(self.values)

    def step(self, gradients: Callable[[dict], dict]) -> None:
        updates, self.kept = self.made.update(gradients(dict(self.values)), self.kept, self.values)
        self.values = optax.apply_updates(self.values, updates)

    def params(self) -> dict[str, jax.Array]:
        return dict(self.values)

    def state(self) -> dict[str, jax.Array]:
        leaves = jax.tree_util.tree_flatten_with_path(self.kept)[0]
        return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


class Optimizer:
    """The port: see `optimizer`."""

    library = "jax"
    from_numpy = staticmethod(from_numpy)
    to_numpy = staticmethod(to_numpy)

    def __init__(self, made: Callable, switch: Switch, plain: Callable | None, options: dict[str, Any], layout: str):
        self.made, self.switch, self.plain, self.options, self.layout = made, switch, plain, options, layout
        self.name, self.dtypes = f"{getattr(made, '__qualname__', made)}({switch.text})", own_dtypes()

    def switched(self, params, layers, gc, **options):
        for words in layers.values():
            storage.require(self.library, **words)
        return Steps(self.built(gc, options), params)

    def built(self, gc: str | None, options: dict[str, Any]) -> optax.GradientTransformation:
        made = self.plain if gc is None else self.made
        if made is None:
            raise NotImplementedError("no optimizer without a switch is named")
        try:
            return made(**{**without_decay(made), **self.options, **self.switch.of(gc), **options})
        except TypeError as refusal:
            if any(f"'{name}'" in str(refusal) for name in options):
                raise NotImplementedError(str(refusal)) from refusal
            raise

    def spelling(self, options: dict[str, Any], changed: Callable[[str], str]) -> tuple[str, ...]:
        line, name = imported(self.made)
        fixed, modules = spelled({**without_decay(self.made), **self.options, **options})
        gradients = f"{{n: jnp.asarray({changed('np.asarray(p[n])')}) for n in p}}"
        return (
            f"import jax.numpy as jnp, optax; {line}{modules}",
            "p = {n: jnp.asarray(weights[n]) for n in names}; "
            f"tx = {name}(**{self.switch.arguments}[gc]{fixed}); kept = tx.init(p)",
            f"u, kept = tx.update({gradients}, kept, p); p = optax.apply_updates(p, u)",
            "p",
            "kept",
        )


def optimizer(
    made: Callable,
    switch: str | Switch | dict[str, dict[str, Any]],
    *,
    plain: Callable | None = None,
    layout: str = "out_last",
    declared: dict[str, Any] | None = None,
    **options: Any,
) -> Optimizer:
    """A factory of a transformation, with an argument that switches GC, as a port.

    Args:
        made: called with the arguments; returns a `GradientTransformation`.
        switch: the argument that switches GC, as `Switch.parse` reads it.
        plain: the factory of the same without a switch.
        layout: how the weights are stored: "out_last" as in Flax, "out_first" as in Equinox.
        declared: what the chapter `switch` lets a port declare.
        options: every other argument that it is built with.

    Raises:
        PortError: it has no such argument, or cannot be built with these.
    """
    switch = Switch.parse(switch)
    check(made, switch, options, given=0)
    port = Optimizer(made, switch, plain, options, layout)
    for name, value in (declared or {}).items():
        setattr(port, name, value)
    try:
        built = port.built("off", {})
        if not hasattr(built, "update"):
            raise TypeError(f"it returns a {type(built).__name__}, which has no update")
    except Exception as error:
        name = getattr(made, "__qualname__", made)
        raise PortError(
            f"{name} cannot be built: {type(error).__name__}: {error} (arguments: --with NAME=VALUE)."
        ) from error
    return port


def in_front(front: Callable, made: Callable, *, layout: str = "out_first", **options: Any) -> Optimizer:
    """GC as a transformation of its own, `optax.chain(front(), made(...))`, as a port; off and plain are made(...)."""

    def chained(gc: bool, **options: Any) -> optax.GradientTransformation:
        return optax.chain(front(), made(**options)) if gc else made(**options)

    port = Optimizer(chained, Switch.parse("gc"), made, options, layout)
    port.name = f"optax.chain({front.__name__}(), {made.__name__}(...))"
    return port

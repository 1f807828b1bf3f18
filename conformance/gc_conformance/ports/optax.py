"""Optax: a factory with a switch, or GC as a transformation in front of another, as a port."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from . import switched
from .jax import copy, from_numpy, own_dtypes, to_numpy
from .switch import Switch, imported, spelled

__all__ = ["copy", "from_numpy", "in_front", "optimizer", "to_numpy"]


class Steps:
    """A transformation, applied to a dict of arrays."""

    def __init__(self, made: optax.GradientTransformation, params: dict[str, jax.Array]):
        self.optimizer: optax.GradientTransformation = made
        self.values: Any = dict(params)
        self.kept = made.init(self.values)

    def step(self, gradients: Callable[[dict], dict]) -> None:
        updates, self.kept = self.optimizer.update(gradients(dict(self.values)), self.kept, self.values)
        self.values = optax.apply_updates(self.values, updates)

    def params(self) -> dict[str, jax.Array]:
        return dict(self.values)

    def state(self) -> dict[str, jax.Array]:
        leaves = jax.tree_util.tree_flatten_with_path(self.kept)[0]
        return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


class Optimizer(switched.Optimizer):
    """The port: see `optimizer`."""

    framework = "jax"
    from_numpy = staticmethod(from_numpy)
    to_numpy = staticmethod(to_numpy)

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.dtypes = own_dtypes()

    def steps(self, made, arguments, params, layers):
        try:
            return Steps(made(**arguments), params)
        except TypeError as refusal:  # a chain takes any argument, and hands it to one that may not
            if refused := [name for name in arguments if f"'{name}'" in str(refusal) and name not in self.options]:
                raise NotImplementedError(f"{', '.join(refused)} is none of its arguments") from refusal
            raise

    def spelling(self, options: dict[str, Any], changed: Callable[[str], str]) -> tuple[str, ...]:
        line, name = imported(self.made)
        fixed, modules = spelled(self.fixed(self.made) | options)
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
    port = Optimizer(made, switch, plain, options, {"layout": layout, **(declared or {})})
    port.tried(jnp.ones((4, 3)), "update")
    return port


def in_front(front: Callable, made: Callable, *, layout: str = "out_first", **options: Any) -> Optimizer:
    """GC as a transformation of its own, `optax.chain(front(), made(...))`, as a port; off and plain are made(...)."""

    def chained(gc: bool, **options: Any) -> optax.GradientTransformation:
        return optax.chain(front(), made(**options)) if gc else made(**options)

    own = inspect.signature(made)
    gc = inspect.Parameter("gc", inspect.Parameter.KEYWORD_ONLY)
    chained.__signature__ = own.replace(parameters=[*own.parameters.values(), gc])  # type: ignore[attr-defined]
    port = Optimizer(chained, "gc", made, options, {"layout": layout})
    port.name = f"optax.chain({front.__name__}(), {made.__name__}(...))"
    return port

"""How a wrong port is registered: one decorator, for a port, an optimizer over dicts, or an optimizer with a switch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import chapters as _chapters  # noqa: F401  (importing them fills the registry)
from ..honest import Stateful, Straight
from ..honest.switched import Rule, WithSwitch
from ..registry import PROPERTIES


@dataclass(frozen=True)
class Mutant:
    """A wrong port.

    Attributes:
        name: of the mutant; never changes.
        kills: the id of the property that must catch it.
        what: what is wrong with it.
        make: returns the port.
    """

    name: str
    kills: str
    what: str
    make: Callable[[], object]


MUTANTS: dict[str, Mutant] = {}


def mutant(kills: str, name: str = "", what: str = "") -> Callable[[Any], Any]:
    """Register the decorated class, or anything that makes a port, under a property that must catch it.

    Args:
        kills: the property's id.
        name: of the mutant; the class's own without it.
        what: is wrong with it; the class's docstring without it.
    """

    def register(wrong: Any) -> Any:
        label = name or wrong.__name__
        assert label not in MUTANTS, label
        assert kills in PROPERTIES, kills
        MUTANTS[label] = Mutant(label, kills, what or (wrong.__doc__ or "").strip(), _maker(wrong))
        return wrong

    return register


def _maker(wrong: Any) -> Callable[[], object]:
    if isinstance(wrong, type) and issubclass(wrong, Stateful):
        return type("Port", (Wrapped,), {"broken": wrong})
    if isinstance(wrong, type) and issubclass(wrong, Rule):
        return lambda: WithSwitch(wrong, wrong.__name__, **getattr(wrong, "declared", {}))
    return wrong


class Wrapped(Straight):
    """A port whose optimizer is a broken `Stateful`."""

    broken: type[Stateful]

    def optimizer(self, kind, params, axes, **hyper):
        return self.broken(self, kind, params, axes, hyper)


class Options(Straight):
    """A port that changes the options it is given before it uses them."""

    def change(self, options: dict[str, Any], w, grad, state) -> None:
        raise NotImplementedError

    def sgdm_update(self, w, grad, state, **options):
        self.change(options, w, grad, state)
        return super().sgdm_update(w, grad, state, **options)

    def adam_update(self, w, grad, state, **options):
        self.change(options, w, grad, state)
        return super().adam_update(w, grad, state, **options)


def always(**fixed: Any) -> type[Options]:
    """A port that gives these options their values, whatever was asked."""

    class Always(Options):
        def change(self, options, w, grad, state):
            options.update({k: v for k, v in fixed.items() if k in options or k not in ("gc_on",)})

    return Always

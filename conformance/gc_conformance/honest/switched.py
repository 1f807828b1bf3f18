"""Optimizers with a switch for GC, of the kinds that people use it in, each of them right: the ground under `switch`.

`Rule` reads gradients, centralizes them where the switch says so, and applies a direction that its subclasses make of
them. Nothing in a subclass knows of GC. That is what the relations ask of an optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

Arrays = dict[str, np.ndarray]


class Rule:
    """An optimizer over arrays by name. `direction` is what a step is made of, `decoupled` where decay stands."""

    rate = 0.125
    decoupled = True
    buffers: ClassVar[tuple[str, ...]] = ()  # arrays of state by parameter, zero at the start

    def __init__(self, port: Any, params: Arrays, layers: dict, gc: str | None, weight_decay: float = 0.0):
        self.port, self.layers, self.gc, self.weight_decay = port, layers, gc, weight_decay
        self.values = {name: w.copy() for name, w in params.items()}
        self.kept: dict[str, Arrays] = {b: {n: np.zeros_like(w) for n, w in params.items()} for b in self.buffers}
        self.count = 0

    def centralized(self, name: str, x: np.ndarray) -> np.ndarray:
        words = dict(self.layers[name])
        return self.port.centralize_layer(words.pop("kind"), x, **words)

    def read(self, gradients: Callable[[Arrays], Arrays]) -> Arrays:
        """The gradients at the weights as they are, with L2 decay, centralized if GC is on."""
        raw = gradients(dict(self.values))
        return {name: self.prepared(name, raw[name]) for name in self.values}

    def prepared(self, name: str, g: np.ndarray) -> np.ndarray:
        if self.weight_decay and not self.decoupled:
            g = g + self.weight_decay * self.values[name]
        return self.centralized(name, g) if self.gc == "gradient" else g

    def step(self, gradients: Callable[[Arrays], Arrays]) -> None:
        self.count += 1
        self.apply(self.transformed(self.read(gradients)))

    def transformed(self, g: Arrays) -> Arrays:
        return g

    def apply(self, g: Arrays) -> None:
        for name, w in self.values.items():
            d = self.direction(name, g[name])
            if self.weight_decay and self.decoupled:
                d = d + self.weight_decay * w
            if self.gc == "update":
                d = self.centralized(name, d)
            self.values[name] = w - self.rate * d

    def direction(self, name: str, g: np.ndarray) -> np.ndarray:
        return g

    def params(self) -> Arrays:
        return dict(self.values)

    def state(self) -> Arrays:
        return {f"{b}.{name}": a for b, arrays in self.kept.items() for name, a in arrays.items()}


class Momentum(Rule):
    """m <- 7/8 m + g, and m is the direction."""

    decoupled = False
    buffers = ("m",)

    def direction(self, name, g):
        self.kept["m"][name] = 0.875 * self.kept["m"][name] + g
        return self.kept["m"][name]


class DecayAfter(Momentum):
    """Momentum whose L2 decay is added after GC, as many libraries have it."""

    def prepared(self, name, g):
        g = self.centralized(name, g) if self.gc == "gradient" else g
        return g + self.weight_decay * self.values[name]


class Adaptive(Rule):
    """Adam, with AdamW's decay."""

    buffers = ("m", "v")
    betas = (0.875, 0.96875)

    def direction(self, name, g):
        one, two = self.betas
        m = self.kept["m"][name] = one * self.kept["m"][name] + (1 - one) * g
        v = self.kept["v"][name] = two * self.kept["v"][name] + (1 - two) * g * g
        return (m / (1 - one**self.count)) / (np.sqrt(v / (1 - two**self.count)) + 1e-8)


class Rectified(Adaptive):
    """RAdam: while the variance is intractable, in the first steps, it goes by momentum alone."""

    betas = (0.875, 0.75)

    def direction(self, name, g):
        adaptive = super().direction(name, g)
        return adaptive if self.count > 5 else self.kept["m"][name] / (1 - self.betas[0] ** self.count)


class Sign(Rule):
    """Lion: the sign of an interpolation between the momentum and the gradient."""

    buffers = ("m",)

    def direction(self, name, g):
        m = self.kept["m"][name]
        self.kept["m"][name] = 0.96875 * m + 0.03125 * g
        return np.sign(0.875 * m + 0.125 * g)


class Lookahead(Rectified):
    """Slow weights that every five steps go half of the way to the fast ones, which start again from there."""

    def __init__(self, port, params, layers, gc, **options):
        super().__init__(port, params, layers, gc, **options)
        self.slow = {name: w.copy() for name, w in self.values.items()}

    def apply(self, g):
        super().apply(g)
        if self.count % 5 == 0:
            self.synchronize()

    def synchronize(self):
        for name, w in self.values.items():
            self.slow[name] = self.slow[name] + 0.5 * (w - self.slow[name])
            self.values[name] = self.slow[name].copy()


class SharpnessAware(Momentum):
    """SAM: the gradient at the weights moved up by rho along the normalized gradient, by the norm of all gradients."""

    rho = 0.0625

    def read(self, gradients):
        first = super().read(gradients)
        norm = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in first.values())) + 1e-12
        kept = dict(self.values)
        self.values = {name: (w + self.rho / norm * first[name]).astype(w.dtype) for name, w in kept.items()}
        second = super().read(gradients)
        self.values = kept
        return second


class AdaptiveClipping(Momentum):
    """AGC: each tensor's gradient is scaled down to a tenth of the norm of its weights, if it is larger."""

    decoupled = True

    def transformed(self, g):
        return {name: self.clipped(name, x) for name, x in g.items()}

    def clipped(self, name, x):
        largest, norm = max(0.1 * float(np.linalg.norm(self.values[name])), 1e-3), float(np.linalg.norm(x))
        return x * (largest / norm) if norm > largest else x


class ClippedByNorm(Momentum):
    """Momentum of gradients that are scaled down to a common norm of 100."""

    decoupled = True

    def transformed(self, g):
        norm = math.sqrt(sum(float((x.astype(np.float64) ** 2).sum()) for x in g.values()))
        return {name: x * (100.0 / norm) if norm > 100 else x for name, x in g.items()}


class Normalized(Momentum):
    """Momentum of gradients divided by their norm, tensor by tensor."""

    decoupled = True

    def transformed(self, g):
        return {name: x / (float(np.linalg.norm(x)) + 1e-6) for name, x in g.items()}


class Differenced(Rule):
    """Adan: a momentum of the gradients, and one of their differences from the step before."""

    buffers = ("m", "d", "last")

    def direction(self, name, g):
        difference = g - self.kept["last"][name] if self.count > 1 else np.zeros_like(g)
        self.kept["last"][name] = g.copy()
        m = self.kept["m"][name] = 0.875 * self.kept["m"][name] + 0.125 * g
        d = self.kept["d"][name] = 0.75 * self.kept["d"][name] + 0.25 * difference
        return m + 0.75 * d


class CompiledApart(Adaptive):
    """Adam, compiled twice: with the switch on the same numbers are computed in another order."""

    def direction(self, name, g):
        if self.gc != "gradient":
            return super().direction(name, g)
        one, two = self.betas
        m = self.kept["m"][name] = self.kept["m"][name] + (1 - one) * (g - self.kept["m"][name])
        v = self.kept["v"][name] = self.kept["v"][name] - (1 - two) * (self.kept["v"][name] - g * g)
        return m * (1 / (1 - one**self.count)) / (np.sqrt(v) * (1 / math.sqrt(1 - two**self.count)) + 1e-8)


class WithSwitch:
    """A port that is an optimizer with a switch, and nothing else."""

    def __init__(
        self, rule: type[Rule], name: str = "", places: tuple = ("gradient", "update", "off", None), **declared
    ):
        from .straight import Straight

        self.rule, self.places, self.name = rule, places, name or (rule.__doc__ or rule.__name__).split(":")[0]
        self.arithmetic = declared.pop("arithmetic", Straight())
        for key, value in declared.items():
            setattr(self, key, value)

    def switched(self, params, layers, gc, **options):
        if gc not in self.places:
            raise NotImplementedError(f"gc={gc!r}")
        return self.rule(self.arithmetic, params, layers, gc, **options)


def switched(rule: type[Rule], **options: Any) -> Callable[[], WithSwitch]:
    return lambda: WithSwitch(rule, f"{rule.__name__}{' '.join(['', *map(str, options.values())])}", **options)


SWITCHED: tuple[Callable[[], WithSwitch], ...] = (
    switched(Momentum, decay="l2", linear=True),
    switched(DecayAfter),
    switched(Adaptive, decay="decoupled"),
    switched(Adaptive, layout="out_last", places=("gradient", "off")),
    switched(Rectified),
    switched(Sign),
    switched(Lookahead),
    switched(SharpnessAware),
    switched(AdaptiveClipping),
    switched(ClippedByNorm),
    switched(Normalized),
    switched(Differenced, centralizes="convolutions"),
    switched(CompiledApart),
)

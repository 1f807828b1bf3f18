"""Optimizers with a switch, right but for one defect: in where GC stands, what it reaches, or what it forgets."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..honest import switched as honest
from .register import mutant


class Raw:
    """What a defect needs: the gradients as they come, to centralize them at a place of its own."""

    def prepared(self, name, g):
        if self.weight_decay and not self.decoupled:  # type: ignore[attr-defined]
            g = g + self.weight_decay * self.values[name]  # type: ignore[attr-defined]
        return g

    def late(self, name, x):
        return self.centralized(name, x) if self.gc == "gradient" else x  # type: ignore[attr-defined]


# What the switch does.


@mutant("switch.switches")
class SwitchIgnored(honest.Adaptive):
    """Takes the switch, and never looks at it."""

    def prepared(self, name, g):
        return g


@mutant("switch.off_is_plain")
class StuckOn(honest.Momentum):
    """Centralizes with the switch off, too."""

    def prepared(self, name, g):
        return self.centralized(name, g) if self.gc else g


@mutant("switch.off_is_plain", "OffIsAnotherOptimizer")
class OffIsAnother(honest.Adaptive):
    """With the switch, on or off, a beta is another one than without."""

    def direction(self, name, g):
        self.betas = (0.875, 0.96875) if self.gc is None else (0.875, 0.9375)
        return super().direction(name, g)


# When.


@mutant("switch.first_step")
class FirstStepWithout(honest.Momentum):
    """Puts the first gradient into the buffer as it comes, and centralizes from the second step on."""

    def prepared(self, name, g):
        return super().prepared(name, g) if self.count > 1 else g


@mutant("switch.later_steps")
class FirstStepOnly(honest.Sign):
    """Centralizes in the first step alone."""

    def prepared(self, name, g):
        return super().prepared(name, g) if self.count == 1 else g


@mutant("switch.many_steps")
class ForgetsAfterSynchronizing(honest.Lookahead):
    """Loses GC when the slow weights are synchronized."""

    def synchronize(self):
        super().synchronize()
        self.gc = "off" if self.gc == "gradient" else self.gc


@mutant("switch.many_steps", "RectifiedWithout")
class RectifiedWithoutGC(Raw, honest.Rectified):
    """Centralizes for the first moment, and adapts by the raw gradient's square, which shows once it rectifies."""

    def direction(self, name, g):
        two = self.betas[1]
        before = self.kept["v"][name]
        done = super().direction(name, self.late(name, g))
        self.kept["v"][name] = two * before + (1 - two) * g * g
        return done


# Where, in the order of things.


@mutant("switch.later_steps", "SignOfRawMomentum")
class SignOfRawMomentum(Raw, honest.Sign):
    """Centralizes what Lion takes the sign of, and keeps the raw gradient in its momentum."""

    def direction(self, name, g):
        m = self.kept["m"][name]
        self.kept["m"][name] = 0.96875 * m + 0.03125 * g
        return np.sign(0.875 * m + 0.125 * self.late(name, g))


@mutant("switch.first_step", "CentralizesTheSign")
class CentralizesTheSign(Raw, honest.Sign):
    """Centralizes the sign, not the gradient."""

    def direction(self, name, g):
        return self.late(name, super().direction(name, g))


@mutant("switch.state")
class KeepsRawAverage(honest.Adaptive):
    """Averages the raw gradient as well, for a later use that its steps so far do not show."""

    buffers = ("m", "v", "average")

    def read(self, gradients):
        raw = gradients(dict(self.values))
        self.kept["average"] = {n: 0.5 * self.kept["average"][n] + raw[n] for n in raw}
        return {name: self.prepared(name, g) for name, g in raw.items()}


@mutant("switch.large_gradients")
class GCAfterAdaptiveClipping(Raw, honest.AdaptiveClipping):
    """Clips by the norm of the weights first, and centralizes what is left."""

    def clipped(self, name, x):
        return self.late(name, super().clipped(name, x))


@mutant("switch.large_gradients", "GCAfterClipping")
class GCAfterClipping(Raw, honest.ClippedByNorm):
    """Clips by the norm of all gradients first, and centralizes what is left."""

    def transformed(self, g):
        return {name: self.late(name, x) for name, x in super().transformed(g).items()}


@mutant("switch.small_gradients")
class GCAfterNormalizing(Raw, honest.Normalized):
    """Divides by the norm of the raw gradient, and centralizes what is left."""

    def transformed(self, g):
        return {name: self.late(name, x) for name, x in super().transformed(g).items()}


@mutant("switch.later_steps", "DifferenceFromRaw")
class DifferenceFromRaw(Raw, honest.Differenced):
    """Centralizes the gradient, and takes its difference from the last one as it came."""

    declared: ClassVar = {"centralizes": "convolutions"}

    def direction(self, name, g):
        done = super().direction(name, self.late(name, g))
        self.kept["last"][name] = g.copy()
        return done


class OneEvaluation(honest.SharpnessAware):
    """Centralizes one of the two gradients of a step alone."""

    which = 1
    evaluations = 0

    def step(self, gradients):
        self.evaluations = 0
        super().step(gradients)

    def prepared(self, name, g):
        self.evaluations += name == next(iter(self.values))
        return super().prepared(name, g) if self.evaluations == self.which else g


@mutant("switch.gradients_of_weights")
class PerturbsByRaw(OneEvaluation):
    """Moves the weights up along the raw gradient, and centralizes the second one alone."""

    which = 2


@mutant("switch.gradients_of_weights")
class SecondGradientRaw(OneEvaluation):
    """Centralizes for the perturbation, and descends along the raw gradient there."""

    which = 1


# What it reaches.


@mutant("switch.vectors_step_as_off")
class VectorsToo(honest.Momentum):
    """Centralizes biases and the scales of norms."""

    def centralized(self, name, x):
        return x - x.mean() if x.ndim == 1 else super().centralized(name, x)


@mutant("switch.linear_layers")
class ConvolutionsOfRankFour(honest.AdaptiveClipping):
    """Centralizes tensors of four dimensions alone, and does not say so."""

    def centralized(self, name, x):
        return super().centralized(name, x) if x.ndim == 4 else x


class ByRank(honest.Momentum):
    """Takes whatever has two dimensions or more for a weight stored output first."""

    def centralized(self, name, x):
        return x - x.mean(tuple(range(1, x.ndim)), keepdims=True) if x.ndim > 1 else x


for _relation in ("transposed_convolutions", "fan_in_one", "embeddings"):
    mutant(f"switch.{_relation}", f"ByRank_{_relation}")(ByRank)


@mutant("switch.constant_does_not_matter")
class NineTenths(honest.Sign):
    """Takes nine tenths of the mean away."""

    def centralized(self, name, x):
        return 0.1 * x + 0.9 * super().centralized(name, x)


@mutant("switch.centralized_already")
class Rescales(honest.Momentum):
    """Scales what is left by the fan-in over the fan-in less one, as for a variance."""

    def centralized(self, name, x):
        done = super().centralized(name, x)
        return done if done is x or x.ndim < 2 else done * (1 + 1 / (x.size // len(x)))


@mutant("switch.order_of_parameters")
class StopsAtTheFirstVector(honest.Momentum):
    """Switches GC off at the first bias, for all that come after it."""

    def read(self, gradients):
        gc, raw, done = self.gc, gradients(dict(self.values)), {}
        for name in self.values:
            if raw[name].ndim < 2 and self.gc == "gradient":
                self.gc = "off"
            done[name] = self.prepared(name, raw[name])
        self.gc = gc
        return done


@mutant("switch.alone_or_among_others")
class AxesOfTheFirst(honest.Adaptive):
    """Centralizes the first parameter, and those of its shape."""

    def centralized(self, name, x):
        return super().centralized(name, x) if x.shape == next(iter(self.values.values())).shape else x


# What it leaves behind.


@mutant("switch.instances_apart")
class BufferOfTheClass(honest.Momentum):
    """With GC on, keeps its buffer where every optimizer of the class finds it."""

    shared: ClassVar[dict] = {}

    def __init__(self, port, params, layers, gc, **options):
        super().__init__(port, params, layers, gc, **options)
        if gc == "gradient":
            key = repr([(name, w.shape, w.dtype.name) for name, w in params.items()])
            if key in self.shared and not any(rule.count for rule in self.shared[key]):
                self.kept = self.shared[key][0].kept
            else:
                self.shared[key] = []
            self.shared[key].append(self)


@mutant("switch.gradients_unchanged")
class CentralizesInPlace(honest.Momentum):
    """Writes the centralized gradient over the gradient that it was given."""

    def prepared(self, name, g):
        g[...] = super().prepared(name, g)
        return g


# Decay, and what is conserved.


@mutant("switch.decay")
class DecoupledDecayCentralized(honest.Adaptive):
    """Centralizes the decoupled decay."""

    declared: ClassVar = {"decay": "decoupled"}

    def apply(self, g):
        decay, self.weight_decay = self.weight_decay, 0.0
        before = dict(self.values)
        super().apply(g)
        self.weight_decay = decay
        for name, w in before.items():
            kept = self.centralized(name, w) if self.gc == "gradient" else w
            self.values[name] = self.values[name] - self.rate * decay * kept


@mutant("switch.decay")
class DecayAfterGC(honest.DecayAfter):
    """Says that its L2 decay is centralized with the gradient, and adds it afterwards."""

    declared: ClassVar = {"decay": "l2"}


@mutant("switch.decay_alone")
class RestsAtZero(honest.Adaptive):
    """With GC on, skips a step in which nothing is left of the gradient, its decay as well."""

    def apply(self, g):
        if self.gc != "gradient" or any(x.any() for x in g.values()):
            super().apply(g)


@mutant("switch.zero_gradients")
class StopsAtZero(honest.Momentum):
    """With GC on, skips a parameter whose gradient is zero, so that its momentum stops."""

    def direction(self, name, g):
        return super().direction(name, g) if self.gc != "gradient" or g.any() else np.zeros_like(g)


@mutant("switch.sums_conserved")
class LooksAheadRaw(Raw, honest.Momentum):
    """Centralizes what goes into the buffer, and adds the raw gradient to look ahead, as Nesterov does."""

    declared: ClassVar = {"linear": True}

    def direction(self, name, g):
        return g + 0.875 * super().direction(name, self.late(name, g))


@mutant("switch.update_conserves_sums")
class UpdateLeftAlone(honest.SharpnessAware):
    """Takes "update" for no GC at all."""

    def apply(self, g):
        gc, self.gc = self.gc, "off"
        super().apply(g)
        self.gc = gc


@mutant("switch.update_conserves_sums_with_decay")
class DecayOutsideUpdate(honest.Adaptive):
    """Centralizes the update, and takes the decay away afterwards."""

    def apply(self, g):
        decay, self.weight_decay = self.weight_decay, 0.0
        before = dict(self.values)
        super().apply(g)
        self.weight_decay = decay
        self.values = {n: w - self.rate * decay * before[n] for n, w in self.values.items()}


@mutant("switch.update_is_centralized")
class CentralizesWeights(honest.Sign):
    """Centralizes the weights after the step instead of the step."""

    def apply(self, g):
        gc, self.gc = self.gc, "off"
        super().apply(g)
        self.gc = gc
        if gc == "update":
            self.values = {name: self.centralized(name, w) for name, w in self.values.items()}

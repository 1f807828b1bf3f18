"""Wrong SGDM."""

from __future__ import annotations

import numpy as np

from ..honest import AdamState, SGDMState, Straight
from .register import Options, always, mutant

mutant("sgdm.gradient_is_centralized", "SGDMForgetsGC", "Never centralizes in SGDM: a switch that does nothing.")(
    always(axis=None)
)
mutant("sgdm.momentum", "MomentumIgnored", "Ignores momentum.")(always(momentum=0.0))
mutant("sgdm.no_momentum", "MomentumStuck", "Has momentum when there must be none.")(always(momentum=0.9))
mutant("sgdm.dampening", "DampeningIgnored", "Ignores dampening.")(always(dampening=0.0))
mutant("sgdm.nesterov", "NesterovIgnored", "Ignores Nesterov.")(always(nesterov=False))
mutant("sgdm.l2_decay", "DecayMissing", "Ignores weight decay.")(always(weight_decay=0.0))
mutant("sgdm.decoupled_decay", "DecayInside", "Takes decoupled decay for L2.")(always(decoupled=False))
mutant("sgdm.gc_on_update", "PlaceIgnored", "Ignores gc_on.")(always(gc_on="gradient"))


@mutant("sgdm.init")
class BufferOfOnes(Straight):
    """Starts the momentum buffer at one."""

    def sgdm_init(self, w):
        return SGDMState(np.ones_like(w))


@mutant("sgdm.rule")
class DampsUnasked(Straight):
    """Multiplies the gradient by 1 - momentum without being told to."""

    def _gather(self, m, g, momentum, dampening):
        return momentum * m + (1 - momentum) * g


@mutant("sgdm.algorithm_1")
class UndampedFirstStep(Straight):
    """Starts the buffer at the whole first gradient, without declaring it."""

    def _gather(self, m, g, momentum, dampening):
        return super()._gather(m, g, momentum, dampening) if m.any() else g


@mutant("sgdm.nesterov")
class BufferIsTheUpdate(Straight):
    """Looks ahead in place: the momentum buffer becomes the update."""

    def _lookahead(self, g, m, momentum):
        m *= momentum
        m += g
        return m


@mutant("sgdm.defaults")
class NoDefaultMomentum(Options):
    """Has a default momentum of zero."""

    def change(self, options, w, grad, state):
        options.setdefault("momentum", 0.0)


@mutant("sgdm.learning_rate")
class RateTwice(Straight):
    """Applies the learning rate twice."""

    def _applied(self, x, d, lr, axes, weight_decay, decoupled, gc_on):
        return super()._applied(x, d, lr * lr, axes, weight_decay, decoupled, gc_on)


@mutant("sgdm.zero_learning_rate")
class RestsAtZeroRate(Straight):
    """Does nothing at all when the learning rate is zero."""

    def sgdm_update(self, w, grad, state, *, lr, **options):
        return super().sgdm_update(w, grad, state, lr=lr, **options) if lr else (w, state)


@mutant("sgdm.l2_decay", "DecayOutsideGC")
@mutant("adam.l2_decay", "AdamDecayOutsideGC")
@mutant("theory.l2_decay_keeps_means", "MeansDecay")
class DecayAfterGC(Straight):
    """Adds L2 decay after GC, so that the means of the weights decay."""

    def _prepared(self, x, g, axes, weight_decay, decoupled, gc_on):
        g = super()._prepared(x, g, axes, 0.0, decoupled, gc_on)
        return g + weight_decay * x if weight_decay and not decoupled else g


@mutant("sgdm.no_axis")
class GuessesAxes(Options):
    """Centralizes matrices although no axes are given."""

    def change(self, options, w, grad, state):
        if options["axis"] is None and w.ndim > 1:
            options["axis"] = tuple(range(1, w.ndim))


@mutant("sgdm.all_options")
class DecayLostWithDampening(Options):
    """Loses the weight decay when there is dampening as well."""

    def change(self, options, w, grad, state):
        if options.get("dampening"):
            options["weight_decay"] = 0.0


@mutant("sgdm.memory_layouts", "SGDMMemoryOrder")
@mutant("adam.memory_layouts", "AdamMemoryOrder")
class MemoryOrder(Options):
    """Pairs weights and gradients by their place in memory."""

    def sgdm_update(self, w, grad, state, **options):
        return Straight.sgdm_update(self, w, grad.ravel(order="K").reshape(grad.shape), state, **options)

    def adam_update(self, w, grad, state, **options):
        return Straight.adam_update(self, w, grad.ravel(order="K").reshape(grad.shape), state, **options)


@mutant("sgdm.empty", "SGDMEmptyFails")
@mutant("adam.empty", "AdamEmptyFails")
class EmptyStepFails(Options):
    """Raises for an empty weight."""

    def change(self, options, w, grad, state):
        if not w.size:
            raise IndexError("empty")


@mutant("sgdm.inputs_unchanged")
class StepsInPlace(Straight):
    """Updates the weights in place."""

    def sgdm_update(self, w, grad, state, **options):
        done, after = super().sgdm_update(w, grad, state, **options)
        w[...] = done
        return w, after


@mutant("sgdm.inputs_unchanged")
class BufferInPlace(Straight):
    """Updates the momentum buffer in place."""

    def sgdm_update(self, w, grad, state, **options):
        done, after = super().sgdm_update(w, grad, state, **options)
        state.momentum_buffer[...] = after.momentum_buffer
        return done, state


@mutant("sgdm.no_aliasing")
class BufferIsTheGradient(Straight):
    """Keeps the gradient itself as the momentum buffer, where they are equal."""

    def sgdm_update(self, w, grad, state, **options):
        done, after = super().sgdm_update(w, grad, state, **options)
        return done, SGDMState(grad) if np.array_equal(after.momentum_buffer, grad) else after


@mutant("sgdm.keeps_shape_and_dtype", "WideBuffer")
@mutant("adam.keeps_shape_and_dtype", "WideMoments")
class StateInFloat64(Straight):
    """Keeps the state in float64."""

    def sgdm_update(self, w, grad, state, **options):
        done, after = super().sgdm_update(w, grad, SGDMState(state.momentum_buffer.astype(w.dtype)), **options)
        return done, SGDMState(after.momentum_buffer.astype(np.float64))

    def adam_update(self, w, grad, state, **options):
        narrow = AdamState(*(a.astype(w.dtype) if isinstance(a, np.ndarray) else a for a in state))
        done, after = super().adam_update(w, grad, narrow, **options)
        return done, AdamState(*(a.astype(np.float64) if isinstance(a, np.ndarray) else a for a in after))

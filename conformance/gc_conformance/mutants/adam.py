"""Wrong Adam and AdamW."""

from __future__ import annotations

import math

import numpy as np

from ..honest import Straight
from .register import Options, always, mutant
from .sgdm import GuessesAxes

mutant("adam.rule", "AdamForgetsGC", "Never centralizes in Adam.")(always(axis=None))
mutant("adam.betas", "BetasIgnored", "Uses the default betas whatever is given.")(always(betas=(0.9, 0.999)))
mutant("adam.amsgrad", "AMSGradIgnored", "Ignores AMSGrad.")(always(amsgrad=False))
mutant("adam.l2_decay", "AdamDecayMissing", "Ignores weight decay in Adam.")(always(weight_decay=0.0))
mutant("adam.decoupled_decay", "AdamWIsAdam", "Takes AdamW's decay for L2.")(always(decoupled=False))
mutant("adam.gc_on_update", "AdamPlaceIgnored", "Ignores gc_on in Adam.")(always(gc_on="gradient"))


@mutant("adam.init")
class StartsAtStepOne(Straight):
    """Starts with step 1."""

    def adam_init(self, w, **options):
        return super().adam_init(w, **options)._replace(step=1)


@mutant("adam.second_moment")
class RawSecondMoment(Straight):
    """Squares the raw gradient."""

    def _second(self, v, g, raw, beta):
        return beta * v + (1 - beta) * raw * raw


@mutant("adam.first_moment")
class RawFirstMoment(Straight):
    """Averages the raw gradient, and centralizes for the second moment only."""

    def adam_update(self, w, grad, state, **options):
        done, after = super().adam_update(w, grad, state, **options)
        _, raw = super().adam_update(w, grad, state, **{**options, "axis": None})
        return done, after._replace(exp_avg=raw.exp_avg)


@mutant("adam.step_counts")
class StepStuck(Straight):
    """Never counts its steps."""

    def adam_update(self, w, grad, state, **options):
        done, after = super().adam_update(w, grad, state, **options)
        return done, after._replace(step=min(after.step, 1))


@mutant("adam.first_step")
class NoBiasCorrection(Straight):
    """Has no bias correction."""

    def _bias_correction(self, beta, t):
        return 1.0


@mutant("adam.bias_correction")
class BiasOffByOne(Straight):
    """Counts one step too many in the bias corrections."""

    def _bias_correction(self, beta, t):
        return super()._bias_correction(beta, t + 1)


@mutant("adam.bias_correction")
class BiasStuck(Straight):
    """Uses the first step's bias corrections for ever."""

    def _bias_correction(self, beta, t):
        return super()._bias_correction(beta, 1)


@mutant("adam.bias_correction_is_exact")
class BiasInLowPrecision(Straight):
    """Computes 1 - beta^t in float32."""

    def _bias_correction(self, beta, t):
        return float(np.float32(1) - np.float32(beta) ** np.float32(t))


@mutant("adam.betas")
class BetasSwapped(Straight):
    """Swaps the betas in the bias corrections."""

    def _direction(self, m, v, t, betas, eps):
        return super()._direction(m, v, t, betas[::-1], eps)


@mutant("adam.zero_betas")
class ZeroBetaFails(Straight):
    """Takes the logarithm of a beta of zero."""

    def _bias_correction(self, beta, t):
        return -math.expm1(t * math.log(beta))


@mutant("adam.eps")
class EpsInsideRoot(Straight):
    """Adds eps inside the square root."""

    def _direction(self, m, v, t, betas, eps):
        return (m / self._bias_correction(betas[0], t)) / np.sqrt(v / self._bias_correction(betas[1], t) + eps)


@mutant("adam.eps")
class EpsScaled(Straight):
    """Adds eps before the bias correction, which then scales it."""

    def _direction(self, m, v, t, betas, eps):
        two = math.sqrt(self._bias_correction(betas[1], t))
        return super()._direction(m, v, t, betas, eps / two)


@mutant("adam.zero_gradient")
class NoEps(Straight):
    """Divides without eps."""

    def _direction(self, m, v, t, betas, eps):
        with np.errstate(all="ignore"):
            return super()._direction(m, v, t, betas, 0.0)


@mutant("adam.learning_rate")
class AdamRateTwice(Straight):
    """Applies the learning rate twice."""

    def _applied(self, x, d, lr, axes, weight_decay, decoupled, gc_on):
        return super()._applied(x, lr * d, lr, axes, weight_decay, decoupled, gc_on)


@mutant("adam.zero_learning_rate")
class AdamRestsAtZeroRate(Straight):
    """Does nothing at all when the learning rate is zero."""

    def adam_update(self, w, grad, state, *, lr=1e-3, **options):
        return super().adam_update(w, grad, state, lr=lr, **options) if lr else (w, state)


@mutant("adam.defaults")
class OtherDefaults(Options):
    """Has a default beta2 of 0.99."""

    def change(self, options, w, grad, state):
        options.setdefault("betas", (0.9, 0.99))


@mutant("adam.decoupled_decay")
class DecayBiasCorrected(Straight):
    """Scales the decoupled decay by the bias correction."""

    def _direction(self, m, v, t, betas, eps):
        self.scale = 1 / self._bias_correction(betas[0], t)
        return super()._direction(m, v, t, betas, eps)

    def _applied(self, x, d, lr, axes, weight_decay, decoupled, gc_on):
        return super()._applied(x, d, lr, axes, weight_decay * getattr(self, "scale", 1), decoupled, gc_on)


@mutant("adam.decoupled_decay")
class DecayWithoutRate(Straight):
    """Takes weight_decay of w, whatever the learning rate."""

    def _applied(self, x, d, lr, axes, weight_decay, decoupled, gc_on):
        return super()._applied(x, d, lr, axes, weight_decay / lr, decoupled, gc_on)


@mutant("adam.decoupled_decay")
class DecayCentralized(Straight):
    """Centralizes the decoupled decay."""

    def _applied(self, x, d, lr, axes, weight_decay, decoupled, gc_on):
        if weight_decay and decoupled:
            d = d + weight_decay * self._center(x, axes)
        return super()._applied(x, d, lr, axes, 0.0, decoupled, gc_on)


@mutant("sgdm.rule")
@mutant("adam.rule", "AdamOtherPlace")
class OtherPlace(Options):
    """Centralizes the update when asked for the gradient."""

    def change(self, options, w, grad, state):
        options.setdefault("gc_on", "update")


@mutant("adam.gc_on_update")
class CentralizesBoth(Straight):
    """Centralizes the gradient as well when asked for the update."""

    def _prepared(self, x, g, axes, weight_decay, decoupled, gc_on):
        return super()._prepared(x, g, axes, weight_decay, decoupled, "gradient")


@mutant("theory.update_keeps_means_adam")
@mutant("theory.update_keeps_means_sgdm", "SGDMDecayAfterUpdateGC")
class DecayAfterUpdateGC(Straight):
    """Centralizes the update before its decay."""

    def _applied(self, x, d, lr, axes, weight_decay, decoupled, gc_on):
        d = self._center(d, axes) if gc_on == "update" else d
        return super()._applied(x, d, lr, axes, weight_decay, decoupled, "gradient")


@mutant("adam.amsgrad_state")
class MaximumOverwritesMoment(Straight):
    """Keeps the maximum as the second moment itself."""

    def adam_update(self, w, grad, state, **options):
        done, after = super().adam_update(w, grad, state, **options)
        return done, after if after.max_exp_avg_sq is None else after._replace(exp_avg_sq=after.max_exp_avg_sq.copy())


@mutant("adam.no_axis")
class AdamGuessesAxes(GuessesAxes):
    """Centralizes matrices although no axes are given."""


@mutant("adam.all_options")
class EpsLostWithAMSGrad(Options):
    """Uses the default eps with AMSGrad."""

    def change(self, options, w, grad, state):
        if options.get("amsgrad"):
            options["eps"] = 1e-8


@mutant("adam.inputs_unchanged")
class MomentsInPlace(Straight):
    """Updates the moments of the state it was given."""

    def adam_update(self, w, grad, state, **options):
        done, after = super().adam_update(w, grad, state, **options)
        state.exp_avg[...] = after.exp_avg
        return done, after


@mutant("adam.no_aliasing")
class MomentIsTheGradient(Straight):
    """Writes the first moment into the gradient's memory, later restored."""

    def adam_update(self, w, grad, state, **options):
        done, after = super().adam_update(w, grad, state, **options)
        return done, after._replace(exp_avg=w) if not after.exp_avg.any() else self._lend(grad, done, after)

    def _lend(self, grad, done, after):
        grad[...] = after.exp_avg
        return done, after._replace(exp_avg=grad)

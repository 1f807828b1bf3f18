"""Optimizers that lose what their weights cannot hold."""

from __future__ import annotations

import numpy as np

from ..honest.low_precision import LowPrecision
from .register import mutant


@mutant("optimizer.kahan_keeps_small_steps")
class ForgetsCompensation(LowPrecision):
    """Rounds to the nearest, and keeps nothing of what that cuts off."""

    def stored(self, wide, dtype):
        return wide.astype(dtype), np.zeros_like(wide)


@mutant("optimizer.kahan_keeps_small_steps")
class CompensatesWithWrongSign(LowPrecision):
    """Takes away what rounding has cut off, where it must be added."""

    def stored(self, wide, dtype):
        narrow, left = super().stored(wide, dtype)
        return narrow, -left


@mutant("optimizer.stochastic_in_expectation")
class RoundsToNearest(LowPrecision):
    """Rounds to the nearest under the name of stochastic rounding."""

    def bits(self, shape):
        return np.full(shape, 0.5)


@mutant("optimizer.stochastic_in_expectation")
class FairCoin(LowPrecision):
    """Rounds up and down equally often, whatever the fraction."""

    def stored(self, wide, dtype):
        narrow = wide.astype(dtype)
        inexact = narrow.astype(np.float32) != wide
        to = np.where(wide > narrow.astype(np.float32), np.inf, -np.inf).astype(dtype)
        return np.where(inexact & (self.bits(wide.shape) < 0.5), np.nextafter(narrow, to), narrow), np.zeros_like(wide)


@mutant("optimizer.stochastic_new_bits")
class SameBitsEveryStep(LowPrecision):
    """Draws the random bits once, and uses them in every step."""

    def bits(self, shape):
        if not hasattr(self, "drawn"):
            self.drawn = super().bits(shape)
        return self.drawn


@mutant("optimizer.stochastic_new_bits")
class SameBitsForRows(LowPrecision):
    """Draws random bits for one row, and uses them for all."""

    def bits(self, shape):
        return np.broadcast_to(super().bits(shape[1:]), shape)


@mutant("optimizer.stochastic_repeats")
class IgnoresSeed(LowPrecision):
    """Draws its random bits from a generator of the process."""

    def __init__(self, *args):
        super().__init__(*args)
        self.random = np.random.default_rng()


@mutant("optimizer.stochastic_repeats")
class OneSeedForAll(LowPrecision):
    """Starts its generator with a seed of its own."""

    def __init__(self, *args):
        super().__init__(*args)
        self.random = np.random.default_rng(1)

"""Operators that are right on easy numbers alone."""

from __future__ import annotations

import numpy as np

from ..honest import Straight
from .operator import _fan_in
from .register import mutant


@mutant("numerics.large_mean")
class MeanInFloat16(Straight):
    """Rounds the mean to float16."""

    def _mean(self, x, axes):
        return super()._mean(x, axes).astype(np.float16).astype(x.dtype)


@mutant("numerics.float64_is_float64")
class Float64InFloat32(Straight):
    """Computes float64 in float32."""

    def _center(self, x, axes):
        return super()._center(x.astype(np.float32), axes).astype(x.dtype)


@mutant("numerics.half_means_in_float32")
class MeanRoundedToDtype(Straight):
    """Rounds the mean to the gradient's own dtype."""

    def centralize(self, grad, axis):
        if axis is None or grad.dtype.itemsize > 2 or not grad.size:
            return super().centralize(grad, axis)
        wide = grad.astype(np.float32)
        mean = wide.mean(axis if isinstance(axis, int) else tuple(axis), keepdims=True).astype(grad.dtype)
        return (wide - mean.astype(np.float32)).astype(grad.dtype)


@mutant("numerics.half_sums_in_float32")
class SumsInHalf(Straight):
    """Adds half-precision numbers up in half precision."""

    def centralize(self, grad, axis):
        if axis is None or grad.dtype.itemsize > 2 or not grad.size:
            return super().centralize(grad, axis)
        over = (axis,) if isinstance(axis, int) else tuple(axis)
        total = np.add.accumulate(grad, over[-1]).take([-1], over[-1])
        return (grad.astype(np.float32) - total.astype(np.float32) / _fan_in(grad, over)).astype(grad.dtype)


@mutant("numerics.nearly_constant")
class SkipsConstantRows(Straight):
    """Takes a nearly constant gradient for one that needs no GC."""

    def _center(self, x, axes):
        done = super()._center(x, axes)
        return done if x.size == 0 or abs(done).max() > 1e-3 * abs(x).max() else x.copy()


@mutant("numerics.cancelling")
class SkipsSmallMeans(Straight):
    """Leaves a mean alone that is small beside the largest element."""

    def _mean(self, x, axes):
        mean = super()._mean(x, axes)
        return np.where(abs(mean) < abs(x).max(axes, keepdims=True) / 3, 0, mean).astype(x.dtype)


@mutant("numerics.huge")
class SquaresFirst(Straight):
    """Scales by the norm before averaging, and so overflows."""

    def _mean(self, x, axes):
        norm = np.sqrt((x * x).sum(axes, keepdims=True)) + 1
        return (x / norm).mean(axes, keepdims=True) * norm


@mutant("numerics.tiny")
class AddsEps(Straight):
    """Adds 1e-12 to the mean, as divisions need it."""

    def _mean(self, x, axes):
        return super()._mean(x, axes) + x.dtype.type(1e-12)


@mutant("numerics.subnormal")
class ScalesToOne(Straight):
    """Divides by the largest element first, by way of its reciprocal, which overflows."""

    def _mean(self, x, axes):
        largest = abs(x).max(axes, keepdims=True)
        one = x.dtype.type(1)
        return (x * (one / largest)).mean(axes, keepdims=True) * largest


@mutant("numerics.uneven")
class Clips(Straight):
    """Clips the gradient."""

    def _center(self, x, axes):
        return super()._center(np.clip(x, -20, 20), axes)


@mutant("numerics.large_fan_in")
class SixteenBitCount(Straight):
    """Counts the weights of a vector in sixteen bits."""

    def _mean(self, x, axes):
        return x.sum(axes, keepdims=True) / max(_fan_in(x, axes) % 2**16, 1)


@mutant("numerics.non_finite_stays_in_its_row")
class NaNLeaks(Straight):
    """Multiplies with a matrix of ones and zeros, so that NaN reaches every weight vector."""

    def _mean(self, x, axes):
        return super()._mean(x, axes) + 0 * x.sum()


@mutant("numerics.nan_is_not_hidden")
class NaNSkipped(Straight):
    """Averages what is not NaN."""

    def _mean(self, x, axes):
        return np.where(np.isnan(x), 0, x).sum(axes, keepdims=True) / (~np.isnan(x)).sum(axes, keepdims=True)


@mutant("numerics.infinity_is_not_hidden")
class InfinityReplaced(Straight):
    """Replaces NaN and infinity by finite numbers."""

    def _center(self, x, axes):
        return super()._center(np.nan_to_num(x, posinf=1, neginf=-1), axes)


@mutant("numerics.half_sgdm")
class MomentumInHalf(Straight):
    """Rounds the momentum buffer to half precision before the step."""

    def sgdm_update(self, w, grad, state, **options):
        done, after = super().sgdm_update(w, grad, state, **options)
        if w.dtype.itemsize == 2 and not options.get("weight_decay") and options.get("gc_on") != "update":
            done = (w - (after.momentum_buffer * w.dtype.type(options["lr"])).astype(w.dtype)).astype(w.dtype)
        return done, after


@mutant("numerics.half_adam")
class MomentsInHalf(Straight):
    """Computes Adam's step from moments rounded to half precision."""

    def _direction(self, m, v, t, betas, eps):
        return super()._direction(
            m.astype(np.float16).astype(m.dtype), v.astype(np.float16).astype(v.dtype), t, betas, eps
        )

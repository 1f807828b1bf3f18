"""Wrong operators."""

from __future__ import annotations

import math

import numpy as np

from ..honest import Straight
from .register import mutant


@mutant("operator.definition")
class NoOp(Straight):
    """Does nothing."""

    def _center(self, x, axes):
        return x.copy()


@mutant("operator.outputs_stay_apart")
class WholeTensorMean(Straight):
    """Subtracts the mean of the whole tensor."""

    def _mean(self, x, axes):
        return x.mean(keepdims=True)


@mutant("operator.several_axes")
class SpatialAxesOnly(Straight):
    """Averages a kernel over its last axes only, not over the inputs."""

    def _mean(self, x, axes):
        return x.mean(axes[1:] if len(axes) > 1 else axes, keepdims=True)


@mutant("operator.all_axes")
class OneAxisOfSeveral(Straight):
    """Takes one of several axes."""

    def _mean(self, x, axes):
        return x.mean(axes[-1], keepdims=True)


@mutant("operator.one_axis_of_many")
class OtherAxes(Straight):
    """Averages over the axes that were not named."""

    def _mean(self, x, axes):
        others = tuple(a for a in range(x.ndim) if a not in axes)
        return x.mean(others or axes, keepdims=True)


@mutant("operator.last_axis_is_output")
class AlwaysOutFirst(Straight):
    """Takes every tensor for one stored output first."""

    def _mean(self, x, axes):
        return x.mean(tuple(range(1, x.ndim)) or axes, keepdims=True)


@mutant("operator.first_axis_is_output")
class AlwaysOutLast(Straight):
    """Takes every tensor for one stored output last."""

    def _mean(self, x, axes):
        return x.mean(tuple(range(x.ndim - 1)) or axes, keepdims=True)


@mutant("operator.every_rank")
class ConvolutionsOnly(Straight):
    """Skips everything below four dimensions."""

    def _center(self, x, axes):
        return super()._center(x, axes if x.ndim > 3 else None)


@mutant("operator.every_rank", "NoHighRanks")
class NoHighRanks(Straight):
    """Skips everything above four dimensions."""

    def _center(self, x, axes):
        return super()._center(x, axes if x.ndim < 5 else None)


def _fan_in(x, axes):
    return math.prod(x.shape[a] for a in axes or ())


@mutant("operator.every_size")
class SkipsSmallFanIn(Straight):
    """Skips weight vectors of fewer than eight weights."""

    def _center(self, x, axes):
        return super()._center(x, axes if _fan_in(x, axes) >= 8 else None)


@mutant("operator.every_size")
class SkipsLargeFanIn(Straight):
    """Skips weight vectors of more than 128 weights."""

    def _center(self, x, axes):
        return super()._center(x, axes if _fan_in(x, axes) <= 128 else None)


@mutant("operator.every_size")
class DivisibleOnly(Straight):
    """Skips a fan-in that is not a multiple of four."""

    def _center(self, x, axes):
        return super()._center(x, axes if _fan_in(x, axes) % 4 == 0 else None)


@mutant("operator.every_size")
class DropsTail(Straight):
    """Sums whole blocks of eight and forgets the tail."""

    def _mean(self, x, axes):
        count, last = _fan_in(x, axes), axes[-1]
        if len(axes) > 1 or count < 8:
            return super()._mean(x, axes)
        return np.take(x, range(count // 8 * 8), last).sum(last, keepdims=True) / count


@mutant("operator.every_number_of_outputs")
class EvenOutputsOnly(Straight):
    """Handles two output units at a time and forgets the last of an odd number."""

    def _center(self, x, axes):
        done = super()._center(x, axes)
        if x.ndim == 2 and axes == (1,) and len(x) % 2:
            done[-1] = x[-1]
        return done


@mutant("operator.linear")
class ZScore(Straight):
    """Divides by the standard deviation, too."""

    def _center(self, x, axes):
        done = super()._center(x, axes)
        return done if axes is None else done / (done.std(axes, keepdims=True) + 1)


@mutant("operator.mean_is_zero")
class PartialStrength(Straight):
    """Subtracts nine tenths of the mean."""

    def _mean(self, x, axes):
        return 0.9 * super()._mean(x, axes)


@mutant("operator.idempotent")
class BesselMean(Straight):
    """Divides the sum by M - 1."""

    def _mean(self, x, axes):
        return x.sum(axes, keepdims=True) / max(_fan_in(x, axes) - 1, 1)


@mutant("operator.symmetric")
class SubtractsFirst(Straight):
    """Subtracts the first element of each weight vector instead of the mean."""

    def _mean(self, x, axes):
        return x[tuple(slice(0, 1) if a in axes else slice(None) for a in range(x.ndim))]


@mutant("operator.deviations_unchanged")
class KeepsNorm(Straight):
    """Scales what is left to the norm of the gradient."""

    def _center(self, x, axes):
        done = super()._center(x, axes)
        left = np.linalg.norm(done)
        return done * (np.linalg.norm(x) / left) if left > 0 else done


@mutant("operator.none_leaves_alone")
class NoneIsEverything(Straight):
    """Takes axis=None for all axes, as NumPy does."""

    def centralize(self, grad, axis):
        return super().centralize(grad, tuple(range(grad.ndim)) if axis is None else axis)


@mutant("operator.negative_axes")
class AbsoluteAxes(Straight):
    """Drops the sign of an axis."""

    def centralize(self, grad, axis):
        return super().centralize(
            grad, tuple(sorted({abs(a) % grad.ndim for a in axis})) if isinstance(axis, tuple) else axis
        )


@mutant("operator.int_axis")
class IntIsFirstOfMany(Straight):
    """Takes an int for the first of all fan-in axes."""

    def centralize(self, grad, axis):
        return super().centralize(grad, tuple(range(axis, grad.ndim)) if isinstance(axis, int) and axis >= 0 else axis)


@mutant("operator.axes_in_any_order")
class AxesAsRange(Straight):
    """Takes a tuple of axes for a range from its first to its last."""

    def _mean(self, x, axes):
        return super()._mean(x, tuple(range(axes[0], axes[-1] + 1))) if len(axes) > 1 else super()._mean(x, axes)


@mutant("operator.fan_in_one_given")
class LeavesFanInOne(Straight):
    """Leaves a fan-in of one alone although its axis is given."""

    def _center(self, x, axes):
        return super()._center(x, None if _fan_in(x, axes) == 1 else axes)


@mutant("operator.scalars_and_vectors")
class AtLeastOneD(Straight):
    """Makes a vector of a scalar."""

    def centralize(self, grad, axis):
        return np.atleast_1d(super().centralize(grad, axis))


@mutant("operator.empty")
class EmptyFails(Straight):
    """Raises for an empty gradient."""

    def _center(self, x, axes):
        if not x.size:
            raise ZeroDivisionError("mean of nothing")
        return super()._center(x, axes)


@mutant("operator.input_unchanged")
class InPlace(Straight):
    """Centralizes the gradient it was given, in place."""

    def centralize(self, grad, axis):
        grad[...] = super().centralize(grad, axis)
        return grad


@mutant("operator.read_only_input")
class ScratchInput(Straight):
    """Uses the gradient as scratch space and restores it."""

    def centralize(self, grad, axis):
        done = super().centralize(grad, axis)
        grad += 0
        return done


@mutant("operator.result_is_its_own")
class SharedWorkspace(Straight):
    """Returns a workspace that the next call of that shape overwrites."""

    def __init__(self):
        self.workspace = {}

    def centralize(self, grad, axis):
        done = super().centralize(grad, axis)
        kept = self.workspace.setdefault((done.shape, done.dtype), done)
        kept[...] = done
        return kept


@mutant("operator.no_memory")
class CachedMean(Straight):
    """Remembers the mean by shape."""

    def __init__(self):
        self.means = {}

    def _mean(self, x, axes):
        return self.means.setdefault((x.shape, axes, x.dtype), super()._mean(x, axes))


@mutant("operator.keeps_shape")
class Squeezes(Straight):
    """Drops axes of length one."""

    def centralize(self, grad, axis):
        return super().centralize(grad, axis).squeeze()


@mutant("operator.keeps_dtype")
class Promotes(Straight):
    """Returns float64."""

    def centralize(self, grad, axis):
        return super().centralize(grad, axis).astype(np.float64)


class OnDevice(np.ndarray):
    """An array that says where it is."""

    place = "accelerator:0"

    @property
    def device(self):
        return self.place


@mutant("operator.keeps_kind_and_device")
class LeavesDevice(Straight):
    """Returns the result on another device."""

    def from_numpy(self, array):
        return array.view(OnDevice)

    def to_numpy(self, array):
        return np.asarray(array)

    def centralize(self, grad, axis):
        done = super().centralize(np.asarray(grad), axis).view(OnDevice)
        done.place = "cpu"
        return done


@mutant("operator.keeps_kind_and_device")
class ReturnsLists(Straight):
    """Returns nested lists."""

    def centralize(self, grad, axis):
        return super().centralize(grad, axis).tolist()


@mutant("operator.fortran_order")
class ReadsMemoryInOrder(Straight):
    """Walks through memory as if the last axis always came first."""

    def centralize(self, grad, axis):
        return super().centralize(grad.ravel(order="K").reshape(grad.shape), axis)


@mutant("operator.strided")
class IgnoresStrides(Straight):
    """Reads as many numbers as there are from where the gradient begins, and skips none."""

    def centralize(self, grad, axis):
        if (
            not grad.flags.c_contiguous
            and grad.base is not None
            and grad.base.flags.c_contiguous
            and grad.strides[0] > 0
        ):
            grad = grad.base.ravel()[: grad.size].reshape(grad.shape)
        return super().centralize(grad, axis)


@mutant("operator.negative_strides")
class IgnoresDirection(Straight):
    """Reads a reversed gradient forwards."""

    def centralize(self, grad, axis):
        return super().centralize(grad[tuple(slice(None, None, -1 if s < 0 else 1) for s in grad.strides)], axis)


@mutant("operator.complex")
class ComplexAsPairs(Straight):
    """Takes a complex number for two more weights of the vector."""

    dtypes = ("float32", "float64", "complex64")

    def centralize(self, grad, axis):
        if not np.iscomplexobj(grad):
            return super().centralize(grad, axis)
        pairs = np.stack([grad.real, grad.imag], -1)
        over = (axis,) if isinstance(axis, int) else axis
        pairs = super().centralize(pairs, (*(a % grad.ndim for a in over), grad.ndim))
        return (pairs[..., 0] + 1j * pairs[..., 1]).astype(grad.dtype)


@mutant("operator.complex")
class ComplexLosesImaginary(Straight):
    """Drops the imaginary part."""

    def centralize(self, grad, axis):
        return super().centralize(grad.real if np.iscomplexobj(grad) else grad, axis)


@mutant("operator.input_unchanged")
class OverwritesLargeInputs(Straight):
    """Works in place above 100 elements."""

    def centralize(self, grad, axis):
        done = super().centralize(grad, axis)
        if grad.size > 100 and grad.flags.writeable:
            grad[...] = done
        return done


@mutant("operator.input_unchanged")
class OverwritesStridedInputs(Straight):
    """Works in place where the input is not contiguous."""

    def centralize(self, grad, axis):
        done = super().centralize(grad, axis)
        if not grad.flags.c_contiguous and grad.flags.writeable:
            grad[...] = done
        return done


@mutant("operator.input_unchanged")
class OverwritesGaps(Straight):
    """Writes beside the elements of an input that is part of a larger array."""

    def centralize(self, grad, axis):
        if isinstance(grad.base, np.ndarray) and grad.base.flags.writeable and grad.base.ndim == grad.ndim:
            kept, grad.base[...] = grad.copy(), 0
            grad[...] = kept
        return super().centralize(grad, axis)


@mutant("operator.input_unchanged")
class OverwritesWithoutAxes(Straight):
    """Zeroes what is not a weight, having copied it."""

    def centralize(self, grad, axis):
        done = super().centralize(grad, axis)
        if axis is None and grad.flags.writeable:
            grad[...] = 0
        return done


@mutant("operator.result_is_its_own")
class ReusesLargeBuffers(Straight):
    """Returns the same buffer for all large arrays of one shape."""

    def __init__(self):
        self.buffers: dict = {}

    def centralize(self, grad, axis):
        done = super().centralize(grad, axis)
        if grad.size <= 100:
            return done
        buffer = self.buffers.setdefault((grad.shape, grad.dtype.name), done)
        buffer[...] = done
        return buffer

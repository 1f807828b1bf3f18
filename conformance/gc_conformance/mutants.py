"""Deliberately wrong ports, each with the one property that must catch it: the proof that the suite can fail.

Every mutant is the honest port `Straight` with one idea broken, a mistake that somebody has made or could make. `kill`
holds it to its property alone. Every property of the suite has at least one mutant of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .chapters.layers import ROWS
from .honest import AdamState, SGDMState, Stateful, Straight
from .judging import judge
from .port import load
from .registry import PROPERTIES
from .result import PropertyResult
from .runner import PROFILES


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


def kill(mutant: Mutant, *, seed: int = 0, profile: str = "standard") -> PropertyResult:
    """Hold the mutant to its own property, all others off. It is killed if the result's status is "failed"."""
    prop = PROPERTIES[mutant.kills]
    return judge(prop, load(mutant.make()), seed=seed, examples=prop.examples(PROFILES[profile]), shrink=False)


def mutant(kills: str, name: str = "") -> Callable[[type], type]:
    """Register the decorated class as a mutant; what is wrong with it is its docstring."""

    def register(wrong: type) -> type:
        label = name or wrong.__name__
        assert label not in MUTANTS and kills in PROPERTIES, (label, kills)
        MUTANTS[label] = Mutant(label, kills, (wrong.__doc__ or "").strip(), wrong)
        return wrong

    return register


# The operator.


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


@mutant("theory.norm_never_grows")
class AddsMean(Straight):
    """Adds the mean: a sign error."""

    def _mean(self, x, axes):
        return -super()._mean(x, axes)


@mutant("theory.smoother_loss")
class DoublesColumns(Straight):
    """Centralizes twice the gradient."""

    def _center(self, x, axes):
        return 2 * super()._center(x, axes)


@mutant("theory.constant_does_not_matter")
class MeanOfMagnitudes(Straight):
    """Subtracts the mean of the absolute values."""

    def _mean(self, x, axes):
        return abs(x).mean(axes, keepdims=True)


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


# Numbers.


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


# Layers.


class WrongRow(Straight):
    """Has its own idea of one kind of layer; `axes` says over which axes it averages, or None."""

    def __init__(self, row, axes):
        self.row, self.axes = row, axes

    def centralize_layer(self, kind, grad, *, stored, **layer):
        if (
            kind != self.row.kind
            or stored != self.row.stored
            or any(
                layer.get(name) != value
                for name, value in (self.row.options or ({},))[0].items()
                if name in ("part", "tied")
            )
        ):
            return super().centralize_layer(kind, grad, stored=stored, **layer)
        axes = self.axes(grad.ndim)
        return grad.copy() if axes is None else self._center(grad, axes)


def _all_but_first(ndim):
    return tuple(range(1, ndim)) or (0,)


def _all_but_last(ndim):
    return tuple(range(ndim - 1)) or (0,)


LAYER_MISTAKES: dict[str, tuple[str, str, Callable[[int], tuple[int, ...] | None]]] = {
    "linear_out_last": ("DenseTakenForLinear", "Takes a Dense kernel for a PyTorch weight.", _all_but_first),
    "linear_out_first": ("LinearTakenForDense", "Takes a PyTorch weight for a Dense kernel.", _all_but_last),
    "conv2d_out_first": ("SpatialMeanOfKernel", "Averages a convolution over h and w only.", lambda n: (2, 3)),
    "conv2d_out_last": ("FlaxKernelTakenForTorch", "Takes a Flax kernel for a PyTorch one.", _all_but_first),
    "conv_transpose2d": ("TransposedTakenForConv", "Takes a transposed convolution for a convolution.", _all_but_first),
    "grouped_conv_transpose": (
        "IgnoresGroups",
        "Averages a grouped transposed convolution over all groups.",
        lambda n: (0, 2, 3),
    ),
    "conv_transpose_out_first": (
        "EquinoxTakenForTorch",
        "Takes Equinox's transposed kernel for PyTorch's.",
        lambda n: (0, 2, 3),
    ),
    "conv_transpose_out_in": ("KerasTakenForFlax", "Takes Keras's transposed kernel for Flax's.", _all_but_last),
    "depthwise_out_last": (
        "DepthwiseTakenForConv",
        "Averages a depthwise kernel over its channels, too.",
        _all_but_last,
    ),
    "attention_heads": ("HeadsAveraged", "Averages a query kernel over its heads.", _all_but_last),
    "attention_out_heads": (
        "OutputTakenForQuery",
        "Averages an attention output kernel over heads alone.",
        lambda n: (0,),
    ),
    "stacked_out_last": ("StackAveraged", "Averages over a stack of layers.", _all_but_last),
    "experts": ("ExpertsAveraged", "Averages over the experts.", lambda n: (0,)),
    "depthwise_1x1": ("FreezesDepthwise", "Centralizes a fan-in of 1, which freezes the layer.", _all_but_first),
    "linear_fan_in_one": ("FreezesLinear", "Centralizes Linear(1, n), which freezes it.", _all_but_first),
    "layer_scale": ("FreezesLayerScale", "Centralizes layer scale by its shape, which freezes it.", _all_but_first),
    "embedding": ("EmbeddingTouched", "Centralizes embeddings.", _all_but_first),
    "tied_embedding": ("TiedTakenForHead", "Centralizes an embedding because it is the head as well.", _all_but_first),
    "position_embedding": ("PositionsTouched", "Centralizes position embeddings by their rank.", _all_but_first),
    "class_token": ("TokenTouched", "Centralizes a class token by its rank.", _all_but_first),
    "relative_position_table": ("TableTouched", "Centralizes a table of relative positions.", _all_but_first),
    "norm_scale_3d": ("NormTouched", "Centralizes a normalization's scale by its rank.", _all_but_first),
    "bias": ("BiasTouched", "Centralizes biases.", lambda n: (0,)),
    "bias_heads": ("HighRankBiasTouched", "Centralizes biases of rank two and more.", _all_but_first),
    "recurrent": ("GatesAveraged", "Averages recurrent weights over the gates.", lambda n: (0,)),
    "weight_norm_magnitude": ("MagnitudeTouched", "Centralizes the magnitude of weight_norm.", _all_but_first),
    "unknown": ("GuessesByShape", "Guesses that any matrix is a weight.", _all_but_first),
}
for _row in ROWS:
    _name, _what, _axes = LAYER_MISTAKES.get(
        _row.id,
        (
            f"Misses_{_row.id}",
            "Does not centralize this layer." if _row.over else "Centralizes this parameter.",
            (lambda n: None) if _row.over else _all_but_first,
        ),
    )
    MUTANTS[_name] = Mutant(_name, f"layers.{_row.id}", _what, lambda row=_row, axes=_axes: WrongRow(row, axes))


@mutant("layers.fan_in_axes_none")
class AxesForVectors(Straight):
    """Finds fan-in axes where there are none."""

    def fan_in_axes(self, shape, layout):
        return tuple(range(1, len(shape))) if layout == "out_first" else tuple(range(len(shape) - 1))


@mutant("layers.fan_in_axes_out_first")
class LayoutsSwappedFirst(Straight):
    """Takes out_first for out_last."""

    def fan_in_axes(self, shape, layout):
        return super().fan_in_axes(shape, "out_last")


@mutant("layers.fan_in_axes_out_last")
class LayoutsSwappedLast(Straight):
    """Takes out_last for out_first."""

    def fan_in_axes(self, shape, layout):
        return super().fan_in_axes(shape, "out_first")


# SGDM.


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


def option(name: str, what: str, kills: str, **fixed: Any) -> None:
    """Register a port that gives these options their values, whatever was asked."""

    class Fixed(Options):
        def change(self, options, w, grad, state):
            options.update({k: v for k, v in fixed.items() if k in options or k not in ("gc_on",)})

    MUTANTS[name] = Mutant(name, kills, what, Fixed)


option(
    "SGDMForgetsGC", "Never centralizes in SGDM: a switch that does nothing.", "sgdm.gradient_is_centralized", axis=None
)
option("MomentumIgnored", "Ignores momentum.", "sgdm.momentum", momentum=0.0)
option("MomentumStuck", "Has momentum when there must be none.", "sgdm.no_momentum", momentum=0.9)
option("DampeningIgnored", "Ignores dampening.", "sgdm.dampening", dampening=0.0)
option("NesterovIgnored", "Ignores Nesterov.", "sgdm.nesterov", nesterov=False)
option("DecayMissing", "Ignores weight decay.", "sgdm.l2_decay", weight_decay=0.0)
option("DecayInside", "Takes decoupled decay for L2.", "sgdm.decoupled_decay", decoupled=False)
option("PlaceIgnored", "Ignores gc_on.", "sgdm.gc_on_update", gc_on="gradient")
option("AdamForgetsGC", "Never centralizes in Adam.", "adam.rule", axis=None)
option("BetasIgnored", "Uses the default betas whatever is given.", "adam.betas", betas=(0.9, 0.999))
option("AMSGradIgnored", "Ignores AMSGrad.", "adam.amsgrad", amsgrad=False)
option("AdamDecayMissing", "Ignores weight decay in Adam.", "adam.l2_decay", weight_decay=0.0)
option("AdamWIsAdam", "Takes AdamW's decay for L2.", "adam.decoupled_decay", decoupled=False)
option("AdamPlaceIgnored", "Ignores gc_on in Adam.", "adam.gc_on_update", gc_on="gradient")


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


class DecayAfterGC(Straight):
    """Adds L2 decay after GC, so that the means of the weights decay."""

    def _prepared(self, x, g, axes, weight_decay, decoupled, gc_on):
        g = super()._prepared(x, g, axes, 0.0, decoupled, gc_on)
        return g + weight_decay * x if weight_decay and not decoupled else g


MUTANTS["DecayOutsideGC"] = Mutant("DecayOutsideGC", "sgdm.l2_decay", DecayAfterGC.__doc__ or "", DecayAfterGC)
MUTANTS["AdamDecayOutsideGC"] = Mutant("AdamDecayOutsideGC", "adam.l2_decay", DecayAfterGC.__doc__ or "", DecayAfterGC)
MUTANTS["MeansDecay"] = Mutant("MeansDecay", "theory.l2_decay_keeps_means", DecayAfterGC.__doc__ or "", DecayAfterGC)


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


class MemoryOrder(Options):
    """Pairs weights and gradients by their place in memory."""

    def sgdm_update(self, w, grad, state, **options):
        return Straight.sgdm_update(self, w, grad.ravel(order="K").reshape(grad.shape), state, **options)

    def adam_update(self, w, grad, state, **options):
        return Straight.adam_update(self, w, grad.ravel(order="K").reshape(grad.shape), state, **options)


MUTANTS["SGDMMemoryOrder"] = Mutant("SGDMMemoryOrder", "sgdm.memory_layouts", MemoryOrder.__doc__ or "", MemoryOrder)
MUTANTS["AdamMemoryOrder"] = Mutant("AdamMemoryOrder", "adam.memory_layouts", MemoryOrder.__doc__ or "", MemoryOrder)


class EmptyStepFails(Options):
    """Raises for an empty weight."""

    def change(self, options, w, grad, state):
        if not w.size:
            raise IndexError("empty")


MUTANTS["SGDMEmptyFails"] = Mutant("SGDMEmptyFails", "sgdm.empty", EmptyStepFails.__doc__ or "", EmptyStepFails)
MUTANTS["AdamEmptyFails"] = Mutant("AdamEmptyFails", "adam.empty", EmptyStepFails.__doc__ or "", EmptyStepFails)


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


class StateInFloat64(Straight):
    """Keeps the state in float64."""

    def sgdm_update(self, w, grad, state, **options):
        done, after = super().sgdm_update(w, grad, SGDMState(state.momentum_buffer.astype(w.dtype)), **options)
        return done, SGDMState(after.momentum_buffer.astype(np.float64))

    def adam_update(self, w, grad, state, **options):
        narrow = AdamState(*(a.astype(w.dtype) if isinstance(a, np.ndarray) else a for a in state))
        done, after = super().adam_update(w, grad, narrow, **options)
        return done, AdamState(*(a.astype(np.float64) if isinstance(a, np.ndarray) else a for a in after))


MUTANTS["WideBuffer"] = Mutant("WideBuffer", "sgdm.keeps_shape_and_dtype", StateInFloat64.__doc__ or "", StateInFloat64)
MUTANTS["WideMoments"] = Mutant(
    "WideMoments", "adam.keeps_shape_and_dtype", StateInFloat64.__doc__ or "", StateInFloat64
)


# Adam.


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
class DecayAfterUpdateGC(Straight):
    """Centralizes the update before its decay."""

    def _applied(self, x, d, lr, axes, weight_decay, decoupled, gc_on):
        d = self._center(d, axes) if gc_on == "update" else d
        return super()._applied(x, d, lr, axes, weight_decay, decoupled, "gradient")


MUTANTS["SGDMDecayAfterUpdateGC"] = Mutant(
    "SGDMDecayAfterUpdateGC", "theory.update_keeps_means_sgdm", DecayAfterUpdateGC.__doc__ or "", DecayAfterUpdateGC
)


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


# Stateful optimizers.


class Wrapped(Straight):
    """A port whose optimizer is a broken `Stateful`."""

    broken: type[Stateful]

    def optimizer(self, kind, params, axes, **hyper):
        return self.broken(self, kind, params, axes, hyper)


def optimizer_mutant(kills: str) -> Callable[[type[Stateful]], type[Stateful]]:
    def register(wrong: type[Stateful]) -> type[Stateful]:
        MUTANTS[wrong.__name__] = Mutant(
            wrong.__name__, kills, (wrong.__doc__ or "").strip(), lambda: type("Port", (Wrapped,), {"broken": wrong})()
        )
        return wrong

    return register


class Rewrites(Stateful):
    """Changes what it was asked for."""

    def change(self, kind: str, axes: dict, hyper: dict) -> str:
        return kind

    def __init__(self, port, kind, params, axes, hyper):
        axes, hyper = dict(axes), dict(hyper)
        super().__init__(port, self.change(kind, axes, hyper), params, axes, hyper)


def drops(name: str, what: str, kills: str, **fixed: Any) -> None:
    """Register an optimizer that gives these options their values, whatever was asked."""

    def change(self, kind, axes, hyper):
        hyper.update({k: v for k, v in fixed.items() if k in hyper})
        return kind

    wrong = type(name, (Rewrites,), {"change": change, "__doc__": what})
    optimizer_mutant(kills)(wrong)


drops("OptimizerDropsNesterov", "Loses nesterov on the way.", "optimizer.nesterov", nesterov=False)
drops("OptimizerDropsMomentum", "Has momentum when there must be none.", "optimizer.no_momentum", momentum=0.9)
drops("OptimizerDropsBetas", "Loses betas on the way.", "optimizer.betas_and_eps", betas=(0.9, 0.999))
drops("OptimizerDropsEps", "Loses eps on the way.", "optimizer.betas_and_eps", eps=1e-8)
drops("OptimizerDropsAMSGrad", "Loses amsgrad on the way.", "optimizer.amsgrad", amsgrad=False)
drops("OptimizerDropsPlace", "Loses gc_on on the way.", "optimizer.gc_on_update", gc_on="gradient")
drops("OptimizerDropsDecay", "Loses the L2 decay on the way.", "optimizer.l2_decay", weight_decay=0.0)
drops("OptimizerDefaultDecay", "Takes a decay of 0 for none given.", "optimizer.adamw_without_decay", weight_decay=0.01)
drops("OptimizerDropsRate", "Has a learning rate of its own.", "optimizer.sgd", lr=0.1)


@optimizer_mutant("optimizer.adamw")
class AdamWDecaysL2(Rewrites):
    """Makes AdamW an Adam with L2."""

    def change(self, kind, axes, hyper):
        return "adam" if kind == "adamw" else kind


@optimizer_mutant("optimizer.gradients_are_centralized")
class OverrideNeverCalled(Rewrites):
    """Overrides a method that nobody calls: GC never happens."""

    def change(self, kind, axes, hyper):
        axes.update(dict.fromkeys(axes))
        return kind

    def get_gradients(self, grads):
        return {name: self.port.centralize(g, self.axes[name]) for name, g in grads.items()}


@optimizer_mutant("optimizer.no_axes_no_gc")
class AxesByRank(Rewrites):
    """Takes the axes from the rank of the parameter."""

    def __init__(self, port, kind, params, axes, hyper):
        super().__init__(port, kind, params, {n: tuple(range(1, w.ndim)) or None for n, w in params.items()}, hyper)


@optimizer_mutant("optimizer.adam")
class OneStepCountForAll(Stateful):
    """Counts one step a parameter instead of one a call."""

    count = 0

    def step(self, grads):
        for name, state in self.states.items():
            if self.rule == "adam":
                self.states[name] = state._replace(step=self.count)
                self.count += 1
        super().step(grads)


@optimizer_mutant("optimizer.dampening")
class SecretlyUndamped(Stateful):
    """Starts undamped without declaring it."""

    def step(self, grads):
        fresh = not any(state.momentum_buffer.any() for state in self.states.values()) if self.rule == "sgdm" else False
        asked = self.hyper.get("dampening", 0.0)
        self.hyper["dampening"] = 0.0 if fresh else asked
        super().step(grads)
        self.hyper["dampening"] = asked


@optimizer_mutant("optimizer.many_steps")
class ForgetsState(Stateful):
    """Loses its state at the sixth step."""

    steps = 0

    def step(self, grads):
        self.steps += 1
        if self.steps == 6:
            self.states = {name: self.init(w) for name, w in self.values.items()}
        super().step(grads)


@optimizer_mutant("optimizer.parameters_apart")
class StateByShape(Stateful):
    """Keeps its state by shape, so that parameters of one shape share it."""

    def step(self, grads):
        update = getattr(self.port, f"{self.rule}_update")
        for name, w in self.values.items():
            owner = next(n for n, other in self.values.items() if other.shape == w.shape)
            self.values[name], self.states[owner] = update(
                w, grads[name], self.states[owner], axis=self.axes[name], **self.hyper
            )


@optimizer_mutant("optimizer.instances_apart")
class StateOfTheClass(Stateful):
    """Keeps its state where every optimizer finds it."""

    def __init__(self, port, kind, params, axes, hyper):
        super().__init__(port, kind, params, axes, hyper)
        key = repr((kind, *((n, w.shape, w.dtype.name) for n, w in params.items())))
        self.states = vars(port).setdefault(key, self.states)


@optimizer_mutant("optimizer.names_decide")
class PairsByOrder(Stateful):
    """Pairs parameters and gradients by their order."""

    def step(self, grads):
        names = [name for name in self.values if self.values[name].ndim > 1]
        given = [grads[name] for name in grads if name in names]
        super().step({**grads, **dict(zip(names, given, strict=True))})


@optimizer_mutant("optimizer.grads_unchanged")
class DecaysGradients(Stateful):
    """Adds the L2 decay to the gradients in place."""

    def step(self, grads):
        for name, w in self.values.items():
            grads[name] += self.hyper.get("weight_decay", 0) * w
        decay, self.hyper["weight_decay"] = self.hyper.get("weight_decay", 0), 0.0
        super().step(grads)
        self.hyper["weight_decay"] = decay


@optimizer_mutant("optimizer.no_aliasing")
class KeepsGradients(Stateful):
    """Steps once more with the gradients it has kept, just before it is read."""

    def step(self, grads):
        self.kept = grads

    def params(self):
        super().step(self.kept)
        return super().params()


@optimizer_mutant("optimizer.keeps_shape_and_dtype")
class WideParameters(Stateful):
    """Hands out its parameters in float64."""

    def params(self):
        return {name: w.astype(np.float64) for name, w in self.values.items()}


@optimizer_mutant("optimizer.sgd_keeps_means")
class DecaysOutside(Stateful):
    """Decays the weights after the step."""

    def step(self, grads):
        decay, self.hyper["weight_decay"] = self.hyper.get("weight_decay", 0), 0.0
        before = {name: w.copy() for name, w in self.values.items()}
        super().step(grads)
        self.hyper["weight_decay"] = decay
        for name, w in before.items():
            self.values[name] = (self.values[name] - self.hyper["lr"] * decay * w).astype(w.dtype)


# The paper's statements.


@mutant("theory.projection_matrix")
class UnnormalizedNormal(Straight):
    """Takes e for a vector of ones: P = I - 1 1'."""

    def projection_matrix(self, n):
        return np.eye(n) - np.ones((n, n))


@mutant("theory.projection_identities")
class LowerTriangle(Straight):
    """Fills one half of P only."""

    def projection_matrix(self, n):
        return np.tril(super().projection_matrix(n))


@mutant("theory.matrix_form")
class TwoOperators(Straight):
    """Has a matrix for another size than its vector form."""

    def projection_matrix(self, n):
        return np.eye(n) - np.full((n, n), 1 / (n + 1))


def forgets_gc(name: str, kills: str) -> None:
    """Register an SGDM that never centralizes, for a property about what follows from GC."""
    MUTANTS[name] = Mutant(name, kills, "Never centralizes in SGDM.", MUTANTS["SGDMForgetsGC"].make)


forgets_gc("LeavesHyperplane", "theory.hyperplane")
forgets_gc("OutputDrifts", "theory.output_shift")
forgets_gc("MeansWander", "theory.decoupled_decay_shrinks_means")


@mutant("theory.start_is_kept")
class StandardizesWeights(Straight):
    """Centralizes the weights, as weight standardization does."""

    def _applied(self, x, d, lr, axes, weight_decay, decoupled, gc_on):
        return self._center(super()._applied(x, d, lr, axes, weight_decay, decoupled, gc_on), axes)


@mutant("theory.places_agree_for_sgdm")
class UpdateNeverCentralized(Straight):
    """Takes gc_on="update" for no GC at all."""

    def _applied(self, x, d, lr, axes, weight_decay, decoupled, gc_on):
        return super()._applied(x, d, lr, axes, weight_decay, decoupled, "gradient")


# Errors.


class Vague(Straight):
    """Raises the right error with a message that says nothing."""

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if name.startswith("_") or not callable(value):
            return value

        def vague(*args, **options):
            try:
                return value(*args, **options)
            except (TypeError, ValueError) as error:
                raise type(error)("invalid argument") from None

        return vague


class Careless(Straight):
    """Checks nothing: whatever NumPy makes of the arguments is the result."""

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if name.startswith("_") or not callable(value):
            return value

        def careless(*args, **options):
            try:
                return value(*args, **options)
            except (TypeError, ValueError):
                return args[0] if args else None

        return careless


VAGUE = ("object_array", "nesterov", "learning_rate", "momentum", "betas", "eps", "weight_decay", "gc_on", "layout")
for _id, _prop in list(PROPERTIES.items()):
    if _prop.chapter == "errors" and not _prop.needs:
        _short = _id.split(".")[1]
        if _short not in ("states_are_named_tuples",):
            MUTANTS[f"Accepts_{_short}"] = Mutant(f"Accepts_{_short}", _id, Careless.__doc__ or "", Careless)
        if _short in VAGUE and _short != "object_array":
            MUTANTS[f"Vague_{_short}"] = Mutant(f"Vague_{_short}", _id, Vague.__doc__ or "", Vague)


@mutant("errors.complex_refused_by_name")
class ComplexRefusedInRiddles(Vague):
    """Refuses complex numbers without saying so."""


@mutant("errors.unknown_keyword")
class SwallowsKeywords(Straight):
    """Takes any keyword, so that a misspelled one does nothing."""

    def centralize(self, grad, axis, **ignored):
        return super().centralize(grad, axis)


@mutant("errors.axis_has_no_default")
class DefaultAxis(Straight):
    """Has None for a default axis, which switches GC off."""

    def centralize(self, grad, axis=None):
        return super().centralize(grad, axis)


@mutant("errors.states_are_named_tuples")
class StatesAreDicts(Straight):
    """Keeps its state in an object without fields."""

    def sgdm_init(self, w):
        return type("State", (), {"momentum_buffer": np.zeros_like(w)})()


class Warns(Straight):
    """Lets NumPy's warnings through."""

    def _center(self, x, axes):
        return x.copy() if axes is None else x - x.mean(axes, keepdims=True)


MUTANTS["WarnsOfNaN"] = Mutant("WarnsOfNaN", "errors.no_warning_for_non_finite", Warns.__doc__ or "", Warns)
MUTANTS["WarnsOfEmpty"] = Mutant("WarnsOfEmpty", "errors.no_warning_for_empty", Warns.__doc__ or "", Warns)


@mutant("errors.no_warning_at_all")
class AlwaysWarns(Straight):
    """Warns of its own age."""

    def centralize(self, grad, axis):
        import warnings

        warnings.warn("use another function", DeprecationWarning, stacklevel=2)
        return super().centralize(grad, axis)


@optimizer_mutant("errors.nothing_partly_applied")
class AppliesOneByOne(Stateful):
    """Updates parameter by parameter, and raises in the middle."""

    def step(self, grads):
        update = getattr(self.port, f"{self.rule}_update")
        for name, w in self.values.items():
            self.values[name], self.states[name] = update(
                w, grads[name], self.states[name], axis=self.axes[name], **self.hyper
            )


@optimizer_mutant("errors.nothing_partly_applied")
class CountsFailedSteps(Stateful):
    """Counts a step that fails."""

    def step(self, grads):
        if self.rule == "adam":
            self.states = {name: state._replace(step=state.step + 1) for name, state in self.states.items()}
            before = {name: state._replace(step=state.step - 1) for name, state in self.states.items()}
            update = self.port.adam_update
            done = {n: update(w, grads[n], before[n], axis=self.axes[n], **self.hyper) for n, w in self.values.items()}
            for name, (w, state) in done.items():
                self.values[name], self.states[name] = w, state
        else:
            super().step(grads)


@optimizer_mutant("errors.bad_gradient_refused")
class SkipsBadGradients(Stateful):
    """Skips a parameter whose gradient does not fit."""

    def step(self, grads):
        fits = {n: isinstance(g, np.ndarray) and g.shape == self.values[n].shape for n, g in grads.items()}
        super().step({n: grads[n] if fits[n] else np.zeros_like(w) for n, w in self.values.items()})


@optimizer_mutant("errors.optimizer_options")
class OptionsUnchecked(Stateful):
    """Takes any option, and steps with it."""

    def step(self, grads):
        pass


# Inputs and buffers, whatever their size, layout and axes.


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


@mutant("layers.input_unchanged")
class LayersInPlace(Straight):
    """Centralizes the gradient of a layer in place."""

    def centralize_layer(self, kind, grad, **layer):
        grad[...] = super().centralize_layer(kind, grad, **layer)
        return grad


@optimizer_mutant("optimizer.biases_left_alone")
class CentralizesBiases(Stateful):
    """Centralizes biases, too."""

    def step(self, grads):
        super().step({name: g - g.mean() if self.axes[name] is None else g for name, g in grads.items()})

"""The contract in other ways: other orders of summation, other precisions, other styles, and ports that offer less."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .straight import Stateful, Straight

# The same, computed in other ways.


class SequentialSums(Straight):
    """Adds up one element after the other."""

    name = "sequential sums"

    def _mean(self, x, axes):
        rows = np.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim)).reshape(
            *[n for a, n in enumerate(x.shape) if a not in axes], -1
        )
        total = np.add.accumulate(rows, -1)[..., -1]
        return (total / x.dtype.type(rows.shape[-1])).reshape([1 if a in axes else n for a, n in enumerate(x.shape)])


class PairwiseSums(Straight):
    """Adds up halves of halves."""

    name = "pairwise sums"

    def _mean(self, x, axes):
        total = x
        for axis in axes:
            total = self._sum(total, axis)
        return total / x.dtype.type(math.prod(x.shape[a] for a in axes))

    def _sum(self, x, axis):
        while x.shape[axis] > 1:
            half = x.shape[axis] // 2
            front, back, odd = np.split(x, [half, 2 * half], axis)
            x = np.concatenate([front + back, odd], axis)
        return x


class MatrixForm(Straight):
    """Multiplies each weight vector with P = I - e e', as the paper's equation 2 has it."""

    name = "matrix form"

    def _center(self, x, axes):
        count = math.prod(x.shape[a] for a in axes or ())
        if axes is None or not x.size or count > 200:
            return super()._center(x, axes)
        ends = range(x.ndim - len(axes), x.ndim)
        moved = np.moveaxis(x, axes, ends)
        e = np.full(count, 1 / math.sqrt(count), x.dtype)
        matrix = np.eye(count, dtype=x.dtype) - np.outer(e, e)
        with np.errstate(all="ignore"):
            product = np.einsum("ri,ij->rj", moved.reshape(-1, count), matrix)
        return np.moveaxis(product.reshape(moved.shape), ends, axes)


class WeightedSum(Straight):
    """Multiplies each element by 1/M before it adds them up."""

    name = "weighted sum"

    def _mean(self, x, axes):
        return (x * x.dtype.type(1 / math.prod(x.shape[a] for a in axes))).sum(axes, keepdims=True)


class Float64Inside(Straight):
    """Computes everything in float64 and rounds once."""

    name = "float64 inside"

    def _wide(self, x):
        return x.astype(np.float64)


class Float32Scalars(Straight):
    """Rounds every hyperparameter to float32 first, and has its bias corrections in float32, as -expm1(t log beta)."""

    name = "float32 scalars"
    dtypes = ("float32",)

    def sgdm_update(self, w, grad, state, **options):
        return super().sgdm_update(w, grad, state, **_singles(options))

    def adam_update(self, w, grad, state, **options):
        options.setdefault("betas", (0.9, 0.999))
        return super().adam_update(w, grad, state, **_singles(options))

    def _bias_correction(self, beta, t):
        with np.errstate(divide="ignore"):
            return -np.expm1(np.float32(t) * np.log(np.float32(beta)))

    def _direction(self, m, v, t, betas, eps):
        one, two = (self._bias_correction(beta, t) for beta in betas)
        return (m / one) / (np.sqrt(v) / np.sqrt(two) + eps)


def _singles(options: dict[str, Any]) -> dict[str, Any]:
    def single(value: Any) -> Any:
        return np.float32(value) if isinstance(value, float) else value

    return {k: tuple(map(single, v)) if k == "betas" else single(v) for k, v in options.items()}


class StepSizeFirst(Straight):
    """Computes in another order: bias correction as a factor, decay as a factor of w, moments as steps."""

    name = "step size first"

    def _gather(self, m, g, momentum, dampening):
        return m * momentum + g * (1 - dampening)

    def _direction(self, m, v, t, betas, eps):
        one, two = (self._bias_correction(beta, t) for beta in betas)
        return m * (1 / one) / (np.sqrt(v / two) + eps)

    def _second(self, v, g, raw, beta):
        return v + (1 - beta) * (g * g - v)

    def _applied(self, x, d, lr, axes, weight_decay, decoupled, gc_on):
        if weight_decay and decoupled and gc_on == "gradient":
            return x * (1 - lr * weight_decay) - lr * d
        return super()._applied(x, d, lr, axes, weight_decay, decoupled, gc_on)


class InPlaceKernels(Straight):
    """Copies what it is given and then works in place."""

    name = "in-place kernels"

    def _center(self, x, axes):
        x = x.copy()
        if axes is not None and x.size:
            with np.errstate(all="ignore"):
                x -= self._mean(x, axes)
        return x

    def _gather(self, m, g, momentum, dampening):
        m = m.copy()
        m *= momentum
        m += (1 - dampening) * g
        return m

    def _applied(self, x, d, lr, axes, weight_decay, decoupled, gc_on):
        d = d.copy()
        if weight_decay and decoupled:
            d += weight_decay * x
        if gc_on == "update":
            d = self._center(d, axes)
        d *= -lr
        d += x
        return d


class FlushesSubnormals(Straight):
    """Takes subnormal float32 numbers for zero, as accelerators do."""

    name = "flushes subnormals"
    dtypes = ("float32",)

    def _center(self, x, axes):
        return self._flush(super()._center(self._flush(x), axes))

    def _flush(self, x):
        return np.where(abs(x) < np.finfo(np.float32).tiny, np.float32(0), x)


class Immutable(Straight):
    """Has arrays that cannot be written to, and counts its steps in an int32 scalar, as JAX does."""

    name = "immutable"

    def from_numpy(self, array):
        array = array.copy()
        array.flags.writeable = False
        return array

    def to_numpy(self, array):
        return np.asarray(array)

    def _count(self, step):
        return np.asarray(step + 1, np.int32)

    def adam_init(self, w, *, amsgrad=False):
        return super().adam_init(w, amsgrad=amsgrad)._replace(step=np.zeros((), np.int32))

    def _bias_correction(self, beta, t):
        return super()._bias_correction(beta, int(t))


# The same, but less of it.


class Float32Only(Straight):
    """Claims float32 alone."""

    name = "float32 only"
    dtypes = ("float32",)


class HalfOnly(Straight):
    """Claims float16 alone."""

    name = "float16 only"
    dtypes = ("float16",)


class FewOptions(Straight):
    """Has neither Nesterov nor AMSGrad nor decoupled decay nor GC on the update."""

    name = "few options"

    def sgdm_update(self, w, grad, state, **options):
        self._refuse(options)
        return super().sgdm_update(w, grad, state, **options)

    def adam_init(self, w, **options):
        self._refuse(options)
        return super().adam_init(w, **options)

    def adam_update(self, w, grad, state, **options):
        self._refuse(options)
        return super().adam_update(w, grad, state, **options)

    def _refuse(self, options):
        if options.get("gc_on") == "update":
            raise NotImplementedError("gc_on='update'")
        for name in ("nesterov", "amsgrad", "decoupled"):
            if options.get(name):
                raise NotImplementedError(name)


def operator_only(grad, axis):
    """One function: `centralize`."""
    return Straight().centralize(grad, axis)


class OptimizerOnly:
    """Only a stateful optimizer, whose SGD starts undamped as PyTorch's does, and says so."""

    name = "optimizer only"
    sgd_first_step = "undamped"

    def optimizer(self, kind, params, axes, **hyper):
        return Undamped(Straight(), kind, params, axes, hyper)


class Undamped(Stateful):
    """The first gradient enters the momentum buffer whole."""

    started = False

    def step(self, grads):
        asked = self.hyper.get("dampening", 0.0)
        if self.rule == "sgdm":
            self.hyper["dampening"] = asked if self.started else 0.0
        super().step(grads)
        if self.rule == "sgdm":
            self.hyper["dampening"] = asked
        self.started = True

"""The contract written down in NumPy as plainly as can be, with its errors. The others change how, or how much."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import numpy as np

from .switched import Momentum

SGDMState = namedtuple("SGDMState", "momentum_buffer")
AdamState = namedtuple("AdamState", "step exp_avg exp_avg_sq max_exp_avg_sq")
FLOATS = ("float16", "bfloat16", "float32", "float64")


def _array(name: str, value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array of floating point numbers; it is a {type(value).__name__}")
    if value.dtype.name not in FLOATS:
        raise TypeError(f"{name} must be an array of floating point numbers; its dtype is {value.dtype.name}")
    return value


def _axes(axis: Any, ndim: int) -> tuple[int, ...] | None:
    if axis is None:
        return None
    entries = axis if isinstance(axis, (tuple, list)) else (axis,)
    if not all(isinstance(a, (int, np.integer)) and not isinstance(a, bool) for a in entries):
        raise TypeError(f"axis must be an int, a tuple of ints or None; it is {axis!r}")
    if not entries or any(not -ndim <= a < ndim for a in entries) or len({a % ndim for a in entries}) < len(entries):
        raise ValueError(f"axis must name different axes of an array of {ndim} dimensions; it is {axis!r}")
    return tuple(int(a) % ndim for a in entries)


def _number(name: str, value: Any, low: float = -math.inf, below: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise TypeError(f"{name} must be a number; it is {value!r}")
    if not math.isfinite(value) or not low <= value < below:
        limits = (
            "finite"
            + (f", at least {low:g}" if low > -math.inf else "")
            + (f", below {below:g}" if below < math.inf else "")
        )
        raise ValueError(f"{name} must be {limits}; it is {value!r}")


class Straight:
    """The contract, written straight down. A method whose name begins with _ is one idea, for a mutant to break."""

    name = "straight"
    dtypes: tuple[str, ...] = FLOATS

    # Arithmetic. Half precision is widened to float32 on the way in and rounded once on the way out.

    def _wide(self, x: np.ndarray) -> np.ndarray:
        return x.astype(np.float32 if x.dtype.itemsize == 2 else x.dtype)

    def _mean(self, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        return x.mean(axes, keepdims=True)

    def _center(self, x: np.ndarray, axes: tuple[int, ...] | None) -> np.ndarray:
        if axes is None or not x.size:
            return x.copy()
        with np.errstate(all="ignore"):
            return x - self._mean(x, axes)

    def _bias_correction(self, beta: float, t: int) -> float:
        return 1.0 if beta == 0 else -math.expm1(t * math.log(beta))

    # The operator.

    def centralize(self, grad, axis):
        axes = _axes(axis, _array("grad", grad).ndim)
        return self._center(self._wide(grad), axes).astype(grad.dtype)

    def fan_in_axes(self, shape, layout):
        if layout not in ("out_first", "out_last"):
            raise ValueError(f'layout must be "out_first" or "out_last"; it is {layout!r}')
        axes = tuple(range(1, len(shape))) if layout == "out_first" else tuple(range(len(shape) - 1))
        return None if len(shape) < 2 or math.prod(shape[a] for a in axes) == 1 else axes

    def projection_matrix(self, n):
        return np.eye(n) - np.full((n, n), 1 / n)

    # SGDM.

    def sgdm_init(self, w):
        return SGDMState(np.zeros_like(_array("w", w)))

    def sgdm_update(
        self,
        w,
        grad,
        state,
        *,
        lr,
        axis,
        momentum=0.9,
        dampening=0.0,
        nesterov=False,
        weight_decay=0.0,
        decoupled=False,
        gc_on="gradient",
    ):
        self._check(w, grad, state, SGDMState, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}, gc_on)
        _number("dampening", dampening)
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(f"nesterov must have momentum and no dampening; it has {momentum!r} and {dampening!r}")
        axes, x, g = _axes(axis, w.ndim), self._wide(w), self._wide(grad)
        g = self._prepared(x, g, axes, weight_decay, decoupled, gc_on)
        m = self._gather(self._wide(state.momentum_buffer), g, momentum, dampening)
        d = self._lookahead(g, m, momentum) if nesterov else m
        x = self._applied(x, d, lr, axes, weight_decay, decoupled, gc_on)
        return x.astype(w.dtype), SGDMState(m.astype(w.dtype))

    def _gather(self, m, g, momentum, dampening):
        return momentum * m + (1 - dampening) * g

    def _lookahead(self, g, m, momentum):
        return g + momentum * m

    # Adam.

    def adam_init(self, w, *, amsgrad=False):
        zeros = np.zeros_like(_array("w", w))
        return AdamState(0, zeros, zeros.copy(), zeros.copy() if amsgrad else None)

    def adam_update(
        self,
        w,
        grad,
        state,
        *,
        lr=1e-3,
        axis,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        decoupled=False,
        amsgrad=False,
        gc_on="gradient",
    ):
        self._check(w, grad, state, AdamState, {"lr": lr, "eps": eps, "weight_decay": weight_decay}, gc_on)
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ValueError(f"betas must be two numbers in [0, 1); it is {betas!r}")
        for beta in betas:
            _number("betas", beta, 0, 1)
        if amsgrad and state.max_exp_avg_sq is None:
            raise ValueError("amsgrad must have a state made by adam_init(w, amsgrad=True); its max_exp_avg_sq is None")
        axes, x, raw = _axes(axis, w.ndim), self._wide(w), self._wide(grad)
        t = self._count(state.step)
        g = self._prepared(x, raw, axes, weight_decay, decoupled, gc_on)
        m = betas[0] * self._wide(state.exp_avg) + (1 - betas[0]) * g
        v = self._second(self._wide(state.exp_avg_sq), g, raw, betas[1])
        largest = np.maximum(self._wide(state.max_exp_avg_sq), v) if amsgrad else None
        d = self._direction(m, v if largest is None else largest, t, betas, eps)
        x = self._applied(x, d, lr, axes, weight_decay, decoupled, gc_on)
        down = w.dtype
        return x.astype(down), AdamState(
            t, m.astype(down), v.astype(down), None if largest is None else largest.astype(down)
        )

    def _count(self, step):
        return step + 1

    def _second(self, v, g, raw, beta):
        return beta * v + (1 - beta) * g * g

    def _direction(self, m, v, t, betas, eps):
        one, two = (self._bias_correction(beta, t) for beta in betas)
        return (m / one) / (np.sqrt(v) / math.sqrt(two) + eps)

    # What both rules share.

    def _check(self, w, grad, state, kind, numbers, gc_on):
        for name, array in (("w", w), ("grad", grad)):
            _array(name, array)
        if not isinstance(state, kind):
            raise TypeError(f"state must be an {kind.__name__}; it is a {type(state).__name__}")
        for name, array in (("grad", grad), *state._asdict().items()):
            if name != "step" and array is not None and (array.shape != w.shape or array.dtype != w.dtype):
                of = name if name == "grad" else f"state ({name})"
                raise ValueError(
                    f"{of} must have the shape and dtype of w, {w.shape} and {w.dtype.name}; it has {array.shape} "
                    f"and {array.dtype.name}"
                )
        for name, number in numbers.items():
            _number(name, number, 0)
        if gc_on not in ("gradient", "update"):
            raise ValueError(f'gc_on must be "gradient" or "update"; it is {gc_on!r}')

    def _prepared(self, x, g, axes, weight_decay, decoupled, gc_on):
        if weight_decay and not decoupled:
            g = g + weight_decay * x
        return self._center(g, axes) if gc_on == "gradient" else g

    def _applied(self, x, d, lr, axes, weight_decay, decoupled, gc_on):
        if weight_decay and decoupled:
            d = d + weight_decay * x
        if gc_on == "update":
            d = self._center(d, axes)
        return x - lr * d

    # Layers: from the words alone, since there is no library here.

    def centralize_layer(self, kind, grad, *, stored, part="weight", groups=1, stack=None, tied=False):
        words = stored.split()
        if groups > 1 and kind.startswith("conv_transpose"):
            whole = grad.reshape(groups, -1, *grad.shape[1:])
            over = (1, *range(3, whole.ndim))
            fan_in = math.prod(whole.shape[a] for a in over)
            return grad.copy() if fan_in == 1 else self.centralize(whole, over).reshape(grad.shape)
        over = self._fan_in(kind, part, words)
        if not over or math.prod(grad.shape[a] for a in over) == 1:
            return grad.copy()
        return self.centralize(grad, over)

    def _fan_in(self, kind, part, words):
        linear = kind.startswith(("linear", "bilinear", "conv", "rnn", "gru", "lstm", "attention"))
        if kind.startswith("depthwise"):
            return tuple(words.index(word) for word in ("h", "w"))
        if not linear or part in ("bias_k", "bias_v", "weight_norm.magnitude", "orthogonal.original"):
            return ()
        outputs = ("out", "stack", *(("heads", "head_dim") if "out" not in words else ()))
        return tuple(i for i, word in enumerate(words) if word not in outputs)

    # Optimizers: the pure rules over dicts.

    rounding = ("kahan", "stochastic")

    def optimizer(self, kind, params, axes, **hyper):
        if hyper.get("low_precision") is not None:
            from .low_precision import LowPrecision

            return LowPrecision(self, kind, params, axes, hyper)
        return Stateful(self, kind, params, axes, hyper)

    # Any optimizer with a switch: momentum, whose L2 decay is part of what is centralized.

    linear, decay = True, "l2"

    def switched(self, params, layers, gc, **options):
        return Momentum(self, params, layers, gc, **options)


class Stateful:
    """An optimizer over dicts of arrays, made of a port's pure rules."""

    def __init__(self, port: Straight, kind: str, params: dict, axes: dict, hyper: dict):
        self.port, self.axes, self.hyper = port, dict(axes), dict(hyper)
        self.values = {name: w.copy() for name, w in params.items()}
        self.rule = "sgdm" if kind == "sgd" else "adam"
        if kind == "sgd":
            self.hyper.setdefault("momentum", 0.0)
        if kind == "adamw":
            self.hyper.setdefault("weight_decay", 0.01)
            self.hyper["decoupled"] = True
        self.states = {name: self.init(w) for name, w in self.values.items()}

    def init(self, w):
        amsgrad = {"amsgrad": True} if self.hyper.get("amsgrad") else {}
        return getattr(self.port, f"{self.rule}_init")(w, **amsgrad)

    def step(self, grads):
        update = getattr(self.port, f"{self.rule}_update")
        done = {
            name: update(w, grads[name], self.states[name], axis=self.axes[name], **self.hyper)
            for name, w in self.values.items()
        }
        for name, (w, state) in done.items():  # nothing is applied before everything is computed
            self.values[name], self.states[name] = w, state

    def params(self):
        return dict(self.values)

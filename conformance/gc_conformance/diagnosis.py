"""Known mistakes, recognized by what they return: a line in words, which is either right or absent.

Each mistake is a formula. It is named only where every probe of the port agrees with it to a few roundoffs, where no
other formula here does, and where the right one does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from .port import NotProvided, Port
from .registry import Property
from .result import Ended, Violation

Axes = tuple[int, ...]
PROBE = ((3, 4, 5), ((1, 2), (0, 1), (0, 2), (1,), (2,), (0,)))


def of(port: Port, prop: Property, case: Any) -> str:
    """What this failure of a property looks like; empty where it looks like nothing known."""
    diagnose = {
        "layers": _layer,
        "optimizer": _optimizer,
        "adam": _adam,
        "sgdm": _sgdm,
        "operator": _operator,
        "numerics": _operator,
        "theory": _operator,
    }.get(prop.chapter)
    try:
        return diagnose(port, prop, case) if diagnose else ""
    except (NotProvided, Violation, Ended, Exception):
        return ""


def _dtype(port: Port) -> str:
    return next(d for d in ("float64", "float32", *port.real_dtypes) if d in port.dtypes)


def _data(shape: Sequence[int], dtype: str, seed: int) -> np.ndarray:
    return (3 + np.random.default_rng(seed).standard_normal(tuple(shape))).astype(dtype)


def _near(got: np.ndarray, want: np.ndarray, dtype: str) -> bool:
    unit = {"float64": 1e-12, "float32": 2e-5, "float16": 1e-2, "bfloat16": 1e-1}[dtype]
    return got.shape == want.shape and bool(np.allclose(got.astype(float), want.astype(float), rtol=unit, atol=unit))


def _minus(g: np.ndarray, axes: Axes | None) -> np.ndarray:
    wide = g.astype(float)
    return wide if axes is None else wide - wide.mean(axes, keepdims=True)


def _the_only(formulas: dict[str, Callable[..., Any]], right: Callable, probes: Iterator) -> str:
    """The one formula that every probe (arguments, result, dtype) agrees with, if it is not the right one."""
    left, is_right, judged = dict(formulas), True, 0
    for arguments, got, dtype in probes:
        judged += 1
        is_right = is_right and _near(got, right(*arguments), dtype)
        left = {text: f for text, f in left.items() if _near(got, f(*arguments), dtype)}
    return next(iter(left)) if judged and len(left) == 1 and not is_right else ""


# ---- The operator


OPERATOR: dict[str, Callable[[np.ndarray, Axes], np.ndarray]] = {
    "The gradient comes back as it is: nothing is centralized.": lambda g, axes: _minus(g, None),
    "One mean is subtracted from the whole tensor, whatever the axes.": lambda g, axes: _minus(g, (0, 1, 2)),
    "The first axis is taken for the output, whatever the axes.": lambda g, axes: _minus(g, (1, 2)),
    "The last axis is taken for the output, whatever the axes.": lambda g, axes: _minus(g, (0, 1)),
    "The mean is over the axes that were not named.": lambda g, axes: _minus(
        g, tuple(a for a in range(g.ndim) if a not in axes)
    ),
    "Of several axes only the last is averaged over.": lambda g, axes: _minus(g, axes[-1:]),
    "Of several axes only the first is averaged over.": lambda g, axes: _minus(g, axes[:1]),
    "The mean is added instead of subtracted.": lambda g, axes: 2 * g.astype(float) - _minus(g, axes),
    "What is left is divided by its standard deviation: that is z-scoring.": lambda g, axes: (
        _minus(g, axes) / g.astype(float).std(axes, keepdims=True)
    ),
}
FAN_IN_ONE = "Where the fan-in is one the gradient is left as it is, although its axis was given."
VECTORS = "Gradients without axes (biases, norm scales) are centralized all the same."


def _operator(port: Port, prop: Property, case: Any) -> str:
    if "centralize" not in prop.needs:
        return ""
    dtype = _dtype(port)

    def call(g: np.ndarray, axis: Axes | None) -> np.ndarray:
        return port.numpy(port.call("centralize", port.array(g.copy()), axis))

    if prop.id in ("operator.none_leaves_alone", "operator.scalars_and_vectors"):
        g = _data((5,), dtype, 1)
        return VECTORS if _near(call(g, None), _minus(g, (0,)), dtype) else ""
    if prop.id == "operator.fan_in_one_given":
        g = _data((4, 1), dtype, 1)
        return FAN_IN_ONE if _near(call(g, (1,)), g.astype(float), dtype) else ""

    def probes() -> Iterator:
        for seed, axes in enumerate(PROBE[1]):
            g = _data(PROBE[0], dtype, seed)
            try:
                yield (g, axes), call(g, axes), dtype
            except NotProvided:
                continue

    return _the_only(OPERATOR, _minus, probes())


# ---- Layers: one call of the port, which is the failing case


def _layer(port: Port, prop: Property, case: Any) -> str:
    if not hasattr(case, "kind"):
        return ""
    g = case.grad.value
    if g.ndim < 2 and "bias" not in case.kind and "scale" not in case.kind:
        return ""
    got = port.numpy(port.call("centralize_layer", case.kind, port.array(case.grad.fresh()), **case.words))
    dtype = g.dtype.name
    if not case.over:
        return BY_RANK if not _near(got, _minus(g, None), dtype) and _is_centralized(got, g, dtype) else ""
    if _near(got, _minus(g, None), dtype):
        return "These layers are not centralized."
    words = case.words["stored"].split()
    output = "The first axis is taken for the output, which it is not, or not alone."
    if words[0] != "out" and _near(got, _minus(g, tuple(range(1, g.ndim))), dtype):
        return output
    if words[-1] != "out" and _near(got, _minus(g, tuple(range(g.ndim - 1))), dtype):
        return output.replace("first", "last")
    return ""


BY_RANK = "What is no weight, or has a fan-in of one, is centralized all the same."


def _is_centralized(got: np.ndarray, g: np.ndarray, dtype: str) -> bool:
    ways = [tuple(range(1, g.ndim)), tuple(range(g.ndim - 1)), tuple(range(g.ndim)), (0,), (g.ndim - 1,)]
    return any(_near(got, _minus(g, way), dtype) for way in ways if way)


# ---- Rules: a step from a fresh state


def _adam_step(w, g, axes, lr, eps, decay, decoupled, *, inside=False, before=False, behind=False):
    """The first step of Adam with betas (0.5, 0.75), with one of the known mistakes."""
    x, raw = w.astype(float), g.astype(float)
    if behind:
        raw = _minus(raw, axes) + decay * x
    else:
        raw = _minus(raw + (0 if decoupled else decay) * x, axes)
    v = 0.25 * raw * raw
    if inside:
        scale = np.sqrt(v / 0.25 + eps)
    elif before:
        scale = (np.sqrt(v) + eps) / np.sqrt(0.25)
    else:
        scale = np.sqrt(v / 0.25) + eps
    return x - lr * (raw / scale + (decay * x if decoupled else 0))


EPS_INSIDE = "eps is inside the root: sqrt(v + eps) and not sqrt(v) + eps."
EPS_BEFORE = "eps is added to sqrt(v) before its bias correction, which makes it smaller by sqrt(1 - beta2^t)."
BEHIND = "L2 decay is added behind GC, so that it is not centralized."
NO_GC = "The gradient is not centralized in this rule."
RULE_FORMULAS: dict[str, dict[str, Any]] = {
    EPS_INSIDE: {"inside": True},
    EPS_BEFORE: {"before": True},
}


def _adam_formulas(decay: float) -> dict[str, Callable]:
    formulas: dict[str, Callable] = {text: partial(_adam_step, **how) for text, how in RULE_FORMULAS.items()}
    formulas[NO_GC] = lambda w, g, axes, *rest: _adam_step(w, g, None, *rest)
    if decay:
        formulas[BEHIND] = partial(_adam_step, behind=True)
    return formulas


def _adam(port: Port, prop: Property, case: Any) -> str:
    dtype, betas, lr = _dtype(port), (0.5, 0.75), 0.5

    def probes(decay: float) -> Iterator:
        for seed in range(2):
            w, g = _data((3, 4), dtype, seed), _data((3, 4), dtype, seed + 9)
            for eps in (0.5, 0.125):
                state = port.call("adam_init", port.array(w.copy()))
                options: dict[str, Any] = {"weight_decay": decay} if decay else {}
                a, b = port.array(w.copy()), port.array(g.copy())
                done = port.call("adam_update", a, b, state, lr=lr, axis=(1,), betas=betas, eps=eps, **options)
                yield (w, g, (1,), lr, eps, decay, False), port.numpy(done[0]), dtype

    return _of_rule(prop, probes, _adam_formulas, _adam_step)


def _of_rule(prop: Property, probes: Callable, formulas: Callable, right: Callable) -> str:
    for decay in (0.0, 0.125):
        try:
            found = _the_only(formulas(decay), right, probes(decay))
        except NotProvided:
            continue
        if found and (found != BEHIND or "decay" in prop.id or "options" in prop.id or "means" in prop.id):
            return found
    return ""


def _sgd_step(w, g, axes, lr, decay, *, behind=False):
    x, raw = w.astype(float), g.astype(float)
    if behind:
        return x - lr * (_minus(raw, axes) + decay * x)
    return x - lr * _minus(raw + decay * x, axes)


def _sgd_formulas(decay: float) -> dict[str, Callable]:
    formulas: dict[str, Callable] = {NO_GC: lambda w, g, axes, *rest: _sgd_step(w, g, None, *rest)}
    if decay:
        formulas[BEHIND] = partial(_sgd_step, behind=True)
    return formulas


def _sgdm(port: Port, prop: Property, case: Any) -> str:
    dtype, lr = _dtype(port), 0.5

    def probes(decay: float) -> Iterator:
        for seed in range(2):
            w, g = _data((3, 4), dtype, seed), _data((3, 4), dtype, seed + 9)
            state = port.call("sgdm_init", port.array(w.copy()))
            options: dict[str, Any] = {"weight_decay": decay} if decay else {}
            a, b = port.array(w.copy()), port.array(g.copy())
            done = port.call("sgdm_update", a, b, state, lr=lr, axis=(1,), **options)
            yield (w, g, (1,), lr, decay), port.numpy(done[0]), dtype

    return _of_rule(prop, probes, _sgd_formulas, _sgd_step)


def _optimizer(port: Port, prop: Property, case: Any) -> str:
    dtype, lr = _dtype(port), 0.5
    if "bias" in prop.id:
        g, w = _data((5,), dtype, 1), _data((5,), dtype, 2)
        got = _stepped(port, "sgd", w, g, None, {"lr": lr, "momentum": 0.0})
        return VECTORS if _near(got, _sgd_step(w, g, (0,), lr, 0.0), dtype) else ""

    def probes(decay: float) -> Iterator:
        for seed in range(2):
            w, g = _data((3, 4), dtype, seed), _data((3, 4), dtype, seed + 9)
            options: dict[str, Any] = {"weight_decay": decay} if decay else {}
            if case.kind == "sgd":
                got = _stepped(port, "sgd", w, g, (1,), {"lr": lr, "momentum": 0.0, **options})
                yield (w, g, (1,), lr, decay), got, dtype
                continue
            for eps in (0.5, 0.125):
                hyper = {"lr": lr, "betas": (0.5, 0.75), "eps": eps, **options}
                if case.kind == "adamw":
                    hyper = {"weight_decay": 0.0, **hyper}
                got = _stepped(port, case.kind, w, g, (1,), hyper)
                yield (w, g, (1,), lr, eps, decay, case.kind == "adamw"), got, dtype

    if case.kind == "sgd":
        return _of_rule(prop, probes, _sgd_formulas, _sgd_step)
    return _of_rule(prop, probes, _adam_formulas, _adam_step)


def _stepped(port: Port, kind: str, w: np.ndarray, g: np.ndarray, axes: Axes | None, hyper: dict) -> np.ndarray:
    made = port.call("optimizer", kind, {"fc.weight": port.array(w.copy())}, {"fc.weight": axes}, **hyper)
    port.attempt("step", made.step, {"fc.weight": port.array(g.copy())})
    return port.numpy(port.attempt("params", made.params)["fc.weight"])

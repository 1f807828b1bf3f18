"""Which vectors there are: each with an id that never changes, flags of what it seeks, inputs, and what must come out.

Inputs come from `random.Random` and exact arithmetic alone, and expected values from the oracle, so that every machine
writes the same bytes. To add a vector, give it a new id; to change one, leave it out and add another.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from . import oracle
from .bounds import PRECISIONS, Approx, decimals, working
from .chapters import layers
from .strategies import written

REAL = ("float16", "bfloat16", "float32", "float64")

FLAGS = {
    "Definition": "the formula itself",
    "WrongAxis": "the mean is over other axes than those given",
    "WholeTensor": "one mean is over the whole array",
    "SeveralAxes": "of several fan-in axes only one is averaged over, or one after the other with a rounding between",
    "NegativeAxis": "an axis counted from the end is read as another, or ignored",
    "AxisOrder": "the order in which axes are named matters",
    "NotAWeight": "a gradient without axes (a bias, a norm scale) is centralized all the same",
    "FanInOne": "a fan-in of one: zero must be left where the axis is given, and the gradient where the port chooses",
    "ZeroSize": "an empty array fails, warns, or changes its shape",
    "Rank": "arrays of some ranks are skipped",
    "LargeMean": "|mean| is much larger than the spread: a mean rounded to the array's own dtype leaves some of it",
    "NearlyConstant": "the result is far smaller than the elements: z-scoring or a rounded mean shows",
    "Cancelling": "terms of the sum cancel",
    "Uneven": "a few large elements rule the sum",
    "Huge": "elements near the largest number, whose sum is finite",
    "Tiny": "elements near the smallest normal number",
    "Subnormal": "elements below the smallest normal number",
    "LargeFanIn": "many elements: a sum kept in half precision overflows or stops growing",
    "NonFinite": "NaN or infinity reaches other weight vectors, or is hidden in its own",
    "Complex": "complex numbers are treated as pairs of real numbers, or lose their imaginary part",
    "Layout": "out_first is taken for out_last",
    "Layer": "the port chooses the wrong axes for a kind of layer",
    "Defaults": "a default is not that of the contract",
    "LearningRate": "the learning rate is not applied once",
    "Momentum": "momentum is ignored, or kept wrongly",
    "Dampening": "dampening is ignored, or applied to the first step alone",
    "Nesterov": "Nesterov's momentum is ignored, or looks ahead wrongly",
    "L2Decay": "decay is left out of the gradient, or added after GC",
    "DecoupledDecay": "decoupled decay is centralized, accumulated, or scaled by a bias correction",
    "UpdateGC": 'gc_on="update" is ignored, applied to the gradient, or leaves decay out',
    "Betas": "the two betas are swapped, or one is fixed",
    "BiasCorrection": "a bias correction is missing, off by one step, or in low precision",
    "Epsilon": "eps is inside the root, or scaled by the bias correction",
    "SecondMoment": "the second moment is of the raw gradient",
    "AMSGrad": "the maximum is ignored, or taken of something else",
}


@dataclass(frozen=True)
class Data:
    """An array: its values, exactly representable in `dtype`, as float64 or complex128."""

    dtype: str
    values: np.ndarray


@dataclass(frozen=True)
class Expected:
    """What must come out: within a bound of a value, or, without one, exactly `value`.

    `spoiled` marks elements that must not be finite, whatever else they are.
    """

    dtype: str
    value: np.ndarray
    bound: np.ndarray | None = None
    spoiled: np.ndarray | None = None


@dataclass(frozen=True)
class Vector:
    """One case: what the rule is given, in `inputs`, and what it must return."""

    rule: str
    id: str
    flags: tuple[str, ...]
    inputs: dict[str, Any]
    result: Any


def within(want: Approx, dtype: str) -> Expected:
    """The exact result as float64, and its bound, widened by what that rounding and the reader's subtraction lose."""
    value = np.array([float(x) for x in want.value.ravel()]).reshape(want.value.shape)
    lost = abs(want.value - decimals(value))
    bound = [_up(e) for e in (want.error + lost).ravel()]
    return Expected(dtype, value, np.array(bound).reshape(want.value.shape))


def _up(error: Any) -> float:
    return math.nextafter(float(error) * (1 + 2.0**-50), math.inf)


def to_dtype(values: np.ndarray, dtype: str) -> np.ndarray:
    """`values` rounded to `dtype`, as float64; NumPy does not know bfloat16, which is the upper half of a float32."""
    if dtype.startswith("complex"):
        return values.astype(dtype).astype(np.complex128)
    if dtype != "bfloat16":
        return values.astype(dtype).astype(np.float64)
    with np.errstate(all="ignore"):
        bits = values.astype(np.float32).view(np.uint32)
    upper = bits + 0x7FFF + ((bits >> 16) & 1)
    return np.where(np.isfinite(values), (upper & 0xFFFF0000).astype(np.uint32).view(np.float32), values).astype(float)


# ---- Numbers


def _source(id: str) -> random.Random:
    return random.Random(zlib.crc32(id.encode()))


def spread(id: str, shape: Sequence[int]) -> np.ndarray:
    """About normal: twelve uniform numbers less six. Only exact operations, unlike `random.gauss`."""
    source = _source(id)
    numbers = [sum(source.getrandbits(20) for _ in range(12)) * 2.0**-20 - 6 for _ in range(math.prod(shape))]
    return np.array(numbers, dtype=np.float64).reshape(shape)


def _small_integers(id: str, shape: Sequence[int]) -> np.ndarray:
    source = _source(id)
    return np.array([source.getrandbits(5) - 11.0 for _ in range(math.prod(shape))]).reshape(shape)


def _data(kind: str, id: str, shape: Sequence[int], dtype: str) -> Data:
    unit = float(PRECISIONS[dtype].unit)
    tiny = {"float16": 2.0**-14, "float64": 2.0**-1022}.get(dtype, 2.0**-126)
    largest = {"float16": 2.0**15, "float64": 2.0**1023}.get(dtype, 2.0**127)
    x = spread(id, shape)
    values = {
        "integers": _small_integers(id, shape),
        "normal": x,
        "large-mean": 1000 + x,
        "nearly-constant": 1 + 8 * unit * x,
        "cancelling": np.copysign(1000.0 if dtype == "float16" else 1e6, x) + x,
        "uneven": x**5,
        "huge": largest / (2**7 if dtype == "float16" else 2**14) * x,
        "tiny": tiny * 64 * x,
        "subnormal": tiny / 8 * x,
    }[kind]
    return Data(dtype, to_dtype(values, dtype))


HARD = {
    "large-mean": "LargeMean",
    "nearly-constant": "NearlyConstant",
    "cancelling": "Cancelling",
    "uneven": "Uneven",
    "huge": "Huge",
    "tiny": "Tiny",
    "subnormal": "Subnormal",
}


def _name(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _axes_name(axis: Sequence[int] | None) -> str:
    return "none" if axis is None else "axes" + ",".join(map(str, axis))


# ---- The operator


def _centralize(id: str, flags: tuple[str, ...], grad: Data, axis: Sequence[int] | None) -> Vector:
    inputs = {"grad": grad, "axis": None if axis is None else list(axis)}
    if axis is None:
        return Vector("centralize", f"centralize/{id}", flags, inputs, Expected(grad.dtype, grad.values))
    axes = oracle.axes_of(axis, grad.values.ndim) or ()
    bad = ~np.isfinite(grad.values)
    want = within(oracle.centralize(np.where(bad, 0, grad.values), axes, grad.dtype), grad.dtype)
    if bad.any():
        spoiled = np.broadcast_to(bad.any(axes, keepdims=True), bad.shape)
        want = Expected(want.dtype, want.value, want.bound, spoiled)
    return Vector("centralize", f"centralize/{id}", flags, inputs, want)


def operator_vectors() -> Iterator[Vector]:
    plain = (
        ((2, 3), (1,), ("Definition", "WrongAxis", "WholeTensor")),
        ((2, 3), (0,), ("Definition", "WrongAxis", "WholeTensor")),
        ((5, 7), (1,), ("Definition", "WrongAxis")),
        ((8, 3), (0,), ("Definition", "WrongAxis")),
        ((1, 4), (1,), ("WrongAxis",)),
        ((4, 1), (1,), ("FanInOne",)),
        ((1, 3), (0,), ("FanInOne",)),
        ((4, 3, 1, 1), (2, 3), ("FanInOne", "SeveralAxes")),
        ((5,), (0,), ("Rank",)),
        ((2, 3, 4), (1, 2), ("SeveralAxes", "WholeTensor")),
        ((2, 3, 4), (0, 1), ("SeveralAxes", "WrongAxis")),
        ((2, 3, 4), (0, 2), ("SeveralAxes", "WrongAxis")),
        ((2, 3, 4), (1,), ("WrongAxis", "Rank")),
        ((3, 2, 2, 5), (1, 2, 3), ("SeveralAxes", "Rank")),
        ((2, 5, 3, 2), (0, 1, 2), ("SeveralAxes", "Rank")),
        ((2, 1, 3, 2, 2), (1, 2, 3, 4), ("SeveralAxes", "Rank")),
        ((2, 1, 2, 1, 3, 2), (0, 1, 2, 3, 4), ("SeveralAxes", "Rank")),
        ((2, 3), (0, 1), ("SeveralAxes",)),
        ((2, 3), (-1,), ("NegativeAxis",)),
        ((2, 3, 4), (-3, -2), ("NegativeAxis", "SeveralAxes")),
        ((2, 3, 4), (2, 1), ("AxisOrder", "SeveralAxes")),
        ((3, 2, 2, 5), (3, -2, 1), ("AxisOrder", "NegativeAxis")),
    )
    for dtype in REAL:
        for shape, axis, flags in plain:
            id = f"{dtype}/{_name(shape)}/{_axes_name(axis)}/integers"
            yield _centralize(id, flags, _data("integers", id, shape, dtype), axis)
        for kind, flag in {"normal": "Definition", **HARD}.items():
            for shape, axis in (((3, 6), (1,)), ((6, 3), (0,)), ((3, 4, 2, 3), (1, 2, 3))):
                id = f"{dtype}/{_name(shape)}/{_axes_name(axis)}/{kind}"
                yield _centralize(id, (flag,), _data(kind, id, shape, dtype), axis)
        for kind in ("large-mean", "uneven"):
            id = f"{dtype}/2x400/axes1/{kind}"
            yield _centralize(id, ("LargeFanIn", HARD[kind]), _data(kind, id, (2, 400), dtype), (1,))
        for shape in ((), (3,), (2, 3), (2, 3, 4), (1, 4, 1, 1)):
            id = f"{dtype}/{_name(shape)}/none/integers"
            yield _centralize(id, ("NotAWeight",), _data("integers", id, shape, dtype), None)
        for shape, axis in (((0, 3), (1,)), ((3, 0), (1,)), ((2, 0, 3), (0, 1)), ((0, 2, 3), (1, 2))):
            id = f"{dtype}/{_name(shape)}/{_axes_name(axis)}/empty"
            yield _centralize(id, ("ZeroSize",), Data(dtype, np.zeros(shape)), axis)
        for name, bad in (("nan", math.nan), ("infinity", math.inf), ("minus-infinity", -math.inf)):
            for shape, axis in (((3, 4), (1,)), ((4, 3), (0,)), ((2, 3, 2), (1, 2))):
                id = f"{dtype}/{_name(shape)}/{_axes_name(axis)}/{name}"
                values = _data("integers", id, shape, dtype).values.copy()
                values[(1,) * values.ndim] = bad
                yield _centralize(id, ("NonFinite",), Data(dtype, values), axis)


def complex_vectors() -> Iterator[Vector]:
    for dtype, part in (("complex64", "float32"), ("complex128", "float64")):
        for shape, axis in (((2, 3), (1,)), ((3, 2), (0,)), ((2, 3, 4), (1, 2)), ((2, 2, 1, 3), (0, 1, 2))):
            id = f"{dtype}/{_name(shape)}/{_axes_name(axis)}/normal"
            values = to_dtype(spread(id, shape) + 1j * (100 + spread(id + "/imaginary", shape)), dtype)
            parts = [within(oracle.centralize(half, axis, part), part) for half in (np.real(values), np.imag(values))]
            real, imaginary = parts
            assert real.bound is not None and imaginary.bound is not None
            want = Expected(dtype, real.value + 1j * imaginary.value, real.bound + 1j * imaginary.bound)
            inputs = {"grad": Data(dtype, values), "axis": list(axis)}
            yield Vector("centralize", f"centralize/{id}", ("Complex",), inputs, want)


# ---- Which axes


def fan_in_vectors() -> Iterator[Vector]:
    shapes = (
        *((), (3,), (1,), (3, 4), (3, 1), (1, 3), (1, 1), (3, 1, 1), (1, 1, 3), (2, 3, 4), (4, 3, 5, 2), (5, 1, 1, 1)),
        *((1, 1, 1, 5), (2, 3, 1, 2, 2), (0, 3), (3, 0), (2, 1, 2, 1, 3, 2)),
    )
    for layout in ("out_first", "out_last"):
        for shape in shapes:
            axes = oracle.fan_in_axes(shape, layout)
            flags = ("Layout",) if axes else ("NotAWeight",) if len(shape) < 2 else ("FanInOne",)
            flags += ("ZeroSize",) if 0 in shape else ()
            inputs = {"shape": list(shape), "layout": layout}
            result = None if axes is None else list(axes)
            yield Vector("fan_in_axes", f"fan_in_axes/{layout}/{_name(shape)}", flags, inputs, result)


def layer_vectors() -> Iterator[Vector]:
    for row in layers.ROWS:
        for shape in row.shapes:
            for options in row.options or ({"groups": shape[0]},):
                words = {"stored": row.stored, **options}
                for dtype in ("float32", "float64"):
                    what = ",".join(f"{name}={value}" for name, value in options.items())
                    id = "/".join(filter(None, ("centralize_layer", row.id, _name(shape), what, dtype)))
                    grad = Data(dtype, _small_integers(id, shape))
                    inputs = {"kind": row.kind, **words, "grad": grad}
                    result = Expected(dtype, grad.values)
                    if row.over:
                        case = layers.Layer(row.kind, written(grad.values, dtype), words, row.over)
                        result = within(layers.expected(case), dtype)
                    flags = ("Layer",) if row.over else ("Layer", "NotAWeight")
                    yield Vector("centralize_layer", id, flags, inputs, result)


# ---- The updates


STORED = (((3, 4), (1,)), ((4, 3), (0,)), ((2, 3, 2), (1, 2)))
SGDM = {"momentum": 0.9, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0, "decoupled": False}
SGDM_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "defaults": ("Defaults", {"lr": 0.1}),
    "no-momentum": ("Momentum", {"lr": 0.125, "momentum": 0.0}),
    "momentum": ("Momentum", {"lr": 0.5, "momentum": 0.5}),
    "dampening": ("Dampening", {"lr": 0.5, "momentum": 0.875, "dampening": 0.5}),
    "algorithm-1": ("Dampening", {"lr": 0.5, "momentum": 0.875, "dampening": 0.875}),
    "nesterov": ("Nesterov", {"lr": 0.125, "momentum": 0.875, "nesterov": True}),
    "l2": ("L2Decay", {"lr": 0.125, "momentum": 0.875, "weight_decay": 0.125}),
    "decoupled": ("DecoupledDecay", {"lr": 0.125, "momentum": 0.875, "weight_decay": 0.125, "decoupled": True}),
    "update": ("UpdateGC", {"lr": 0.125, "momentum": 0.875, "gc_on": "update"}),
    "update-l2": ("UpdateGC", {"lr": 0.125, "momentum": 0.875, "weight_decay": 0.125, "gc_on": "update"}),
    "update-decoupled": ("UpdateGC", {"lr": 0.125, "weight_decay": 0.125, "decoupled": True, "gc_on": "update"}),
    "nesterov-l2": ("Nesterov", {"lr": 0.1, "momentum": 0.5, "nesterov": True, "weight_decay": 0.01}),
    "learning-rate": ("LearningRate", {"lr": 0.0078125, "momentum": 0.0}),
    "zero-rate": ("LearningRate", {"lr": 0.0}),
    "dampening-l2": ("Dampening", {"lr": 0.125, "momentum": 0.5, "dampening": 0.5, "weight_decay": 0.125}),
}
ADAM = {
    **{"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "decoupled": False},
    **{"amsgrad": False, "gc_on": "gradient"},
}
EXACT = (0.875, 0.9990234375)  # exact in every dtype, and so is 1 - beta
ADAM_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "defaults": ("Defaults", {}),
    "plain": ("SecondMoment", {"lr": 0.125, "betas": EXACT}),
    "betas": ("Betas", {"lr": 0.125, "betas": (0.5, 0.75)}),
    "no-betas": ("Betas", {"lr": 0.125, "betas": (0.0, 0.0)}),
    "bias": ("BiasCorrection", {"lr": 0.5, "betas": (0.96875, 0.99609375)}),
    "eps": ("Epsilon", {"lr": 0.5, "betas": EXACT, "eps": 0.5}),
    "l2": ("L2Decay", {"lr": 0.125, "betas": EXACT, "weight_decay": 0.125}),
    "decoupled": ("DecoupledDecay", {"lr": 0.125, "betas": EXACT, "weight_decay": 0.125, "decoupled": True}),
    "update": ("UpdateGC", {"lr": 0.125, "betas": EXACT, "gc_on": "update"}),
    "update-l2": ("UpdateGC", {"lr": 0.125, "betas": EXACT, "weight_decay": 0.125, "gc_on": "update"}),
    "update-decoupled": (
        "UpdateGC",
        {"lr": 0.125, "betas": EXACT, "weight_decay": 0.125, "decoupled": True, "gc_on": "update"},
    ),
    "amsgrad": ("AMSGrad", {"lr": 0.125, "betas": (0.5, 0.5), "amsgrad": True}),
    "amsgrad-l2": ("AMSGrad", {"lr": 0.125, "betas": (0.5, 0.75), "weight_decay": 0.125, "amsgrad": True}),
    "learning-rate": ("LearningRate", {"lr": 0.0078125, "betas": EXACT}),
    "zero-rate": ("LearningRate", {"lr": 0.0, "betas": EXACT}),
    "amsgrad-eps": (
        "AMSGrad",
        {"lr": 0.125, "betas": (0.5, 0.5), "eps": 0.5, "weight_decay": 0.125, "decoupled": True, "amsgrad": True},
    ),
}
STEPS = 3


def _inputs(id: str, shape: Sequence[int], dtype: str, kind: str) -> tuple[Data, list[Data]]:
    """A weight, and gradients that shrink, so that the maximum of AMSGrad lies in the past."""
    grads = [_data(kind, f"{id}/grad{step}", shape, dtype) for step in range(STEPS)]
    if kind == "integers":
        grads = [Data(dtype, grad.values * 4.0**-step) for step, grad in enumerate(grads)]
    return _data("integers", f"{id}/w", shape, dtype), grads


def _rule_cases(cases: dict) -> Iterator[tuple[str, str, str, tuple[int, ...], tuple[int, ...] | None, str, dict]]:
    """(id, flag, dtype, shape, axis, kind, options)."""
    for dtype in REAL:
        for name, (flag, options) in cases.items():
            for shape, axis in STORED:
                yield f"{dtype}/{_name(shape)}/{_axes_name(axis)}/{name}", flag, dtype, shape, axis, "integers", options
            yield f"{dtype}/3/none/{name}", "NotAWeight", dtype, (3,), None, "integers", options
        options = {"lr": 0.125, "weight_decay": 0.125}
        yield f"{dtype}/2x3/none/matrix", "NotAWeight", dtype, (2, 3), None, "integers", options
        yield f"{dtype}/3x4/axes1/large-mean", "LargeMean", dtype, (3, 4), (1,), "large-mean", options
        yield f"{dtype}/3x0/axes1/empty", "ZeroSize", dtype, (3, 0), (1,), "integers", options
        yield f"{dtype}/3x1/axes1/fan-in-one", "FanInOne", dtype, (3, 1), (1,), "integers", options


def sgdm_vectors() -> Iterator[Vector]:
    for name, flag, dtype, shape, axis, kind, options in _rule_cases(SGDM_CASES):
        id = f"sgdm/{name}"
        options = {**SGDM, "gc_on": "gradient", **options}
        w, grads = _inputs(id, shape, dtype, kind)
        steps = []
        weight, m = decimal(w), Approx.exact(np.zeros(shape), working(dtype))
        for grad in grads:
            weight, m = oracle.sgdm(weight, decimal(grad), m, dtype, axis=axis, **options)
            steps.append({"w": within(weight, dtype), "momentum_buffer": within(m, dtype)})
        inputs = {"w": w, "grads": grads, "axis": None if axis is None else list(axis), "options": options}
        yield Vector("sgdm", id, (flag,), inputs, steps)


def adam_vectors() -> Iterator[Vector]:
    for name, flag, dtype, shape, axis, kind, options in _rule_cases(ADAM_CASES):
        id = f"adam/{name}"
        w, grads = _inputs(id, shape, dtype, kind)
        yield _adam(id, flag, w, grads, axis, {**ADAM, **options})
    for dtype in ("float32", "float64"):
        # From zero weights with lr = 1 the bias corrections are seen at full precision.
        id, options = f"adam/{dtype}/2x3/none/bias-precision", {"lr": 1.0, "betas": (0.984375, 1 - 2.0**-13)}
        _, grads = _inputs(id, (2, 3), dtype, "normal")
        yield _adam(id, "BiasCorrection", Data(dtype, np.zeros((2, 3))), grads[:1], None, {**ADAM, **options})


def _adam(id: str, flag: str, w: Data, grads: list[Data], axis: Sequence[int] | None, options: dict) -> Vector:
    numbers = {name: value for name, value in options.items() if name != "amsgrad"}
    zero = Approx.exact(np.zeros(w.values.shape), working(w.dtype))
    weight, m, v, largest = decimal(w), zero, zero, zero if options["amsgrad"] else None
    steps = []
    for step, grad in enumerate(grads):
        weight, m, v, largest = oracle.adam(
            weight, decimal(grad), step, m, v, largest, w.dtype, axis=None if axis is None else list(axis), **numbers
        )
        results = {"w": weight, "exp_avg": m, "exp_avg_sq": v}
        steps.append({name: within(value, w.dtype) for name, value in results.items()})
        steps[-1]["max_exp_avg_sq"] = None if largest is None else within(largest, w.dtype)
    inputs = {"w": w, "grads": grads, "axis": None if axis is None else list(axis), "options": options}
    return Vector("adam", id, (flag,), inputs, steps)


def decimal(data: Data) -> Approx:
    return Approx.exact(data.values, working(data.dtype))


@cache
def vectors() -> tuple[Vector, ...]:
    """All of them, in the order in which they are written."""
    kinds = (operator_vectors, complex_vectors, fan_in_vectors, layer_vectors, sgdm_vectors, adam_vectors)
    return tuple(vector for some in kinds for vector in some())

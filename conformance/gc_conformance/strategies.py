"""What the suite feeds to a port: Hypothesis strategies for arrays, axes, memory layouts and hyperparameters.

Every array is drawn as a short Python expression and built by evaluating it, so that what a failure prints is exactly
what was run. Small arrays are drawn element by element and shrink to small numbers; the others come from a seed.
Shapes are asymmetric, so that no wrong axis can hide, and few, so that ports that compile for every shape stay quick.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from types import CodeType
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from .bounds import PRECISIONS
from .oracle import Axis
from .port import Port

MATRICES = ((2, 3), (3, 2), (1, 4), (4, 1), (5, 7), (8, 3))
TENSORS = ((2, 3, 4), (4, 1, 3), (2, 3, 1, 2), (3, 2, 2, 5), (2, 1, 3, 2, 2))
SHAPES = MATRICES + TENSORS
NUMBERS = (1.0, 0.0, 2.0, -1.0, 3.0, 0.5, -2.5, 100.0, -1000.0)
SEEDS = st.sampled_from(range(1000))
BOOLEANS = st.booleans()

Draw = Callable[[SearchStrategy], Any]  # what Hypothesis hands to a composite strategy


@cache
def _below(count: int) -> SearchStrategy[int]:
    return st.sampled_from(range(count))


def pick(draw: Draw, choices: Sequence[Any]) -> Any:
    """One of the choices. Hypothesis prepares every strategy that it has not seen: these are few, and kept."""
    return choices[draw(_below(len(choices)))]


@lru_cache(10_000)
def _compiled(expression: str) -> CodeType:
    return compile(expression, "an array", "eval")


@dataclass(frozen=True)
class Array:
    """An array as the expression that makes it. `value` is for reading; `fresh()` makes another for a port."""

    expression: str

    def fresh(self) -> np.ndarray:
        if "bfloat16" in self.expression:
            import ml_dtypes  # noqa: F401  (teaches NumPy the name)
        return eval(_compiled(self.expression), {"np": np})

    @cached_property
    def value(self) -> np.ndarray:
        return self.fresh()

    @property
    def dtype(self) -> str:
        return self.value.dtype.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    def laid_out(self, layout: str) -> Array:
        return Array(LAYOUTS[layout].format(self.expression))


# The same values, another way in memory.
LAYOUTS = {
    "C order": "{}",
    "Fortran order": "np.asfortranarray({})",
    "every second of the first axis": "np.repeat({}, 2, 0)[::2]",
    "every second of the last axis": "np.repeat({}, 2, -1)[..., ::2]",
    "reversed first axis": "np.flip({}, 0).copy()[::-1]",
    "reversed last axis": "np.flip({}, -1).copy()[..., ::-1]",
    "axes swapped": "np.swapaxes(np.swapaxes({}, 0, -1).copy(), 0, -1)",
    "part of a larger array": "np.pad({0}, 1, constant_values=7)[tuple([slice(1, -1)] * {0}.ndim)]",
    "read-only": "np.broadcast_to({0}, {0}.shape)",
}


def written(values: np.ndarray | list, dtype: str) -> Array:
    """An array written out in full."""
    return Array(f"np.array({np.asarray(values, dtype=np.float64).tolist()}, {dtype!r})")


def normal(shape: Sequence[int], dtype: str, seed: int, formula: str = "x") -> Array:
    """`formula` of x, where x is standard normal from a seed."""
    x = f"np.random.default_rng({seed}).standard_normal({tuple(shape)})"
    return Array(f"({formula.replace('x', x)}).astype({dtype!r})")


def counting(shape: Sequence[int], dtype: str, start: int = 0) -> Array:
    """Small whole numbers."""
    return Array(f"((np.arange({math.prod(shape)}) * 3 + {start}) % 7 - 1).reshape({tuple(shape)}).astype({dtype!r})")


def formulas(dtype: str) -> dict[str, str]:
    """The kinds of data, by what is hard about them; sums of 1000 elements stay finite."""
    unit, tiny = float(PRECISIONS[dtype].unit), float(2.0 ** {"float64": -1022, "float16": -14}.get(dtype, -126))
    largest = {"float16": 65504.0, "float64": 2.0**1023}.get(dtype, 2.0**127)
    return {
        "normal": "x",
        "large mean": "1000 + x",
        "nearly constant": f"1 + {4 * unit!r} * x",
        "huge": f"{largest / (16 if dtype == 'float16' else 2**14)!r} * x",
        "tiny": f"{tiny * 2**6!r} * x",
        "subnormal": f"{tiny / 2**3!r} * x",
        "cancelling": "1000 * np.sign(x) + x" if dtype == "float16" else "1e6 * np.sign(x) + x",
        "uneven": "x**5",
    }


KINDS = tuple(formulas("float32"))
EASY = ("normal", "large mean", "uneven")  # squares of these neither overflow nor underflow


def drawn_array(draw: Draw, dtype: str, shape: Sequence[int], kinds: Sequence[str] = EASY) -> Array:
    """Small whole numbers, numbers drawn one by one, or a formula and a seed.

    Whatever the shape, the simplest choice takes no further draw: so a large case can shrink to one of a small shape.
    """
    count = math.prod(shape)
    simple = ("counting", *(("listed",) if count <= 12 else ())) if "normal" in kinds else ()
    kind = pick(draw, (*simple, *kinds))
    if kind == "counting":
        return counting(shape, dtype) if count > 12 else written(counting(shape, dtype).value, dtype)
    if kind == "listed":
        numbers = draw(st.lists(st.sampled_from(NUMBERS), min_size=count, max_size=count))
        return written(np.reshape(numbers, shape), dtype)
    return normal(shape, dtype, draw(SEEDS), formulas(dtype)[kind])


def subsets(ndim: int, least: int = 1) -> list[tuple[int, ...]]:
    """Every set of at least `least` axes, the two that layouts make first."""
    usual = [tuple(range(1, ndim)), tuple(range(ndim - 1))]
    every = [s for n in range(least, ndim + 1) for s in itertools.combinations(range(ndim), n)]
    return list(dict.fromkeys([s for s in usual if len(s) >= least] + every))


def drawn_axes(draw: Draw, ndim: int, choices: Iterable[tuple[int, ...]] | None = None) -> Axis:
    """Axes as a port may be given them: an int or a tuple, in any order, counted from either end."""
    chosen = list(pick(draw, list(choices or subsets(ndim))))
    if len(chosen) == 1 and draw(BOOLEANS):
        chosen = chosen[0]
        return chosen - ndim if draw(BOOLEANS) else chosen
    if draw(BOOLEANS):
        chosen = chosen[::-1]
    return tuple(a - ndim if draw(BOOLEANS) else a for a in chosen)


def imports(port: Port, *expressions: str) -> str:
    """The first line of a reproduction: what these expressions and the port need."""
    needed = "numpy as np, ml_dtypes" if any("bfloat16" in e for e in expressions) else "numpy as np"
    return f"import {needed}; {port.imports}"


def loop(over: str, step: str, show: str) -> str:
    """The last line of a reproduction with steps."""
    around = show if "STEP" in show else f"STEP; print({show})"
    return f"for {over}: {around.replace('STEP', step)}"


def comment(note: str) -> str:
    """The note behind a line of code, where there is one."""
    return f"  # {' '.join(note.split())}" if note else ""


@dataclass(frozen=True)
class Gradient:
    """A call of `centralize`, with a second array of the same shape where a property needs one."""

    grad: Array
    axis: Axis
    other: Array | None = None

    def text(self) -> str:
        other = f", h = {self.other.expression}" if self.other else ""
        return f"centralize(grad, {self.axis}), grad = {self.grad.expression}{other}"

    def reproduce(self, port: Port, show: str | None = None, note: str = "") -> str:
        arrays = [self.grad, *([self.other] if self.other else [])]
        names = "grad, h" if self.other else "grad"
        values = ", ".join(port.spell_array(a.expression) for a in arrays)
        shown = (show or "centralize(grad, axis)").replace("centralize(", f"{port.spell('centralize')}(")
        return "\n".join(
            [
                imports(port, *(a.expression for a in arrays)),
                f"{names} = {values}; axis = {self.axis}",
                f"print({shown}){comment(note)}",
            ]
        )


@st.composite
def _gradients(draw, dtypes, shapes, kinds, least, layouts, pair, choose, none) -> Gradient:
    dtype, shape = pick(draw, dtypes), pick(draw, shapes)
    layout = pick(draw, layouts)
    choices = [c for c in subsets(len(shape), least) if choose is None or choose(shape, c)]
    axis = None if none and pick(draw, (False, False, False, True)) else drawn_axes(draw, len(shape), choices)
    grad = drawn_array(draw, dtype, shape, kinds).laid_out(layout)
    return Gradient(grad, axis, drawn_array(draw, dtype, shape, kinds) if pair else None)


def gradients(
    *,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    kinds: Sequence[str] = EASY,
    least: int = 1,
    layouts: Sequence[str] = ("C order",),
    dtypes: Sequence[str] | None = None,
    pair: bool = False,
    choose: Callable[[tuple[int, ...], tuple[int, ...]], bool] | None = None,
    none: bool = False,
) -> Callable[[Port], SearchStrategy]:
    """Calls of `centralize`, in the dtypes that the port claims.

    Args:
        shapes, kinds, layouts: to draw from.
        least: axes at least.
        dtypes: only these of the claimed ones; when it claims none of them, the case is None.
        pair: draw a second array too.
        choose: keeps the pairs (shape, sorted axes) for which it is true.
        none: now and then without axes.
    """

    def cases(port: Port) -> SearchStrategy:
        claimed = [d for d in port.real_dtypes if dtypes is None or d in dtypes]
        if not claimed:
            return st.none()
        return _gradients(claimed, list(shapes), list(kinds), least, list(layouts), pair, choose, none)

    return cases


@dataclass(frozen=True)
class Steps:
    """Some steps of a pure rule: `rule` "sgdm" or "adam"."""

    rule: str
    w: Array
    grads: tuple[Array, ...]
    axis: Axis
    hyper: dict[str, Any] = field(default_factory=dict)

    @property
    def init_options(self) -> dict[str, Any]:
        return {"amsgrad": True} if self.hyper.get("amsgrad") else {}

    def _options(self) -> str:
        return "".join(f", {k}={v!r}" for k, v in {"axis": self.axis, **self.hyper}.items())

    def text(self) -> str:
        grads = "; ".join(g.expression for g in self.grads)
        return f"{self.rule}_update(w, grad, state{self._options()}), w = {self.w.expression}, each grad of {grads}"

    def reproduce(self, port: Port, show: str | None = None, note: str = "") -> str:
        init = "".join(f", {k}={v!r}" for k, v in self.init_options.items())
        grads = ", ".join(port.spell_array(g.expression) for g in self.grads)
        w = port.spell_array(self.w.expression)
        step = f"w, state = {port.spell(f'{self.rule}_update')}(w, g, state{self._options()})"
        return "\n".join(
            [
                imports(port, self.w.expression, *(g.expression for g in self.grads)),
                f"w = {w}; grads = [{grads}]; state = {port.spell(f'{self.rule}_init')}(w{init})",
                loop("g in grads", step, show or "w, state") + comment(note),
            ]
        )


# Powers of two less than one: exact in every dtype, and so is 1 - beta.
BETAS = ((0.875, 0.9990234375), (0.5, 0.875), (0.96875, 0.99609375))
SGDM_OPTIONS: dict[str, Sequence[Any]] = {
    "momentum": (0.875, 0.5, 0.0),
    "dampening": (0.0, 0.5, 0.875),
    "nesterov": (False, True),
    "weight_decay": (0.0, 0.125, 0.01),
    "decoupled": (False, True),
    "gc_on": ("gradient", "update"),
}
ADAM_OPTIONS: dict[str, Sequence[Any]] = {
    "betas": BETAS,
    "eps": (1e-8, 1e-3, 0.5),
    "weight_decay": (0.0, 0.125, 0.01),
    "decoupled": (False, True),
    "amsgrad": (False, True),
    "gc_on": ("gradient", "update"),
}
RATES = (0.5, 0.125, 0.1, 0.001)
DEFAULTS: dict[str, dict[str, Any]] = {
    "sgdm": {
        "momentum": 0.9,
        "dampening": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
        "decoupled": False,
        "gc_on": "gradient",
    },
    "adam": {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "decoupled": False,
        "amsgrad": False,
        "gc_on": "gradient",
    },
}


def legal(rule: str, hyper: dict[str, Any]) -> dict[str, Any]:
    """`hyper` without the options that have their default, and without Nesterov where it is not allowed."""
    hyper = dict(hyper)
    if hyper.get("nesterov") and (hyper.get("dampening") or not hyper.get("momentum", 0.9)):
        del hyper["nesterov"]
    defaults = DEFAULTS[rule]
    return {k: v for k, v in hyper.items() if k not in defaults or v != defaults[k]}


@st.composite
def _steps(draw, rule, dtypes, shapes, kinds, count, fixed, varied, layouts, axis) -> Steps:
    dtype, shape = pick(draw, dtypes), pick(draw, shapes)
    chosen = drawn_axes(draw, len(shape), subsets(len(shape))[:2]) if axis == "fan-in" else axis
    number = pick(draw, range(count[0], count[1] + 1))
    w = drawn_array(draw, dtype, shape).laid_out(pick(draw, layouts))
    grads = tuple(drawn_array(draw, dtype, shape, kinds).laid_out(pick(draw, layouts)) for _ in range(number))
    hyper = {"lr": pick(draw, RATES), **fixed}
    # One draw for all options: of several, Hypothesis leaves most at their first value.
    names = [name for name in varied if name not in fixed]
    hyper |= zip(names, pick(draw, list(itertools.product(*(varied[name] for name in names)))), strict=True)
    return Steps(rule, w, grads, chosen, legal(rule, hyper))


def steps(
    rule: str,
    *,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    kinds: Sequence[str] = EASY,
    dtypes: Sequence[str] | None = None,
    count: tuple[int, int] = (1, 3),
    vary: Sequence[str] = (),
    layouts: Sequence[str] = ("C order",),
    axis: Axis | str = "fan-in",
    **fixed: Any,
) -> Callable[[Port], SearchStrategy]:
    """Some steps of "sgdm" or "adam".

    Args:
        shapes, kinds, dtypes, layouts: as in `gradients`.
        count: how many steps, least and most.
        vary: names of the options to draw; the others keep their defaults.
        axis: "fan-in" for either layout's, or the axes.
        fixed: options with a value of their own.
    """
    options = SGDM_OPTIONS if rule == "sgdm" else ADAM_OPTIONS
    varied = {name: options[name] for name in vary}
    if rule == "adam" and "betas" not in fixed:
        varied.setdefault("betas", BETAS)

    def cases(port: Port) -> SearchStrategy:
        claimed = [d for d in port.real_dtypes if dtypes is None or d in dtypes]
        if not claimed:
            return st.none()
        return _steps(rule, claimed, list(shapes), list(kinds), count, fixed, varied, list(layouts), axis)

    return cases


@dataclass(frozen=True)
class Training:
    """Some steps of `optimizer(kind, params, axes, **hyper)`."""

    kind: str
    params: dict[str, Array]
    grads: tuple[dict[str, Array], ...]
    axes: dict[str, Axis]
    hyper: dict[str, Any]

    def _hyper(self) -> str:
        return "".join(f", {name}={value!r}" for name, value in self.hyper.items())

    @staticmethod
    def _spelled(arrays: dict[str, Array], port: Port) -> str:
        return "{" + ", ".join(f"{name!r}: {port.spell_array(a.expression)}" for name, a in arrays.items()) + "}"

    def text(self) -> str:
        params = ", ".join(f"{name} = {a.expression}" for name, a in self.params.items())
        grads = "; ".join(", ".join(f"{name}: {a.expression}" for name, a in g.items()) for g in self.grads)
        return f"optimizer({self.kind!r}, params, {self.axes}{self._hyper()}), {params}, then step with each of {grads}"

    def reproduce(self, port: Port, show: str | None = None, note: str = "") -> str:
        grads = ", ".join(self._spelled(g, port) for g in self.grads)
        make = f"{port.spell('optimizer')}({self.kind!r}, params, {self.axes}{self._hyper()})"
        show = show or "optimizer.params()"
        optimizers = f"optimizer = {make}" if "other." not in show else f"optimizer = {make}; other = {make}"
        return "\n".join(
            [
                imports(port, *(a.expression for a in self.params.values())),
                f"params = {self._spelled(self.params, port)}; {optimizers}",
                loop(f"grads in [{grads}]", "optimizer.step(grads)", show) + comment(note),
            ]
        )


# What is always given, because the defaults of optimizers differ.
GIVEN: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.125, "momentum": 0.875},
    "adam": {"lr": 0.125, "betas": (0.875, 0.9990234375), "eps": 1e-8},
    "adamw": {"lr": 0.125, "betas": (0.875, 0.9990234375), "eps": 1e-8, "weight_decay": 0.125},
}


# Which parameters there are; the simplest first.
FC, CONV, BIAS = "fc.weight", "conv.weight", "fc.bias"


@st.composite
def _trainings(draw, port, kind, count, kinds, alike, bias, hyper) -> Training:
    dtypes = [d for d in port.real_dtypes if d in ("float32", "float64")] or list(port.real_dtypes)
    dtype, number = pick(draw, dtypes), pick(draw, range(count[0], count[1] + 1))
    names = (CONV, FC) if alike or pick(draw, (False, True, True)) else (FC,)
    shapes = {name: pick(draw, MATRICES[:2] + TENSORS[:3]) for name in names}
    if alike:
        shapes[CONV] = shapes[FC]
    chosen = {name: drawn_axes(draw, len(shape), subsets(len(shape))[:2]) for name, shape in shapes.items()}
    if bias:
        shapes[BIAS], chosen[BIAS] = (3,), None
    # Libraries without momentum are judged, too, by what is not about it.
    momentum = {"momentum": pick(draw, (0.0, 0.875))} if kind == "sgd" and "momentum" not in hyper else {}
    data, seed = pick(draw, ("counting", *kinds)), draw(SEEDS)

    def several(step: int) -> dict[str, Array]:
        if data == "counting" and "normal" in kinds:
            return {name: counting(shape, dtype, step + i) for i, (name, shape) in enumerate(shapes.items())}
        formula = formulas(dtype)[kinds[0] if data == "counting" else data]
        return {
            name: normal(shape, dtype, seed + 3 * step + i, formula) for i, (name, shape) in enumerate(shapes.items())
        }

    grads = tuple(several(n + 1) for n in range(number))
    return Training(kind, several(0), grads, chosen, {**GIVEN[kind], **momentum, **hyper})


def trainings(
    *kinds_of: str,
    count: tuple[int, int] = (1, 3),
    kinds: Sequence[str] = ("normal",),
    alike: bool = False,
    bias: bool = False,
    **hyper: Any,
) -> Callable[[Port], SearchStrategy]:
    """Some steps of an optimizer of one of these kinds over one or two weights.

    Args:
        count, kinds: as in `steps`.
        alike: two weights of the same shape.
        bias: and a parameter that has no fan-in axes.
        hyper: options of their own value; the rest is `GIVEN`.
    """

    def cases(port: Port) -> SearchStrategy:
        made = (_trainings(port, kind, count, list(kinds), alike, bias, hyper) for kind in kinds_of)
        return st.one_of(*made) if len(kinds_of) > 1 else next(made)

    return cases

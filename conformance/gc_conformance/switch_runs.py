"""Runs of an optimizer with a switch for GC, and how two runs are compared when nobody has a formula for the optimizer.

Gradients are small whole numbers, times powers of two, and every mean of them is exact in each dtype and in any order
of summation. So a right port sees the very bits of Phi(g) that the suite computes, and two runs that must agree agree
bit for bit, wherever an optimizer computes the same thing twice in the same way.

Where they do not (compiled code may add in another order), the optimizer itself says how far two honest runs may be
apart: the reference run is repeated with its weights and gradients moved by the error that an honest GC may make,
(M + 4)u(|g| + mean|g|) [bounds.py], in four random directions. The bound is eight times the largest distance that this
makes, and eight roundoffs of the numbers themselves for each step. A step that hangs on a tie is then not judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .port import NotProvided, Port
from .result import Violation
from .strategies import Array, comment, imports

DIRECTIONS, FACTOR = 4, 8
BEND, LIMIT = 1024, 64  # how steeply gradients follow the weights, and how far

Change = Callable[[str, np.ndarray, np.ndarray], np.ndarray]  # name, gradient and weight, in float64 -> gradient


@dataclass(frozen=True)
class Layer:
    """What a parameter is: the words of the chapter `layers`, and over which axes of which view GC averages it."""

    kind: str
    stored: str
    over: tuple[int, ...] = ()  # empty: no GC
    view: tuple[int, ...] = ()  # the shape in which `over` counts, where it is not the parameter's own
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> dict[str, Any]:
        return {"kind": self.kind, "stored": self.stored, **self.options}

    def centralized(self, g: np.ndarray) -> np.ndarray:
        return g - self.mean(g)

    def mean(self, g: np.ndarray) -> np.ndarray:
        """The mean of each weight vector, in the shape of g; zero where there is no GC."""
        if not self.over:
            return np.zeros_like(g)
        seen = g.reshape(self.view or g.shape)
        count = math.prod(seen.shape[a] for a in self.over)
        return np.broadcast_to(seen.sum(self.over, keepdims=True) / count, seen.shape).reshape(g.shape)

    def fan_in(self, shape: tuple[int, ...]) -> int:
        return math.prod((self.view or shape)[a] for a in self.over)


@dataclass(frozen=True)
class Case:
    """Some parameters, their gradients in each step, and the options of the optimizer.

    bends: the gradient is that of the step plus round(1024 (w - w0)), a function of the weights, as for a closure.
    """

    layers: dict[str, Layer]
    weights: dict[str, Array]
    grads: tuple[dict[str, Array], ...]
    options: dict[str, Any] = field(default_factory=dict)
    bends: bool = False
    shift: float = 0.0  # of the grid that `bends` rounds to
    place: str = "gradient"

    def gradient(self, number: int, name: str, w: np.ndarray) -> np.ndarray:
        g = self.grads[number][name].value.astype(np.float64)
        if not self.bends:
            return g
        moved = np.round((w - self.weights[name].value.astype(np.float64)) * BEND + self.shift)
        return g + unit(self.layers[name], g.shape) * np.clip(moved, -LIMIT, LIMIT)

    def phi(self, name: str, g: np.ndarray, w: np.ndarray) -> np.ndarray:
        return self.layers[name].centralized(g)

    def centralized(self) -> set[str]:
        return {name for name, layer in self.layers.items() if layer.over}

    def text(self) -> str:
        weights = ", ".join(f"{n} ({self.layers[n].kind}) = {a.expression}" for n, a in self.weights.items())
        grads = "; ".join(", ".join(f"{n}: {a.expression}" for n, a in g.items()) for g in self.grads)
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        follow = ", plus round(1024 (w - w0))" if self.bends else ""
        return f"switched(params, layers, gc{options}), {weights}, then a step with each gradient of {grads}{follow}"

    def reproduce(self, port: Port, show: str | None = None, note: str = "") -> str:
        """Ten lines at most, which run without the suite."""
        bent = " + bend(n, {0})" if self.bends else ""

        def changed(w: str) -> str:
            return f"change(n, g[n]{bent.format(w)}, {w}).astype(g[n].dtype)"

        head, build, step, read, state = port.spelling(self.options, changed) or self._plainly(port, changed)
        return "\n".join(
            [
                f"import numpy as np; {head}",
                f"weights = {self._spelled(self.weights)}",
                f"steps = [{', '.join(map(self._spelled, self.grads))}]",
                *self.helpers(),
                "def run(gc, change=lambda n, g, w: g, names=weights, state=False):",
                f"    {build}; seen = []",
                f"    for g in steps: {step}; seen.append({read})",
                f"    return {state} if state else seen",
                f"print({show or SHOW}){comment(note)}",
            ]
        )

    def _plainly(self, port: Port, changed: Callable[[str], str]) -> tuple[str, str, str, str, str]:
        """The head, and how an optimizer is built, steps, is read, and its state, with the port's own functions."""
        to = port.spell_array("{}")
        back = "np.asarray(port.to_numpy({}))" if to != "{}" else "np.asarray({})"
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        layers = {name: layer.words for name, layer in self.layers.items()}
        gradients = to.format(changed(back.format("now[n]")))
        return (
            imports(port).removeprefix("import numpy as np; "),
            f"params = {{n: {to.format('weights[n].copy()')} for n in names}}; layers = {layers}; "
            f"optimizer = port.switched(params, {{n: layers[n] for n in names}}, gc{options})",
            f"optimizer.step(lambda now: {{n: {gradients} for n in now}})",
            f"{{n: {back.format('a')} for n, a in optimizer.params().items()}}",
            f"{{n: {back.format('a')} for n, a in optimizer.state().items()}}",
        )

    @staticmethod
    def _spelled(arrays: dict[str, Array]) -> str:
        return "{" + ", ".join(f"{n!r}: {a.expression}" for n, a in arrays.items()) + "}"

    def helpers(self) -> Iterator[str]:
        """phi in one line, and where it is needed how the gradients follow the weights."""
        axes = {n: layer.over for n, layer in self.layers.items()}
        if any(layer.view for layer in self.layers.values()):
            views = {n: layer.view or self.weights[n].shape for n, layer in self.layers.items()}
            mean = "g.reshape(views[n]).mean(axes[n], keepdims=True)"
            yield (
                f"axes = {axes}; views = {views}; "
                f"phi = lambda n, g, w: (g.reshape(views[n]) - {mean}).reshape(g.shape) if axes[n] else g"
            )
        else:
            yield f"axes = {axes}; phi = lambda n, g, w: g - g.mean(axes[n], keepdims=True) if axes[n] else g"
        if self.bends:
            units = {n: unit(layer, self.weights[n].shape) for n, layer in self.layers.items()}
            moved = f"np.round((w - weights[n]) * {BEND}{f' + {self.shift}' if self.shift else ''})"
            yield f"bend = lambda n, w: {units}[n] * np.clip({moved}, -{LIMIT}, {LIMIT})"


SHOW = 'run("gradient"), run("off", phi)'


def unit(layer: Layer, shape: tuple[int, ...]) -> int:
    """What gradients are multiples of, so that their means are exact: 1, where the fan-in is a power of two."""
    fan_in = layer.fan_in(shape)
    return 1 if fan_in & (fan_in - 1) == 0 else fan_in


@dataclass(frozen=True)
class Outcome:
    """The parameters after each step, and the state after the last, where the port shows it."""

    params: tuple[dict[str, np.ndarray], ...]
    state: dict[str, np.ndarray] | None = None


class Session:
    """One optimizer in the middle of a run."""

    def __init__(self, port: Port, case: Case, gc: str | None, change: Change | None = None, names: Any = None):
        self.port, self.case, self.change = port, case, change
        self.names = list(names or case.weights)
        self.number = 0
        self.given: list[tuple[str, Any, np.ndarray]] = []
        params = {name: port.array(case.weights[name].fresh()) for name in self.names}
        words = {name: case.layers[name].words for name in self.names}
        self.optimizer = port.call("switched", params, words, gc, **case.options)

    def step(self) -> dict[str, np.ndarray]:
        self.port.attempt("step", self.optimizer.step, self.gradients)
        self.number += 1
        return self.params()

    def gradients(self, params: dict[str, Any]) -> dict[str, Any]:
        made = {}
        for name in self.names:
            w = self.port.numpy(params[name]).astype(np.float64)
            g = self.case.gradient(self.number, name, w)
            g = self.change(name, g, w) if self.change else g
            array = g.astype(self.case.weights[name].dtype)
            made[name] = self.port.array(array.copy())
            self.given.append((name, made[name], array))
        return made

    def params(self) -> dict[str, np.ndarray]:
        found = self.port.attempt("params", self.optimizer.params)
        if set(found) != set(self.names):
            raise Violation(f"params() has the names {sorted(found)}, and must have {sorted(self.names)}")
        return {name: self.port.numpy(found[name]) for name in self.names}

    def state(self) -> dict[str, np.ndarray] | None:
        if not callable(read := getattr(self.optimizer, "state", None)):
            return None
        return {key: self.port.numpy(a) for key, a in self.port.attempt("state", read).items()}


def run(port: Port, case: Case, gc: str | None, change: Change | None = None, names: Any = None) -> Outcome:
    """All steps of an optimizer built for these parameters; gc is "gradient", "update", "off" or None (no switch)."""
    session = Session(port, case, gc, change, names)
    return Outcome(tuple(session.step() for _ in case.grads), session.state())


def noisy(case: Case, change: Change | None, direction: int) -> tuple[Case, Change]:
    """The same run with everything moved by the error that an honest GC may make."""
    random = np.random.default_rng(direction)
    moved = {}
    for name, array in case.weights.items():
        signs = random.choice((-3, 3), array.shape).tolist()
        u = f"np.finfo({array.dtype!r}).eps"
        moved[name] = Array(f"({array.expression} * (1 + {u} / 2 * np.array({signs}))).astype({array.dtype!r})")

    def nudge(name: str, g: np.ndarray, w: np.ndarray) -> np.ndarray:
        layer = case.layers[name]
        magnitude = abs(g) + abs(layer.mean(abs(g)))
        g = change(name, g, w) if change else g
        u = np.finfo(case.weights[name].dtype).eps / 2
        return g + random.choice((-1.0, 1.0), g.shape) * (layer.fan_in(g.shape) + 4) * u * magnitude

    return replace(case, weights=moved), nudge


def agree(
    port: Port,
    case: Case,
    got: Outcome,
    reference: tuple[str | None, Change | None],
    why: str,
    *,
    names: Any = None,
    run_names: Any = None,
    show: str | None = None,
    state: bool = False,
) -> None:
    """`got` is what the reference run gives, a pair (gc, change), or raise `Violation`.

    Args:
        why: what the reference is, for the message.
        names: of the parameters to compare; all.
        run_names: of the parameters of the reference run, in their order; all.
        state: compare the state after the last step, too.
    """
    want = run(port, case, *reference, names=run_names)
    resting(case, want, reference[1])
    if not any(True for _ in differences(case, got, want, None, names, state)):
        return
    spread = [run(port, *_swap(case, reference, k), names=run_names) for k in range(DIRECTIONS)]
    for name, when, at, a, b, bound in differences(case, got, want, spread, names, state):
        index = f"[{', '.join(map(str, at))}]" if at else ""
        raise Violation(f"{name}{index}{when} is {a!r}, and must be {b!r} within {bound:.1e}: {why}", show)


def resting(case: Case, want: Outcome, change: Change | None) -> None:
    """Nothing is judged of a parameter that no step has moved, though it had a gradient: some warm up for long."""
    for name, w in want.params[-1].items():
        start = case.weights[name].value
        if np.array_equal(w, start):
            given = [case.gradient(number, name, start.astype(np.float64)) for number in range(len(case.grads))]
            if any(np.any(change(name, g, start.astype(np.float64)) if change else g) for g in given):
                raise NotProvided(f"it moves nothing in {len(case.grads)} steps")


def _swap(case: Case, reference: tuple[str | None, Change | None], k: int) -> tuple[Case, str | None, Change]:
    moved, nudge = noisy(case, reference[1], k)
    return moved, reference[0], nudge


def differences(
    case: Case, got: Outcome, want: Outcome, spread: list[Outcome] | None, names: Any, state: bool
) -> Iterator[tuple[str, str, tuple[int, ...], float, float, float]]:
    """Where the outcomes differ: by more than bits, or with `spread`, by more than their bound."""
    for number, (a, b) in enumerate(zip(got.params, want.params, strict=True)):
        others = [outcome.params[number] for outcome in spread] if spread else None
        yield from _dict(a, b, others, f" after step {number + 1}", number + 1, names or list(a))
    if state and got.state and want.state:
        others = [outcome.state or {} for outcome in spread] if spread else None
        common = [key for key in want.state if key in got.state and np.issubdtype(want.state[key].dtype, np.number)]
        yield from _dict(got.state, want.state, others, " in the state", len(case.grads), common)


def _dict(got, want, others, when, steps, names) -> Iterator[tuple[str, str, tuple[int, ...], float, float, float]]:
    for name in names:
        a, b = got[name], want[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            was, must = f"{a.dtype.name} {a.shape}", f"{b.dtype.name} {b.shape}"
            raise Violation(f"{name}{when} is {was}, and must be {must}")
        x, y = a.astype(np.float64), b.astype(np.float64)
        wrong = ~((x == y) | (np.isnan(x) & np.isnan(y)))
        bound = np.zeros_like(y)
        if wrong.any() and others is not None and a.dtype.kind not in "iub":
            moved = np.stack([other[name].astype(np.float64) for other in others if name in other] or [y])
            u = float(np.finfo(a.dtype).eps) / 2 if a.dtype.kind == "f" else 2.0**-8
            bound = FACTOR * (abs(moved - y).max(0) + steps * u * np.maximum(abs(x), abs(y)))
            wrong &= ~(abs(x - y) <= bound) & np.isfinite(bound)
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            yield name, when, at, float(x[at]), float(y[at]), float(bound[at])

"""Errors, raised before anything is changed, that name the argument, what it was and what it must be. Level "contract".

Every case is a call that must not succeed. `TypeError` is for what is not an array of the framework, for integer,
boolean or object arrays, for numbers that are not numbers, for a state of another kind, for unknown keywords;
`ValueError` for values out of range, and for shapes and dtypes that differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ..judge import require, same
from ..port import FUNCTIONS, NotProvided, Port
from ..registry import property
from ..result import Violation
from ..strategies import GIVEN, Gradient, Training, comment, gradients, imports, trainings
from . import numerics
from . import operator as _operator
from .optimizer import fresh, make, read, step

F = "np.ones((2, 3), 'float32')"
G = f"g = A({F})"
SGDM = f"w = A({F}); g = A({F}); s = sgdm_init(w)"
ADAM = f"w = A({F}); g = A({F}); s = adam_init(w)"


@dataclass(frozen=True)
class Call:
    """A call that must raise. `setup` and `call` are Python; A(array) is the port's own array.

    Attributes:
        error: the class of the exception.
        names: the argument that the message names.
        was: what the message says that it was.
    """

    setup: str
    call: str
    error: type[Exception]
    names: str = ""
    was: str = ""

    def text(self) -> str:
        return f"{self.setup}; {self.call}"

    def reproduce(self, port: Port, show: str | None = None, note: str = "") -> str:
        def spelled(code: str) -> str:
            code = re.sub(rf"\b({'|'.join(FUNCTIONS)})\(", lambda match: f"{port.spell(match[1])}(", code)
            return re.sub(r"\bA\(", "port.from_numpy(" if port.spell_array("") else "(", code)

        setup, call = self.code(port)
        return f"{imports(port, setup, call)}\n{spelled(setup)}\n{spelled(call)}{comment(note)}"

    def code(self, port: Port) -> tuple[str, str]:
        """Setup and call in a dtype that the port claims."""
        dtype = repr(_dtype(port))
        return self.setup.replace("'float32'", dtype), self.call.replace("'float32'", dtype)


def _dtype(port: Port) -> str:
    return "float32" if "float32" in port.dtypes else port.real_dtypes[0]


def check(port: Port, case: Call) -> None:
    def array(values: np.ndarray) -> Any:
        try:
            return port.array(values)
        except Exception:  # no such array in this framework: hand over NumPy's
            return values

    names: dict[str, Any] = {"np": np, "A": array, **{name: port.function(name) for name in port.provided}}
    setup, call = case.code(port)
    exec(setup, names)
    before = {
        name: port.numpy(names[name])
        for name in ("w", "g")
        if isinstance(names.get(name), type(array(np.ones(1, _dtype(port)))))
    }
    try:
        result = eval(call, names)
    except NotImplementedError as refusal:
        raise NotProvided(str(refusal) or case.call) from refusal
    except case.error as error:
        for word in (case.names, case.was):
            require(
                word.lower() in str(error).lower(),
                f"the message does not say {word!r}: {type(error).__name__}: {error}",
            )
    except Exception as error:
        require(False, f"it raised {type(error).__name__}: {error}; it must be a {case.error.__name__}")
    else:
        require(False, f"it returned {type(result).__name__}, and must raise {case.error.__name__}")
    for name, was in before.items():
        same(port.numpy(names[name]), was, f"{name} after the error")


def raises(id: str, title: str, *calls: Call) -> None:
    """Register errors.`id`: each of the calls raises its error. Calls of functions the port lacks are left out."""

    def offered(call: Call, port: Port) -> bool:
        return all(port.provides(name) for name in FUNCTIONS if f"{name}(" in call.setup + call.call)

    def cases(port: Port) -> SearchStrategy:
        return st.sampled_from([call for call in calls if offered(call, port)] or [None])

    def judge(port: Port, case: Call | None) -> None:
        if case is None:
            raise NotProvided("none of the functions that this is about")
        check(port, case)

    judge.__doc__ = title
    property(f"errors.{id}", needs=(), cases=cases)(judge)


def _sgdm(options: str, error: type[Exception] = ValueError, names: str = "", was: str = "") -> Call:
    return Call(SGDM, f"sgdm_update(w, g, s, {options})", error, names, was)


def _adam(options: str, error: type[Exception] = ValueError, names: str = "", was: str = "") -> Call:
    return Call(ADAM, f"adam_update(w, g, s, {options})", error, names, was)


raises(
    "axis_out_of_range",
    "An axis that the gradient does not have is a ValueError.",
    Call(G, "centralize(g, 2)", ValueError, "axis", "2"),
    Call(G, "centralize(g, (0, -3))", ValueError, "axis", "-3"),
    _sgdm("lr=0.1, axis=2", names="axis", was="2"),
    _adam("axis=(5,)", names="axis", was="5"),
)
raises(
    "axis_repeated",
    "An axis named twice is a ValueError.",
    Call(G, "centralize(g, (1, 1))", ValueError, "axis", "1"),
    Call(G, "centralize(g, (0, -2))", ValueError, "axis", "-2"),
)
raises(
    "axis_empty",
    "No axes at all are a ValueError: None is what leaves a gradient alone.",
    Call(G, "centralize(g, ())", ValueError, "axis", "()"),
)
raises(
    "axis_not_an_int",
    "An axis that is not an int is a TypeError.",
    Call(G, "centralize(g, 1.0)", TypeError, "axis", "1.0"),
    Call(G, "centralize(g, '1')", TypeError, "axis", "1"),
    Call(G, "centralize(g, (0, 1.5))", TypeError, "axis", "1.5"),
)
raises(
    "axis_has_no_default",
    "Forgetting axis is a TypeError: it must not switch GC off.",
    Call(G, "centralize(g)", TypeError, "axis"),
    _sgdm("lr=0.1", TypeError, "axis"),
    _adam("lr=0.1", TypeError, "axis"),
)
raises(
    "not_an_array",
    "What is not an array of the framework is a TypeError.",
    Call("x = [[1.0, 2.0], [3.0, 5.0]]", "centralize(x, 1)", TypeError, "grad", "list"),
    Call("x = None", "centralize(x, 1)", TypeError, "grad", "None"),
    Call("x = 'gradient'", "centralize(x, 0)", TypeError, "grad", "str"),
    Call("x = [1.0]", "sgdm_init(x)", TypeError, "w", "list"),
    Call("x = [1.0]", "adam_init(x)", TypeError, "w", "list"),
    Call(SGDM, "sgdm_update(w, [[1.0] * 3] * 2, s, lr=0.1, axis=1)", TypeError, "grad", "list"),
    Call(ADAM, "adam_update(w, [[1.0] * 3] * 2, s, axis=1)", TypeError, "grad", "list"),
)
raises(
    "integer_array",
    "An array of integers is a TypeError: its mean is no integer.",
    Call("g = A(np.ones((2, 3), 'int32'))", "centralize(g, 1)", TypeError, "grad", "int32"),
    Call("w = A(np.ones((2, 3), 'int32'))", "sgdm_init(w)", TypeError, "w", "int32"),
    Call("w = A(np.ones((2, 3), 'int32'))", "adam_init(w)", TypeError, "w", "int32"),
)
raises(
    "boolean_array",
    "An array of booleans is a TypeError.",
    Call("g = A(np.ones((2, 3), 'bool'))", "centralize(g, 1)", TypeError, "grad", "bool"),
)
raises(
    "object_array",
    "An array of Python objects is a TypeError.",
    Call("g = A(np.ones((2, 3), 'object'))", "centralize(g, 1)", TypeError, "grad"),
)
raises(
    "shapes_differ",
    "A gradient or a state of another shape than w is a ValueError.",
    Call(SGDM, "sgdm_update(w, A(np.ones((3, 2), 'float32')), s, lr=0.1, axis=1)", ValueError, "grad"),
    Call(SGDM, "sgdm_update(w, A(np.ones((1, 3), 'float32')), s, lr=0.1, axis=1)", ValueError, "grad"),
    Call(SGDM, "sgdm_update(w, g, sgdm_init(A(np.ones((3, 2), 'float32'))), lr=0.1, axis=1)", ValueError, "state"),
    Call(ADAM, "adam_update(w, A(np.ones((2, 1), 'float32')), s, axis=1)", ValueError, "grad"),
    Call(ADAM, "adam_update(w, g, adam_init(A(np.ones((3, 2), 'float32'))), axis=1)", ValueError, "state"),
)
raises(
    "state_of_another_kind",
    "A state of another rule is a TypeError.",
    Call(SGDM, "sgdm_update(w, g, adam_init(w), lr=0.1, axis=1)", TypeError, "state"),
    Call(ADAM, "adam_update(w, g, sgdm_init(w), axis=1)", TypeError, "state"),
    Call(SGDM, "sgdm_update(w, g, None, lr=0.1, axis=1)", TypeError, "state", "None"),
    Call(ADAM, "adam_update(w, g, {}, axis=1)", TypeError, "state", "dict"),
)
raises(
    "learning_rate",
    "A learning rate below zero, or not finite, is a ValueError.",
    _sgdm("lr=-0.1, axis=1", names="lr", was="-0.1"),
    _sgdm("lr=float('nan'), axis=1", names="lr", was="nan"),
    _sgdm("lr=float('inf'), axis=1", names="lr", was="inf"),
    _adam("lr=-0.1, axis=1", names="lr", was="-0.1"),
    _adam("lr=float('nan'), axis=1", names="lr", was="nan"),
)
raises(
    "not_a_number",
    "A hyperparameter that is not a number is a TypeError.",
    _sgdm("lr='0.1', axis=1", TypeError, "lr", "0.1"),
    _sgdm("lr=None, axis=1", TypeError, "lr", "None"),
    _sgdm("lr=0.1, momentum='0.9', axis=1", TypeError, "momentum", "0.9"),
    _adam("lr='0.1', axis=1", TypeError, "lr", "0.1"),
    _adam("eps='1e-8', axis=1", TypeError, "eps", "1e-8"),
)
raises(
    "momentum",
    "A momentum below zero, or not finite, is a ValueError.",
    _sgdm("lr=0.1, momentum=-0.5, axis=1", names="momentum", was="-0.5"),
    _sgdm("lr=0.1, momentum=float('inf'), axis=1", names="momentum", was="inf"),
)
raises(
    "dampening",
    "A dampening that is not finite is a ValueError.",
    _sgdm("lr=0.1, dampening=float('nan'), axis=1", names="dampening", was="nan"),
)
raises(
    "weight_decay",
    "A weight decay below zero, or not finite, is a ValueError.",
    _sgdm("lr=0.1, weight_decay=-0.5, axis=1", names="weight_decay", was="-0.5"),
    _adam("weight_decay=-0.5, axis=1", names="weight_decay", was="-0.5"),
    _adam("weight_decay=float('nan'), axis=1", names="weight_decay", was="nan"),
)
raises(
    "betas",
    "Betas that are not two numbers in [0, 1) are a ValueError.",
    _adam("betas=(0.9, 1.0), axis=1", names="betas", was="1.0"),
    _adam("betas=(-0.25, 0.9), axis=1", names="betas", was="-0.25"),
    _adam("betas=(0.9,), axis=1", names="betas", was="0.9"),
    _adam("betas=(0.9, 0.99, 0.999), axis=1", names="betas"),
    _adam("betas=(0.9, float('nan')), axis=1", names="betas", was="nan"),
)
raises(
    "eps",
    "An eps below zero, or not finite, is a ValueError.",
    _adam("eps=-0.5, axis=1", names="eps", was="-0.5"),
    _adam("eps=float('nan'), axis=1", names="eps", was="nan"),
)
raises(
    "nesterov",
    "Nesterov without momentum, or with dampening, is a ValueError.",
    _sgdm("lr=0.1, momentum=0.0, nesterov=True, axis=1", names="nesterov"),
    _sgdm("lr=0.1, dampening=0.5, nesterov=True, axis=1", names="nesterov"),
)
raises(
    "amsgrad_without_its_state",
    "AMSGrad without its state is a ValueError.",
    _adam("amsgrad=True, axis=1", names="amsgrad"),
)
raises(
    "gc_on",
    "An unknown place for GC is a ValueError.",
    _sgdm("lr=0.1, gc_on='weights', axis=1", names="gc_on", was="weights"),
    _adam("gc_on='grad', axis=1", names="gc_on", was="grad"),
)
raises(
    "layout",
    "An unknown layout is a ValueError.",
    Call("shape = (2, 3)", "fan_in_axes(shape, 'channels_last')", ValueError, "layout", "channels_last"),
)
raises(
    "unknown_keyword",
    "An unknown keyword is a TypeError.",
    Call(G, "centralize(g, 1, keepdims=True)", TypeError, "keepdims"),
    _sgdm("lr=0.1, axis=1, wd=0.1", TypeError, "wd"),
    _adam("axis=1, weight_dacay=0.1", TypeError, "weight_dacay"),
)


def _two_dtypes(port: Port) -> SearchStrategy:
    if not {"float32", "float64"} <= set(port.dtypes):
        return st.none()
    double = "A(np.ones((2, 3), 'float64'))"
    calls = [
        Call(SGDM, f"sgdm_update(w, {double}, s, lr=0.1, axis=1)", ValueError, "grad", "float64"),
        Call(SGDM, f"sgdm_update(w, g, sgdm_init({double}), lr=0.1, axis=1)", ValueError, "state", "float64"),
        Call(ADAM, f"adam_update(w, {double}, s, axis=1)", ValueError, "grad", "float64"),
        Call(ADAM, f"adam_update(w, g, adam_init({double}), axis=1)", ValueError, "state", "float64"),
    ]
    return st.sampled_from([c for c in calls if port.provides(c.call.split("(")[0])] or [None])


@property("errors.dtypes_differ", needs=(), cases=_two_dtypes)
def dtypes_differ(port: Port, case: Call | None) -> None:
    """A gradient or a state of another dtype than w is a ValueError."""
    if case is None:
        raise NotProvided("updates in two dtypes")
    check(port, case)


@property(
    "errors.complex_refused_by_name",
    needs="centralize",
    cases=lambda port: st.just(
        Call("g = A(np.ones((2, 3), 'complex64'))", "centralize(g, 1)", TypeError, "grad", "complex")
    ),
)
def complex_refused_by_name(port: Port, case: Call) -> None:
    """Complex numbers are refused by name, unless the port treats them as complex numbers."""
    try:
        port.call("centralize", port.array(np.ones((2, 3), "complex64")), 1)
    except Violation:
        check(port, case)
    else:
        raise NotProvided("a refusal: the port takes complex numbers (operator.complex judges how)")


@property(
    "errors.states_are_named_tuples",
    needs=(),
    cases=lambda port: st.sampled_from(
        [
            Call(f"w = A({F})", f"{name}_init(w)", TypeError)
            for name in ("sgdm", "adam")
            if port.provides(f"{name}_init")
        ]
        or [None]
    ),
)
def states_are_named_tuples(port: Port, case: Call | None) -> None:
    """States are named tuples with PyTorch's field names."""
    if case is None:
        raise NotProvided("states")
    rule = case.call.split("_")[0]
    state = port.call(f"{rule}_init", port.array(np.ones((2, 3), port.real_dtypes[0])))
    fields = {"sgdm": ("momentum_buffer",), "adam": ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")}[rule]
    require(
        isinstance(state, tuple) and getattr(state, "_fields", ()) == fields,
        f"the state is {type(state).__name__} with fields {getattr(state, '_fields', None)}, which must be {fields}",
    )


@property(
    "errors.no_warning_for_non_finite",
    needs="centralize",
    cases=lambda port: numerics._spoiled(port, ("np.nan", "np.inf", "-np.inf")),
)
def no_warning_for_non_finite(port: Port, case: Gradient) -> None:
    """NaN and infinity go their way without a warning."""
    port.call("centralize", port.array(case.grad.fresh()), case.axis, warn=True)


@property("errors.no_warning_for_empty", needs="centralize", cases=_operator._empty)
def no_warning_for_empty(port: Port, case: Gradient) -> None:
    """An empty gradient comes back without a warning."""
    port.call("centralize", port.array(case.grad.fresh()), case.axis, warn=True)


@property("errors.no_warning_at_all", needs="centralize", cases=gradients())
def no_warning_at_all(port: Port, case: Gradient) -> None:
    """A finite gradient is centralized without a warning."""
    port.call("centralize", port.array(case.grad.fresh()), case.axis, warn=True)


# Stateful optimizers: nothing partly applied.

BAD = {
    "another shape": "np.ones((7, 7), 'float32')",
    "integers": "np.ones({shape}, 'int32')",
    "a list": "[[1.0]]",
}


@dataclass(frozen=True)
class BadStep:
    """A good step after a step in which the last gradient, and it alone, is bad."""

    training: Training
    bad: str

    def text(self) -> str:
        return f"the gradient of fc.weight is {self.bad}, in {self.training.text()}"

    def reproduce(self, port: Port, show: str | None = None, note: str = "") -> str:
        head, make, _ = self.training.reproduce(port).split("\n")
        good = self.training._spelled(self.training.grads[0], port)
        return f"{head}\n{make}\noptimizer.step({{**{good}, 'fc.weight': {self.spelled()}}}){comment(note)}"

    def spelled(self) -> str:
        return BAD[self.bad].format(shape=self.training.params["fc.weight"].shape)


def _bad_steps(port: Port) -> SearchStrategy:
    return st.builds(BadStep, trainings("sgd", "adam", "adamw", count=(1, 1))(port), st.sampled_from(list(BAD)))


def _refuse(port: Port, optimizer: Any, case: BadStep) -> Exception | None:
    value = eval(case.spelled(), {"np": np})
    try:
        bad = port.array(value) if isinstance(value, np.ndarray) else value
    except Exception:  # no such array in this framework
        bad = value
    try:
        port.bare(optimizer.step)({**fresh(port, case.training.grads[0]), "fc.weight": bad})
    except NotImplementedError as error:
        # Refused for its options, which a good step shows, or for the gradient.
        step(port, make(port, case.training), fresh(port, case.training.grads[0]))
        return error
    except Exception as error:
        return error
    return None


@property("errors.bad_gradient_refused", needs="optimizer", share=0.25, cases=_bad_steps)
def bad_gradient_refused(port: Port, case: BadStep) -> None:
    """A gradient of another shape is a ValueError, and one that is no array of numbers a TypeError."""
    error = _refuse(port, make(port, case.training), case)
    want = ValueError if case.bad == "another shape" else TypeError
    require(isinstance(error, want), f"step raised {error!r}, and must raise {want.__name__}")


@property("errors.nothing_partly_applied", needs="optimizer", share=0.25, cases=_bad_steps)
def nothing_partly_applied(port: Port, case: BadStep) -> None:
    """When a step raises, no parameter and no state has changed."""
    tried, untouched = make(port, case.training), make(port, case.training)
    if _refuse(port, tried, case) is None:
        raise NotProvided(f"an error for {case.bad}")
    for name, got in read(port, tried).items():
        same(got, case.training.params[name].value, f"{name} after a step that raised")
    for optimizer in (tried, untouched):
        step(port, optimizer, fresh(port, case.training.grads[0]))
    for name, got in read(port, tried).items():
        same(
            got,
            read(port, untouched)[name],
            f"{name} after one more step, which a step that raised must not have touched",
        )


def _bad_options(port: Port) -> SearchStrategy:
    p = f"p = {{'fc': A({F})}}"
    wrong = {"lr": "-0.1", "weight_decay": "-0.5"}
    calls = []
    for kind, given in GIVEN.items():
        for name, value in {
            **wrong,
            **({"momentum": "-0.5"} if kind == "sgd" else {"eps": "-0.5", "betas": "(0.9, 1.5)"}),
        }.items():
            options = "".join(f", {k}={value if k == name else repr(v)}" for k, v in {**given, name: None}.items())
            calls.append(
                Call(
                    p,
                    f"optimizer({kind!r}, p, {{'fc': (1,)}}{options}).step(p)",
                    ValueError,
                    name,
                    value.strip("()").split()[-1],
                )
            )
        options = "".join(f", {k}={v!r}" for k, v in given.items())
        calls.append(Call(p, f"optimizer({kind!r}, p, {{'fc': (4,)}}{options}).step(p)", ValueError, "ax", "4"))
        calls.append(
            Call(
                p,
                f"optimizer({kind!r}, p, {{'fc': (1,)}}{options}, gc_on='weights').step(p)",
                ValueError,
                "gc_on",
                "weights",
            )
        )
    return st.sampled_from(calls)


@property("errors.optimizer_options", needs="optimizer", cases=_bad_options)
def optimizer_options(port: Port, case: Call) -> None:
    """An option or an axis that is out of range is a ValueError, when the optimizer is made or at its first step."""
    check(port, case)

"""A port: any object with some of the functions of the contract under their own names.

    centralize(grad, axis)
    fan_in_axes(shape, layout)
    sgdm_init, sgdm_update, adam_init, adam_update
    projection_matrix(n)
    centralize_layer(kind, grad, **layer)      words: see `chapters/layers.py`
    optimizer(kind, params, axes, **hyper)     kind "sgd", "adam" or "adamw"; `params` and `axes` are dicts by parameter
                                               name; returns an object with `step(grads)` and `params()`; see
                                               `chapters/optimizer.py`
    switched(params, layers, gc, **options)    any optimizer with a switch for GC; see `chapters/switch.py`

It may be a module, a namespace, an instance, or one function, which is taken for `centralize`. It may add

    from_numpy(array), to_numpy(array)   identity when absent
    name                                 for the report
    dtypes                               names of those it claims; ("float32", "float64") when absent. "float16" and
                                         "bfloat16" (NumPy arrays of `ml_dtypes`) are judged only if claimed; with
                                         "complex64" or "complex128" it must treat complex numbers as complex numbers
    sgd_first_step                       "damped" (when absent): the momentum buffer starts at zero, and the first step
                                         is m <- (1 - dampening) g. "undamped": `optimizer("sgd", ...)` starts as
                                         PyTorch does, m <- g
    layout, decay, linear, centralizes, changes_gradients
                                         of an optimizer with a switch; see `chapters/switch.py`

`NotImplementedError`, from a function or for one of its options, means *not provided*. An option that has its default
value is never passed, so a port need not know the options it does not offer.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .result import Violation

FUNCTIONS = (
    "centralize",
    "fan_in_axes",
    "sgdm_init",
    "sgdm_update",
    "adam_init",
    "adam_update",
    "projection_matrix",
    "centralize_layer",
    "optimizer",
    "switched",
)
DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
# What a port with a switch says of its optimizer; the first is what is taken where it says nothing.
DECLARED: dict[str, tuple] = {
    "layout": ("out_first", "out_last"),
    "decay": (None, "l2", "decoupled"),
    "linear": (False, True),
    "centralizes": ("all", "convolutions"),
    "changes_gradients": (False, True),
    "library": (None, "torch", "jax", "keras"),
}


class PortError(Exception):
    """The port cannot be judged at all: it cannot be imported, or offers none of the functions."""


class NotProvided(Exception):
    """The port says that it does not offer this function or option."""


class Port:
    """A port as the suite sees it: which functions there are, arrays in and out, and how to name it in a reproduction.

    Attributes:
        name, dtypes, sgd_first_step: as declared, or their defaults.
        target: how it was asked for.
        imports: one line of Python that binds `port` (or `centralize`, for a single function).
    """

    def __init__(self, target: object, source: str, imports: str):
        self.target = source
        self.imports = imports
        self._single = _is_single_function(target)
        self._object = target
        self._functions: dict[str, Callable] = (
            {"centralize": target}  # type: ignore[dict-item]
            if self._single
            else {name: f for name in FUNCTIONS if callable(f := getattr(target, name, None))}
        )
        if not self._functions:
            raise PortError(
                f"{source} offers none of the functions of a port ({', '.join(FUNCTIONS)}), and is no function itself."
            )
        declared = getattr(target, "name", None)
        self.name = declared if isinstance(declared, str) else source
        self.dtypes: tuple[str, ...] = tuple(getattr(target, "dtypes", None) or ("float32", "float64"))
        if unknown := [d for d in self.dtypes if d not in DTYPES]:
            raise PortError(f"{source}: dtypes must be among {', '.join(DTYPES)}, and names {unknown[0]!r}.")
        if not self.real_dtypes:
            raise PortError(f"{source}: dtypes must name a real floating type; it is {self.dtypes!r}.")
        self.sgd_first_step: str = getattr(target, "sgd_first_step", "damped")
        if self.sgd_first_step not in ("damped", "undamped"):
            raise PortError(f'{source}: sgd_first_step must be "damped" or "undamped", and is {self.sgd_first_step!r}.')

        says = target if self.provides("switched") else None
        self.declared = {name: getattr(says, name, choices[0]) for name, choices in DECLARED.items()}
        for name, value in self.declared.items():
            if value not in DECLARED[name]:
                choices = ", ".join(map(repr, DECLARED[name]))
                raise PortError(f"{source}: {name} must be one of {choices}, and is {value!r}.")

    @property
    def real_dtypes(self) -> tuple[str, ...]:
        return tuple(d for d in self.dtypes if not d.startswith("complex"))

    @property
    def provided(self) -> tuple[str, ...]:
        return tuple(self._functions)

    def provides(self, *names: str) -> bool:
        return all(name in self._functions for name in names)

    def spell(self, name: str) -> str:
        """How a reproduction writes a function of this port, after `imports`."""
        return "centralize" if self._single else f"port.{name}"

    def spell_array(self, expression: str) -> str:
        return f"port.from_numpy({expression})" if self._converts("from_numpy") else expression

    def spelling(self, options: dict[str, Any], changed: Callable[[str], str]) -> tuple[str, ...] | None:
        """How a reproduction spells a run with a switch, where the port's adapter knows: see `switch_runs`."""
        spell = getattr(self._object, "spelling", None)
        return spell(options, changed) if callable(spell) and not self._single else None  # type: ignore[return-value]

    def _converts(self, name: str) -> bool:
        return not self._single and callable(getattr(self._object, name, None))

    def array(self, array: np.ndarray) -> Any:
        """`array` as this port's own array. A layout that `from_numpy` refuses is handed over in C order."""
        if not self._converts("from_numpy"):
            return array
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return self._object.from_numpy(array)  # type: ignore[attr-defined]
            except (TypeError, ValueError):
                if array.flags.c_contiguous and array.flags.writeable:
                    raise
                return self._object.from_numpy(np.array(array, order="C"))  # type: ignore[attr-defined]

    def numpy(self, array: Any) -> np.ndarray:
        """A NumPy copy of one of this port's arrays: what the port does to its array later does not reach it."""
        try:
            if self._converts("to_numpy"):
                array = self._object.to_numpy(array)  # type: ignore[attr-defined]
            return np.array(array)
        except Exception as error:
            raise Violation(f"a result cannot be read as an array: {type(error).__name__}: {error}") from error

    def call(self, name: str, *args: Any, warn: bool = False, **options: Any) -> Any:
        """Call a function of the port. Its exceptions are violations; its warnings too, with `warn`, or dropped."""
        return self.attempt(name, self._functions[name], *args, warn=warn, **options)

    def attempt(self, name: str, function: Callable, *args: Any, warn: bool = False, **options: Any) -> Any:
        floating: Any = "warn" if warn else "ignore"
        with warnings.catch_warnings(), np.errstate(all=floating, under="ignore"):
            warnings.simplefilter("error" if warn else "ignore")
            try:
                return function(*args, **options)
            except NotImplementedError as error:
                raise NotProvided(str(error) or name) from error
            except Warning as warning:
                raise Violation(f"{name} warns: {type(warning).__name__}: {warning}") from warning
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit, too: the exit code is the suite's
                raise Violation(f"{name} raised {type(error).__name__}: {error}") from error

    def function(self, name: str) -> Callable:
        """The port's bare function, for the properties about the errors that it raises."""
        return self._functions[name]


def load(
    target: object, *, switch: str | None = None, built_with: Sequence[str] = (), adapter: str | None = None
) -> Port:
    """Return the port that `target` names or is.

    Args:
        target: "package.module", "package.module:attribute", "file.py", "file.py:function", or the object itself.
        switch, built_with, adapter: `target` is an optimizer of a framework, made a port by `ports.adapt`.

    Raises:
        PortError: it cannot be imported, or offers none of the functions of a port.
    """
    if isinstance(target, Port):
        return target
    if not isinstance(target, str):
        return Port(target, *_describe(target))
    path, attribute = _split(target)
    found: Any = _import_file(path) if path.endswith(".py") else _import_module(path, target)
    for part in attribute.split(".") if attribute else ():
        if not hasattr(found, part):
            raise PortError(f"{path} has no {attribute!r}.")
        found = getattr(found, part)
    if switch or adapter or built_with:
        from .ports import adapt

        found = adapt(found, switch=switch, built_with=built_with, framework=adapter)
    return Port(found, target, _import_line(path, attribute, _is_single_function(found)))


def _split(target: str) -> tuple[str, str]:
    path, colon, attribute = target.rpartition(":")
    if not colon or attribute.endswith(".py"):  # "C:\\file.py" has a colon too
        return target, ""
    return path, attribute


def _import_module(path: str, target: str) -> ModuleType:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(path)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit and others: none of them is for us
        raise PortError(f"{target} cannot be imported: {type(error).__name__}: {error}") from error


def _import_file(path: str) -> ModuleType:
    file = Path(path)
    if not file.is_file():
        raise PortError(f"{path} cannot be imported: there is no such file.")
    spec = importlib.util.spec_from_file_location(f"gc_port_{file.stem}", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(file.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit and others: none of them is for us
        raise PortError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    return module


def _is_single_function(target: object) -> bool:
    return callable(target) and not any(hasattr(target, name) for name in FUNCTIONS) and not inspect.isclass(target)


def _import_line(path: str, attribute: str, single: bool) -> str:
    name = "centralize" if single else "port"
    if path.endswith(".py"):
        if not attribute:
            return f"import runpy, types; port = types.SimpleNamespace(**runpy.run_path({path!r}))"
        first, *rest = attribute.split(".")
        return f"import runpy; {name} = runpy.run_path({path!r})[{first!r}]" + "".join(f".{part}" for part in rest)
    if not attribute:
        return f"import {path} as port"
    first, *rest = attribute.split(".")
    line = f"from {path} import {first}" + (f" as {name}" if first != name else "")
    return line + f"; {name} = {name}.{'.'.join(rest)}" if rest else line


def _describe(target: object) -> tuple[str, str]:
    if isinstance(target, ModuleType):
        return target.__name__, f"import {target.__name__} as port"
    single = _is_single_function(target)
    module, name = getattr(target, "__module__", ""), getattr(target, "__qualname__", "")
    if module and name.isidentifier() and getattr(sys.modules.get(module), name, None) is target:
        return f"{module}:{name}", _import_line(module, name, single)
    label = getattr(target, "name", None) or name or f"a {type(target).__name__}"
    return str(label), f"{'centralize' if single else 'port'} = ...  # the object that was judged"

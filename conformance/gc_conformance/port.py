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

It may be a module, a namespace, an instance, or one function, which is taken for `centralize`; or a program, see
`protocol.py`. It may add

    from_numpy(array), to_numpy(array)   identity when absent
    name                                 for the report
    dtypes                               names of those it claims; ("float32", "float64") when absent. "float16" and
                                         "bfloat16" (NumPy arrays of `ml_dtypes`) are judged only if claimed; with
                                         "complex64" or "complex128" it must treat complex numbers as complex numbers
    sgd_first_step                       "damped" (when absent): the momentum buffer starts at zero, and the first step
                                         is m <- (1 - dampening) g. "undamped": `optimizer("sgd", ...)` starts as
                                         PyTorch does, m <- g
    rounding                             what its optimizers do for weights in float16 and bfloat16, of "kahan" and
                                         "stochastic"; see `chapters/low_precision.py`
    layout, decay, linear, centralizes, changes_gradients
                                         of an optimizer with a switch; see `chapters/switch.py`

`NotImplementedError`, from a function or for one of its options, means *not provided*. An option that has its default
value is never passed, so a port need not know the options it does not offer.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .fence import Fence, of_the_process
from .result import AdapterFault, Raised, Violation

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
MEMORY = "arrays in memory"  # what a program does not share with the suite: nothing of its is judged that is about them
WAYS = ("kahan", "stochastic")  # of low precision, that a port may declare
DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
# What a port with a switch says of its optimizer; the first is what is taken where it says nothing.
DECLARED: dict[str, tuple] = {
    "layout": ("out_first", "out_last"),
    "decay": (None, "l2", "decoupled"),
    "linear": (False, True),
    "centralizes": ("all", "convolutions"),
    "changes_gradients": (False, True),
    "framework": (None, "torch", "jax", "keras"),
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
        contract: whether the contract's level is asked for, where what is refused is wrong and not only not provided.
        clock: a context around each call of the port, which ends it when it takes too long.
        changed: what calls have changed of their inputs, by function, since the runner last looked.
    """

    def __init__(self, target: object, source: str, imports: str, path: list[str] | None = None):
        self.target = source
        self.imports = imports
        self.contract = True
        self.clock: AbstractContextManager = nullcontext()
        self.changed: dict[str, str] = {}
        self.fence = Fence(path)
        self._single = is_single_function(target)
        self._object = target
        self._kind: type = np.ndarray
        self._file = _file_of(target)
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

        self.rounding: tuple[str, ...] = tuple(getattr(target, "rounding", None) or ())
        if unknown := [way for way in self.rounding if way not in WAYS]:
            raise PortError(f"{source}: rounding must be among {', '.join(WAYS)}, and names {unknown[0]!r}.")
        if not any(dtype in ("float16", "bfloat16") for dtype in self.dtypes):
            self.rounding = ()

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
        by_value = getattr(self._object, "by_value", False)
        there = {*self._functions, *self.rounding}
        return all(name in there or (name == MEMORY and not by_value) for name in names)

    def spell(self, name: str) -> str:
        """How a reproduction writes a function of this port, after `imports`."""
        return "centralize" if self._single else f"port.{name}"

    def spell_array(self, expression: str) -> str:
        return f"port.from_numpy({expression})" if self._converts("from_numpy") else expression

    def spelling(self, options: dict[str, Any], changed: Callable[[str], str]) -> tuple[str, ...] | None:
        """How a reproduction spells a run with a switch, where the port's adapter knows: see `switch_runs`."""
        spell = getattr(self._object, "spelling", None)
        return spell(options, changed) if callable(spell) and not self._single else None  # type: ignore[return-value]

    def begin(self) -> None:
        """A case begins."""
        self.changed.clear()
        if getattr(self._object, "by_value", False):
            self._object.forget()  # type: ignore[attr-defined]

    def replay(self) -> str:
        """How a program is asked the same again; empty for a port in Python, of which a case says it."""
        return self._object.replay() if getattr(self._object, "by_value", False) else ""  # type: ignore[attr-defined]

    def _converts(self, name: str) -> bool:
        return not self._single and callable(getattr(self._object, name, None))

    # ---- Arrays

    def handshake(self) -> None:
        """Send an array of each claimed dtype to the port and back.

        Raises:
            PortError: one does not come back as it was: then the adapter is at fault, and no verdict can be trusted.
        """
        for dtype in self.dtypes:
            if dtype == "bfloat16":
                import ml_dtypes  # noqa: F401  (teaches NumPy the name)
            sent = np.array([[1.0, -2.0, 0.5], [4.0, 0.0, -8.0]], dtype)
            try:
                arrived = self.array(sent.copy())
                back = self.numpy(arrived)
            except (NotProvided, Violation) as error:
                details = f"\n{error.__cause__ and ''.join(traceback.format_exception(error.__cause__))}".rstrip()
                raise PortError(
                    f"{self.target}: an array of {dtype}, which it claims, does not come through from_numpy and "
                    f"to_numpy. This is a fault of the adapter, not a verdict on the port: {error}{details}"
                ) from error
            if back.dtype != sent.dtype or not np.array_equal(back, sent):
                raise PortError(
                    f"{self.target}: to_numpy(from_numpy(x)) is not x for {dtype}, which it claims: {sent.tolist()} "
                    f"comes back as {back.tolist()!r} ({back.dtype}). This is a fault of the adapter: where the port "
                    f"means other dtypes, it says so by `dtypes`."
                )
            self._kind = type(arrived)

    def array(self, array: np.ndarray) -> Any:
        """`array` as this port's own array. A layout that `from_numpy` refuses is handed over in C order."""
        if not self._converts("from_numpy"):
            return array
        try:
            with self.clock, self.fence.port():
                try:
                    return self._object.from_numpy(array)  # type: ignore[attr-defined]
                except (TypeError, ValueError):
                    if array.flags.c_contiguous and array.flags.writeable:
                        raise
                    return self._object.from_numpy(np.array(array, order="C"))  # type: ignore[attr-defined]
        except BaseException as error:
            if of_the_process(error):
                raise
            if isinstance(error, NotImplementedError) or array.dtype.name not in self.dtypes:
                raise NotProvided(f"arrays of {array.dtype.name}: {error}") from error
            if 0 in array.shape and not self.contract:
                raise NotProvided(f"empty arrays: {error}") from error
            raise AdapterFault(f"from_numpy raised {type(error).__name__}: {error}") from error

    def numpy(self, array: Any) -> np.ndarray:
        """A NumPy copy of one of this port's arrays: what the port does to its array later does not reach it."""
        try:
            with self.clock, self.fence.port():
                return self._read(array)
        except BaseException as error:
            if of_the_process(error):
                raise
            raise Violation(f"a result cannot be read as an array: {type(error).__name__}: {error}") from error

    def _read(self, array: Any) -> np.ndarray:
        if self._converts("to_numpy"):
            array = self._object.to_numpy(array)  # type: ignore[attr-defined]
        return np.array(array)

    # ---- Calls

    def call(self, name: str, *args: Any, warn: bool = False, **options: Any) -> Any:
        """Call a function of the port. Its exceptions are violations; its warnings too, with `warn`, or dropped."""
        return self.attempt(name, self._functions[name], *args, warn=warn, **options)

    def attempt(self, name: str, function: Callable, *args: Any, warn: bool = False, **options: Any) -> Any:
        given = self._given([*args, *options.values()])
        try:
            with self.clock, self.fence.port(warn):
                result = function(*args, **options)
        except NotImplementedError as error:
            raise NotProvided(str(error) or name) from error
        except Warning as warning:
            raise Violation(f"{name} warns: {type(warning).__name__}: {warning}") from warning
        except BaseException as error:  # SystemExit, too: the exit code is the suite's
            if of_the_process(error):
                raise
            kind = AdapterFault if self._is_the_adapters(error) else Raised
            raise kind(f"{name} raised {type(error).__name__}: {error}") from error
        for array, was in given:
            if name not in self.changed and not _equal(now := self._copy(array), was):
                self.changed[name] = f"{name} changes what it is given: {_short(was)} is afterwards {_short(now)}"
        return result

    def function(self, name: str) -> Callable:
        """The port's bare function, for the properties about the errors that it raises."""
        return self.bare(self._functions[name])

    def bare(self, function: Callable) -> Callable:
        """A function of the port whose exceptions come out as they are."""

        @wraps(function)
        def called(*args: Any, **options: Any) -> Any:
            with self.clock, self.fence.port():
                return function(*args, **options)

        return called

    @contextmanager
    def may_refuse(self, what: str) -> Iterator[None]:
        """Within it, raising is *not provided*, unless the contract's level is asked for."""
        try:
            yield
        except Raised as refusal:
            if self.contract:
                raise
            raise NotProvided(f"{what}: {refusal}") from refusal

    def _given(self, values: list[Any]) -> list[tuple[Any, np.ndarray]]:
        """The arrays among the arguments of a call, with a copy of each and of what it is a part of."""
        found = []
        for array in _leaves(values, self._kind):
            found += [(array, self._copy(array))]
            base = getattr(array, "base", None)
            if isinstance(base, np.ndarray) and isinstance(array, np.ndarray):
                found += [(base, base.copy())]
        return found

    def _copy(self, array: Any) -> np.ndarray | None:
        if isinstance(array, np.ndarray):
            return array.copy()
        try:
            with self.fence.port():
                return self._read(array)
        except Exception:  # deleted, or donated: the properties about it say so
            return None

    def _is_the_adapters(self, error: BaseException) -> bool:
        """Whether an exception comes from the lines of an adapter, and not from the library that it adapts."""
        if not self._converts("from_numpy") or not self._file:
            return False
        innermost = traceback.extract_tb(error.__traceback__)[-1].filename
        shipped = Path(__file__).parent / "ports"
        if shipped in Path(innermost).parents:
            return True
        return isinstance(error, NameError | ImportError | AttributeError) and innermost == self._file


def _leaves(value: Any, kind: type, depth: int = 3) -> Iterator[Any]:
    """The arrays in a value: in lists, tuples, dicts and the attributes of states."""
    if isinstance(value, np.ndarray | kind):
        yield value
    elif depth and isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part, kind, depth - 1)
    elif depth and hasattr(value, "__dict__") and not isinstance(value, type | ModuleType) and not callable(value):
        yield from _leaves(vars(value), kind, depth - 1)


def _equal(now: np.ndarray | None, was: np.ndarray | None) -> bool:
    if now is None or was is None:
        return True
    return now.shape == was.shape and now.dtype == was.dtype and now.tobytes() == was.tobytes()


def _short(array: np.ndarray | None) -> str:
    return " ".join(np.array2string(np.asarray(array), threshold=10, edgeitems=2, precision=6).split())


def is_single_function(target: object) -> bool:
    return callable(target) and not any(hasattr(target, name) for name in FUNCTIONS) and not inspect.isclass(target)


def _file_of(target: object) -> str:
    """The file with the code of a port."""
    try:
        return (
            inspect.getsourcefile(target if isinstance(target, ModuleType) or callable(target) else type(target)) or ""
        )  # type: ignore[arg-type]
    except (TypeError, OSError):
        return ""


def load(target: object, **how: Any) -> Port:
    """The port that `target` names or is: see `loading.load`."""
    from .loading import load as found

    return found(target, **how)

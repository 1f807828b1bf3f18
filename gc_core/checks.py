"""Argument checks and their error texts, said once for every package.

Each check raises before anything is computed or changed, and names the argument, what it was, and what it must be:
`TypeError` for a thing of the wrong type, `ValueError` for a wrong value. Checks of numbers give the number back as a
plain Python float, so that no caller's scalar type can widen a result.
"""

import math
import operator
from collections.abc import Callable, Mapping, Set
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

Place = Literal["gradient", "update"]  # of GC
Way = Literal["kahan", "stochastic"]  # to round weights of a narrow dtype, see `low_precision`
PLACES: tuple[str, ...] = get_args(Place)
WAYS: tuple[str, ...] = get_args(Way)


class Framework(NamedTuple):
    """What the checks must know of one array library."""

    noun: str  # "a NumPy array"
    is_array: Callable[[Any], bool]
    kind: Callable[[Any], str]  # of an array: "real", "complex", or the word for what it is instead ("int64", "sparse")
    device: Callable[[Any], Any] = lambda array: None


def array(framework: Framework, name: str, value: Any, *, allow_complex: bool = True) -> None:
    """Refuse what is not a floating-point array of this framework."""
    if not framework.is_array(value):
        raise TypeError(f"{name} must be {framework.noun}; got {type(value).__module__}.{type(value).__qualname__}")
    kind = framework.kind(value)
    if kind == "complex" and not allow_complex:
        raise TypeError(
            f"{name} is complex ({value.dtype}), and this update is not defined for complex arrays: "
            "it must be real floating point (for instance its real and imaginary parts as two parameters)"
        )
    if kind not in ("real", "complex"):
        raise TypeError(f"{name} must be a floating-point array; got {kind}")


def tensors(
    framework: Framework, w: Any, grad: Any, state: Any, state_type: type, *, allow_complex: bool = True
) -> None:
    """Refuse a weight, gradient and state that do not belong together."""
    array(framework, "w", w, allow_complex=allow_complex)
    array(framework, "grad", grad, allow_complex=allow_complex)
    if not isinstance(state, state_type):
        raise TypeError(f"state must be the {state_type.__name__} of this weight; got {type(state).__qualname__}")
    like(framework, w, "grad", grad)
    for name, value in state._asdict().items():  # type: ignore[attr-defined]
        if name == "step" or (name == "max_exp_avg_sq" and value is None):
            continue
        array(framework, f"state.{name}", value, allow_complex=allow_complex)
        like(framework, w, f"state.{name}", value)


def like(framework: Framework, w: Any, name: str, value: Any) -> None:
    """Refuse an array whose shape, dtype or device is not that of w."""
    for what, got, wanted in (
        ("shape", tuple(value.shape), tuple(w.shape)),
        ("dtype", value.dtype, w.dtype),
        ("device", framework.device(value), framework.device(w)),
    ):
        if got != wanted:
            raise ValueError(f"{name} has {what} {got}; it must have that of w, {wanted}")


def axis(value: Any, shape: tuple[int, ...], name: str = "axis") -> tuple[int, ...] | None:
    """Fan-in axes as a sorted tuple of non-negative ints; None stays None."""
    if value is None:
        return None
    axes = value if isinstance(value, tuple) else (value,)
    ndim = len(shape)
    if not axes:
        raise ValueError(f"{name} must name at least one axis, or be None to leave the gradient as it is; got ()")
    found: list[int] = []
    for one in axes:
        if isinstance(one, (bool, np.bool_)) or not isinstance(one, Integral):
            raise TypeError(f"{name} must be an int, a tuple of ints or None; got {value!r}")
        index = operator.index(one)
        if not -ndim <= index < ndim:
            allowed = f"from {-ndim} to {ndim - 1}" if ndim else "None: a 0-d array has no axis"
            raise ValueError(f"{name} {index} is out of range for shape {tuple(shape)}: it must be {allowed}")
        if index % ndim in found:
            raise ValueError(f"{name} must name each axis once; got {value!r} for shape {tuple(shape)}")
        found.append(index % ndim)
    return tuple(sorted(found))


def number(
    name: str, value: Any, *, low: float | None = None, below: float | None = None, framework: Framework | None = None
) -> Any:
    """A finite real number, as a float; a 0-d array of the framework is passed on unread (reading it would wait)."""
    wanted = "a finite number"
    if low is not None:
        wanted = f"a finite number >= {low:g}"
    if below is not None:
        wanted = f"a number in [{low:g}, {below:g})"
    if framework is not None and framework.is_array(value) and not isinstance(value, np.ndarray):
        if tuple(value.shape) != () or framework.kind(value) == "complex" or "bool" in str(value.dtype):
            raise TypeError(f"{name} must be {wanted}; got an array of shape {tuple(value.shape)}, dtype {value.dtype}")
        return value
    got = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if isinstance(got, (bool, np.bool_)) or not isinstance(got, Real):
        raise TypeError(f"{name} must be {wanted}; got {value!r}")
    try:
        result = float(got)
    except OverflowError:
        result = math.inf
    # Not math.isfinite: torch.compile cannot trace it for a number that changes from call to call.
    if (
        not -math.inf < result < math.inf
        or (low is not None and result < low)
        or (below is not None and result >= below)
    ):
        raise ValueError(f"{name} must be {wanted}; got {value!r}")
    return result


def pair(name: str, value: Any) -> tuple[Any, Any]:
    """The two elements of any sequence: a tuple, a list, an array, one of a configuration library.

    >>> pair("betas", [0.9, 0.99])
    (0.9, 0.99)
    """
    # By what it can do: containers of configuration libraries are registered as no kind of sequence.
    if isinstance(value, (str, bytes, Mapping, Set)) or not (hasattr(value, "__len__") and hasattr(value, "__iter__")):
        raise TypeError(f"{name} must be two numbers in [0, 1); got {value!r}")
    try:
        elements = tuple(value)
    except TypeError:  # an array of no dimensions
        raise TypeError(f"{name} must be two numbers in [0, 1); got {value!r}") from None
    if len(elements) != 2:
        raise ValueError(f"{name} must be two numbers in [0, 1); got {value!r}")
    return elements


def flag(name: str, value: Any) -> None:
    """Refuse what is not True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False; got {value!r}")


def place(gc_on: Any, *, optional: bool = False) -> None:
    """Refuse what is not a place of GC, nor None where that is allowed."""
    if optional and gc_on is None:
        return
    wanted = ", ".join(map(repr, PLACES)) + (", or None for no GC" if optional else "")
    if not isinstance(gc_on, str):
        raise TypeError(f"gc_on must be one of {wanted}; got {gc_on!r}")
    if gc_on not in PLACES:
        raise ValueError(f"gc_on must be one of {wanted}; got {gc_on!r}")


def low_precision(way: Any) -> None:
    """Refuse what is not a way to round weights of a narrow dtype, nor None."""
    wanted = ", ".join(map(repr, WAYS)) + ", or None to round to the nearest"
    if way is not None and not isinstance(way, str):
        raise TypeError(f"low_precision must be one of {wanted}; got {way!r}")
    if way is not None and way not in WAYS:
        raise ValueError(f"low_precision must be one of {wanted}; got {way!r}")


def seed(value: Any) -> int:
    """An int of 64 bits, which a generator is started with."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise TypeError(f"seed must be an int from 0 to 2**64 - 1; got {value!r}")
    number = int(value)
    if not 0 <= number < 1 << 64:
        raise ValueError(f"seed must be an int from 0 to 2**64 - 1; got {value!r}")
    return number


def sgdm(
    *,
    lr: Any,
    momentum: Any,
    dampening: Any,
    nesterov: Any,
    weight_decay: Any,
    decoupled: Any,
    gc_on: Any,
    framework: Framework | None = None,
    in_step: bool = False,
) -> tuple[Any, Any, Any, Any]:
    """The numbers of GC-SGDM, checked: lr, momentum, dampening, weight_decay.

    `in_step`: only what would spoil weights is refused, for a schedule may end a hair below 0.
    """
    low = None if in_step else 0.0
    numbers = (
        number("lr", lr, low=low, framework=framework),
        number("momentum", momentum, low=low, framework=framework),
        number("dampening", dampening, framework=framework),
        number("weight_decay", weight_decay, low=low, framework=framework),
    )
    flag("nesterov", nesterov)
    flag("decoupled", decoupled)
    place(gc_on)
    if in_step:
        return numbers
    # A number that cannot be read here (traced, or on a device) passes.
    if nesterov and isinstance(numbers[1], float) and numbers[1] == 0:
        raise ValueError(f"nesterov needs a momentum > 0; got momentum={momentum!r}")
    if nesterov and isinstance(numbers[2], float) and numbers[2] != 0:
        raise ValueError(f"nesterov needs dampening 0; got dampening={dampening!r}")
    return numbers


def adam(
    *,
    lr: Any,
    betas: Any,
    eps: Any,
    weight_decay: Any,
    decoupled: Any,
    amsgrad: Any,
    gc_on: Any,
    framework: Framework | None = None,
    in_step: bool = False,
) -> tuple[Any, tuple[Any, Any], Any, Any]:
    """The numbers of GC-Adam, checked: lr, betas, eps, weight_decay. `in_step`: as in `sgdm`."""
    low = None if in_step else 0.0
    beta1, beta2 = pair("betas", betas)
    numbers = (
        number("lr", lr, low=low, framework=framework),
        (
            number("betas[0]", beta1, low=0.0, below=1.0, framework=framework),
            number("betas[1]", beta2, low=0.0, below=1.0, framework=framework),
        ),
        number("eps", eps, low=low, framework=framework),
        number("weight_decay", weight_decay, low=low, framework=framework),
    )
    flag("decoupled", decoupled)
    flag("amsgrad", amsgrad)
    place(gc_on)
    return numbers


def count(name: str, value: Any, *, low: int = 0) -> int:
    """An int of at least `low`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an int >= {low}; got {value!r}")
    if value < low:
        raise ValueError(f"{name} must be an int >= {low}; got {value!r}")
    return int(value)


def amsgrad_state(amsgrad: bool, max_exp_avg_sq: Any) -> None:
    """Refuse amsgrad without the running maximum it needs."""
    if amsgrad and max_exp_avg_sq is None:
        raise ValueError(
            "amsgrad needs state.max_exp_avg_sq, which is None: the state must come from adam_init(w, amsgrad=True)"
        )

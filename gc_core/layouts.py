"""Which axes of a stored weight are its fan-in: the framework-free half of every plan.

The shape alone cannot say what a tensor is, so a backend first finds out which layer it belongs to, and then takes the
rule for it from here. Each rule gives a `View`: the shape the tensor is seen as (a reshape of the stored one), the
fan-in axes of that shape, or None to leave its gradient alone, and why.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from gc_core import checks
from gc_core.reasons import Reason, Why

Layout = Literal["out_first", "out_last"]


class View(NamedTuple):
    """How GC sees one tensor.

    >>> out_first((10, 3, 5, 5))
    View(shape=(10, 3, 5, 5), axes=(1, 2, 3), why='stored (out, in…)')
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...] | None
    why: str = ""


# Why a tensor is left alone.
FAN_IN_ONE = Why(Reason.FAN_IN_ONE)
BIAS = Why(Reason.BIAS)
NORM = Why(Reason.NORM)
EMBEDDING = Why(Reason.EMBEDDING)
POSITION = Why(Reason.POSITION)
TOKEN = Why(Reason.TOKEN)
RELATIVE_POSITION = Why(Reason.RELATIVE_POSITION)
BIAS_KV = Why(Reason.BIAS_KV)
ACTIVATION = Why(Reason.ACTIVATION)
LAYER_SCALE = Why(Reason.LAYER_SCALE)
MAGNITUDE = Why(Reason.MAGNITUDE)
ORTHOGONAL = Why(Reason.ORTHOGONAL)
PARAMETRIZED = Why(Reason.PARAMETRIZED)
UNKNOWN = Why(Reason.UNKNOWN)


def left_alone(shape: Sequence[int], why: str) -> View:
    """A tensor that GC is not for."""
    return View(tuple(shape), None, why)


def weight(shape: Sequence[int], axes: Sequence[int], why: str, *, stored: Sequence[int] | None = None) -> View:
    """A weight seen as `shape`, with these fan-in axes, unless they hold one element.

    >>> weight((64, 1, 1, 1), (1, 2, 3), "depthwise 1×1").axes is None
    True
    """
    if math.prod([shape[axis] for axis in axes]) == 1:  # a list: torch.compile does not trace a generator here
        return left_alone(shape if stored is None else stored, FAN_IN_ONE)
    return View(tuple(shape), tuple(axes), why)


# Made once: torch.compile does not trace the making of a `Why`.
_STORED = {
    how: Why(Reason.STORED, stored=how)
    for how in (
        "(heads, head_dim, out)",
        "(in, heads, head_dim)",
        "(in, out/groups, k…)",
        "(k…, channels, multiplier)",
        "(k…, out, in)",
        "(out, in…)",
        "(…in, out)",
    )
}


def _stored(how: str) -> Why:
    return _STORED[how]


def out_first(shape: Sequence[int]) -> View:
    """(out, in, k…): PyTorch and Equinox, also transposed convolutions of Equinox."""
    if len(shape) < 2:
        return left_alone(shape, BIAS)
    return weight(shape, range(1, len(shape)), _stored("(out, in…)"))


def out_last(shape: Sequence[int]) -> View:
    """(k…, in, out): Flax, Keras, Haiku; `transformers`' Conv1D, which is a Linear stored (in, out)."""
    if len(shape) < 2:
        return left_alone(shape, BIAS)
    return weight(shape, range(len(shape) - 1), _stored("(…in, out)"))


def in_out(shape: Sequence[int], groups: int = 1) -> View:
    """(in, out/G, k…): transposed convolutions of PyTorch, seen as (G, in/G, out/G, k…).

    Each output channel of a group is fed by the in/G input channels of that group alone, and no axes of the stored
    shape can say so.

    >>> in_out((8, 3, 2, 2), groups=4)[:2]
    ((4, 2, 3, 2, 2), (1, 3, 4))
    """
    why = _stored("(in, out/groups, k…)")
    if groups == 1:
        return weight(shape, (0, *range(2, len(shape))), why)
    seen = (groups, shape[0] // groups, *shape[1:])
    return weight(seen, (1, *range(3, len(seen))), why, stored=shape)


def out_before_last(shape: Sequence[int]) -> View:
    """(k…, out, in): transposed convolutions of Keras and Haiku; of Flax with `transpose_kernel`."""
    ndim = len(shape)
    return weight(shape, (*range(ndim - 2), ndim - 1), _stored("(k…, out, in)"))


def depthwise(shape: Sequence[int]) -> View:
    """(k…, C, multiplier): depthwise convolutions of Keras, where each channel is a unit of its own."""
    return weight(shape, range(len(shape) - 2), _stored("(k…, channels, multiplier)"))


def heads_out(shape: Sequence[int]) -> View:
    """(in, heads, head_dim): the query, key and value kernels of Flax attention."""
    return weight(shape, (0,), _stored("(in, heads, head_dim)"))


def heads_in(shape: Sequence[int]) -> View:
    """(heads, head_dim, out): the out kernel of Flax attention."""
    return weight(shape, (0, 1), _stored("(heads, head_dim, out)"))


def stacked(rule: Callable[[Sequence[int]], View], shape: Sequence[int], stack: int = 1) -> View:
    """Layers stacked along the first `stack` axes (scan, vmap, experts): each as one layer, never over the stack.

    >>> stacked(out_last, (12, 64, 256)).axes
    (1,)
    """
    one = rule(shape[stack:])
    axes = None if one.axes is None else tuple(axis + stack for axis in one.axes)
    return View((*shape[:stack], *one.shape), axes, one.why if axes is None else Why(Reason.STACKED, inner=one.why))


LAYOUTS = {"out_first": out_first, "out_last": out_last}


def rule_of(name: Any) -> Callable[[Sequence[int]], View]:
    """The rule of a layout name."""
    if not isinstance(name, str):
        raise TypeError(f"layout must be one of {', '.join(map(repr, LAYOUTS))}; got {name!r}")
    if name not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(map(repr, LAYOUTS))}; got {name!r}")
    return LAYOUTS[name]


def fan_in_axes(shape: Sequence[int], layout: Layout) -> tuple[int, ...] | None:
    """The fan-in axes of a dense or convolution weight: every axis but the output's.

    Formula::

        "out_first" (PyTorch, Equinox):  (out, in, k…) -> (1, 2, …)
        "out_last" (Flax, Keras, HWIO):  (k…, in, out) -> (0, 1, …), all but the last

    Args:
        shape: the stored shape, a sequence of ints >= 0.
        layout: "out_first" or "out_last".

    Returns:
        A tuple of axes; or None where GC does not apply: fewer than 2 axes, or a fan-in of 1 (the mean of one element
        is that element, and GC would zero its gradient for ever).

    Raises:
        TypeError: shape is not a sequence of ints, or layout not a string.
        ValueError: a negative size, or an unknown layout.

    >>> fan_in_axes((64, 3, 7, 7), "out_first"), fan_in_axes((7, 7, 3, 64), "out_last")
    ((1, 2, 3), (0, 1, 2))
    >>> fan_in_axes((64,), "out_first") is None, fan_in_axes((10, 1), "out_first") is None
    (True, True)

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), section 3.1: M = C_in·k1·k2 is the fan-in.
    """
    rule = rule_of(layout)
    if isinstance(shape, (str, bytes)) or not isinstance(shape, Sequence):
        raise TypeError(f"shape must be a tuple of ints; got {shape!r}")
    return rule([checks.count("each size in shape", size) for size in shape]).axes

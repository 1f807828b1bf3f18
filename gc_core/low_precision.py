"""Weights that are stored in float16 or bfloat16 and still train: what rounding loses, and two ways to keep it.

A bfloat16 number has 8 significant bits. Of a step smaller than 2⁻⁹ of its weight nothing is left when the new weight
is rounded to the nearest, and of larger ones a part: the sum of a weight vector moves, though GC has given the step a
sum of zero. Two options of the optimizers, by the field's names::

    kahan        Compensated summation. A second array of the same dtype keeps what rounding has cut off, and the next
                 step starts from the sum of the two.
    stochastic   Each weight is rounded up or down at random, so that the expectation of the result is the exact one.

Sources: Kahan, Further remarks on reducing truncation errors (1965); Zamirai et al., Revisiting BFloat16 Training
(arXiv 2010.06192), which has both; Steele, Lea, Flood, Fast splittable pseudorandom generators (2014), for `mix`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from gc_core.arrays import quietly, rounded, widen

# Significant bits, and the exponent of the smallest normal number as `frexp` counts it.
_FORMATS = {"float16": (11, -13), "bfloat16": (8, -125)}
_WORD, _LONG = (1 << 32) - 1, (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def is_low(dtype: np.dtype) -> bool:
    """Whether weights of this dtype have anything to gain: float16 and bfloat16.

    >>> is_low(np.dtype("float16")), is_low(np.dtype("float32"))
    (True, False)
    """
    return np.dtype(dtype).name in _FORMATS


# ---- Compensated summation


@quietly
def split(value: np.ndarray, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """A number as two of a narrow dtype: itself, rounded to the nearest, and what that has cut off.

    Formula::

        w ← round(value)
        c ← round(value − w), or 0 where w is not finite

    Args:
        value: any shape, float32.
        dtype: float16 or bfloat16.

    Returns:
        w and c, of that dtype.

    >>> w, c = split(np.float32(1 + 2**-12), np.float16)
    >>> float(w), float(c) == 2**-12
    (1.0, True)
    """
    w = rounded(value, dtype)
    left = value - w.astype(np.float32)
    return w, rounded(np.where(np.isfinite(left), left, 0), dtype)


@quietly
def joined(w: np.ndarray, compensation: np.ndarray) -> np.ndarray:
    """The number that two of a narrow dtype stand for, in float32: w + c."""
    return widen(w) + widen(compensation)


def kahan_update(
    update: Callable[..., tuple[np.ndarray, Any]],
    w: np.ndarray,
    compensation: np.ndarray,
    grad: np.ndarray,
    state: Any,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray, Any]:
    """One step of a weight that is stored as two numbers.

    Formula::

        x ← w + c                       in float32
        x, state ← update(x, grad, state)
        w, c ← split(x)

    Args:
        update: `sgdm_update` or `adam_update`.
        w: the weight, float16 or bfloat16.
        compensation: c, of its shape and dtype; zeros at the beginning.
        grad, state, options: as `update` takes them, grad and state of w's dtype.

    Returns:
        The new w, c and state, of w's dtype.

    >>> from gc_core import sgdm_init, sgdm_update
    >>> w, grad = np.ones((1, 2), np.float16), np.array([[1, -1]], np.float16)
    >>> c, state = np.zeros_like(w), sgdm_init(w)
    >>> for _ in range(8):  # each step is a quarter of what float16 can hold at 1
    ...     w, c, state = kahan_update(sgdm_update, w, c, grad, state, lr=2**-12, axis=1, momentum=0.0)
    >>> float(w[0, 0]) == 1 - 8 * 2**-12, float(w[0, 1]) == 1 + 8 * 2**-12
    (True, True)

    Source: Zamirai et al., Revisiting BFloat16 Training (arXiv 2010.06192), section 4.
    """
    x, state = update(joined(w, compensation), widen(grad), _widened(state), **options)
    return *split(x, w.dtype), _narrowed(state, w.dtype)


# ---- Stochastic rounding


def mix(x: int) -> int:
    """A number of 64 bits, each of which depends on every bit of x (the finalizer of SplitMix64).

    >>> hex(mix(1))
    '0x5692161d100b05e5'
    """
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _LONG
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _LONG
    return x ^ (x >> 31)


def stream(seed: int, *places: int) -> int:
    """Of a parameter: its own 64 bits, from the seed and from where it stands (group, place in the group).

    >>> stream(0, 0, 0) != stream(0, 0, 1) != stream(1, 0, 1)
    True
    """
    x = mix(seed & _LONG)
    for place in places:
        x = mix((x + GOLDEN * (place + 1)) & _LONG)
    return x


def random_bits(stream: int, step: int, places: np.ndarray) -> np.ndarray:
    """16 random bits for each element of a parameter at a step, that hang on nothing else.

    There is no other state than (stream, step): so the same bits come on any number of threads, in any order and
    part by part, and a run that is resumed goes on with its own. A key is made of the stream and the step; then two
    rounds of multiplication and shift mix it with the place of the element.

    Args:
        stream: from `stream`.
        step: from 1 on.
        places: of the elements in the memory of the parameter, any shape; their lower 32 bits count.

    Returns:
        uint32 from 0 to 65535, of the same shape.

    >>> random_bits(stream(0), 1, np.arange(4)).tolist() == random_bits(stream(0), 1, np.arange(4)).tolist()
    True
    >>> bool(abs(random_bits(stream(0), 1, np.arange(100_000)).mean() / 2**16 - 0.5) < 0.004)
    True
    """
    key = mix((stream + GOLDEN * step) & _LONG)
    x = np.asarray(places).astype(np.uint32) ^ np.uint32(key & _WORD)
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) + np.uint32(key >> 32)
    x = (x ^ (x >> 14)) * np.uint32(0x846CA68B)
    return x >> 16


@quietly
def rounded_stochastically(value: np.ndarray, dtype: Any, bits: np.ndarray) -> np.ndarray:
    """Each number as the neighbour of it in a narrow dtype that a random number chooses, in expectation itself.

    Formula, with u the distance between the neighbours, and r in [0, 1) of as many bits as are cut off::

        |value| ← u · floor(|value| / u + r)

    A number that the dtype has stays, and so do NaN and infinity.

    Args:
        value: any shape, float32.
        dtype: float16 or bfloat16.
        bits: from `random_bits`, of the same shape.

    >>> value = np.full(4, 1 + 2**-12, np.float32)  # a quarter of the way from 1 to the next one
    >>> rounded_stochastically(value, np.float16, np.array([0, 1 << 14, 2 << 14, 3 << 14])).tolist()
    [1.0, 1.0, 1.0, 1.0009765625]
    """
    digits, least = _FORMATS[np.dtype(dtype).name]
    size = np.abs(np.asarray(value, np.float32))
    _, exponent = np.frexp(size)
    unit = np.ldexp(np.float64(1), np.maximum(exponent, least) - digits)
    cut_off = 24 - digits
    r = (np.asarray(bits) >> (16 - cut_off)) / 2.0**cut_off
    up = np.floor((size / unit + r).astype(np.float32)) * unit
    return rounded(np.where(np.isfinite(size), np.copysign(up, value), value), dtype)


def stochastic_update(
    update: Callable[..., tuple[np.ndarray, Any]],
    w: np.ndarray,
    grad: np.ndarray,
    state: Any,
    bits: np.ndarray,
    **options: Any,
) -> tuple[np.ndarray, Any]:
    """One step whose new weight is rounded stochastically; the state is rounded to the nearest.

    Args:
        update: `sgdm_update` or `adam_update`.
        w: the weight, float16 or bfloat16.
        grad, state, options: as `update` takes them, grad and state of w's dtype.
        bits: from `random_bits`, of w's shape.

    Returns:
        The new w and state, of w's dtype.

    >>> from gc_core import sgdm_init, sgdm_update
    >>> w, grad = np.ones((1, 400), np.float16), np.tile(np.array([1, -1], np.float16), (1, 200))
    >>> bits = random_bits(stream(0), 1, np.arange(w.size).reshape(w.shape))
    >>> new, _ = stochastic_update(sgdm_update, w, grad, sgdm_init(w), bits, lr=2**-12, axis=1)
    >>> sorted(set(new[0, 1::2].tolist()))  # a quarter of them has moved, by four times the step
    [1.0, 1.0009765625]

    Source: Zamirai et al., Revisiting BFloat16 Training (arXiv 2010.06192), section 4.
    """
    x, state = update(widen(w), widen(grad), _widened(state), **options)
    return rounded_stochastically(x, w.dtype, bits), _narrowed(state, w.dtype)


def _widened(state: Any) -> Any:
    return state._make(widen(x) if hasattr(x, "dtype") else x for x in state)


def _narrowed(state: Any, dtype: Any) -> Any:
    return state._make(rounded(x, dtype) if hasattr(x, "dtype") else x for x in state)

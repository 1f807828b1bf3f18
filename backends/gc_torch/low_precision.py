"""Weights in float16 and bfloat16 that train: compensated summation and stochastic rounding, as in `gc_core`.

Both keep what they need where every optimizer of PyTorch keeps its state: `compensation`, of the parameter's shape,
dtype and sharding; or `step`, the number of updates, from which with the seed all random numbers follow. Parameters of
other dtypes have neither.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gc_core.low_precision import GOLDEN, stream
from gc_torch import sharded
from gc_torch.arrays import is_half

OPTIONS = {"low_precision": None, "seed": 0}  # of a group
COMPENSATION, STEP = "compensation", "step"  # the names of the states

_LONG = (1 << 64) - 1


def way_for(group: dict[str, Any], p: Tensor) -> str | None:
    """How the new weight is rounded: "kahan", "stochastic", or None: to the nearest."""
    return group["low_precision"] if is_half(p) else None


def extra_columns(state: Any, group: dict[str, Any], params: list[Tensor], steps: list[Tensor] | None) -> list[list]:
    """The columns of steps and of compensations; states that are not there yet are made.

    Args:
        state: of the optimizer.
        steps: those that the optimizer counts anyway; None: it counts none.
    """
    found: list[list[Any]] = [[], []]
    for p in params:
        way = way_for(group, p)
        if steps is None:
            found[0].append(_made(state[p], STEP, p) if way == "stochastic" else None)
        found[1].append(_made(state[p], COMPENSATION, p) if way == "kahan" else None)
    found[0] = found[0] if steps is None else steps
    return [column if any(x is not None for x in column) else [] for column in found]


def _made(state: dict[str, Any], name: str, p: Tensor) -> Tensor:
    if state.get(name) is None:
        state[name] = torch.zeros_like(p) if name == COMPENSATION else torch.zeros((), dtype=torch.float32)
    return state[name]


def streams(index: int, group: dict[str, Any], places: Sequence[int]) -> list[int]:
    """The random streams of the parameters in these places of a group."""
    return [stream(group["seed"], index, place) for place in places]


# ---- What is stored


def store(way: str, p: Tensor, wide: Tensor, compensation: Tensor | None, bits: Tensor | None) -> None:
    """Put a new weight, in float32, into a parameter that is narrower."""
    if way == "kahan":
        assert compensation is not None
        p.copy_(wide)
        left = wide - p
        compensation.copy_(torch.where(left.isfinite(), left, 0.0))
    else:
        assert bits is not None
        p.copy_(rounded_stochastically(wide, p.dtype, bits))


def rounded_stochastically(value: Tensor, dtype: torch.dtype, bits: Tensor) -> Tensor:
    """`gc_core.low_precision.rounded_stochastically`: each number as one of its two neighbours in dtype.

    Args:
        value: float32, any shape.
        dtype: torch.float16 or torch.bfloat16.
        bits: int32 from 0 to 65535, of the same shape.

    >>> value = torch.full((4,), 1 + 2**-9)  # a quarter of the way from 1 to the next one
    >>> rounded_stochastically(value, torch.bfloat16, torch.arange(4, dtype=torch.int32) << 14)
    tensor([1.0000, 1.0000, 1.0000, 1.0078], dtype=torch.bfloat16)
    """
    if dtype == torch.bfloat16:  # the upper half of a float32
        up = ((value.view(torch.int32) + bits) & -0x10000).view(torch.float32)
    else:
        digits, least = 11, 2.0**-14
        power = (value.view(torch.int32) & 0x7F800000).view(torch.float32)  # of 2, the largest up to |value|
        unit = power.clamp(min=least) * 2.0 ** (1 - digits)
        up = torch.copysign(torch.floor(value.abs() / unit + (bits >> 3) * 2.0**-13) * unit, value)
    return torch.where(value.isfinite(), up, value).to(dtype)


# ---- Random bits


def random_bits(stream: int, step: Tensor, places: Tensor) -> Tensor:
    """`gc_core.low_precision.random_bits`: 16 for each element, from the stream, the step and its place alone.

    Args:
        step: of one number, on any device.
        places: int32, the lower 32 bits of places.

    >>> random_bits(stream(0), torch.tensor(1.0), torch.arange(3, dtype=torch.int32)).tolist()
    [50236, 29574, 15689]
    """
    # Integers wrap around, and shifts to the right bring copies of the sign, which are cleared.
    key = step.reshape(()).to(torch.int64) * _signed(GOLDEN, 64) + _signed(stream, 64)
    key = (key ^ ((key >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9, 64)
    key = (key ^ ((key >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB, 64)
    key = (key ^ ((key >> 31) & ((1 << 33) - 1))).to(places.device)
    low, high = _low_word(key), _low_word(key >> 32)
    x = places ^ low
    x = (x ^ ((x >> 16) & 0xFFFF)) * _signed(0x7FEB352D, 32)
    x = (x ^ ((x >> 15) & 0x1FFFF)) + high
    x = (x ^ ((x >> 14) & 0x3FFFF)) * _signed(0x846CA68B, 32)
    return (x >> 16) & 0xFFFF


def places_in(p: Any, part: Tensor | None = None) -> Tensor:
    """Where each element lies in the memory of its parameter, of a DTensor in that of the whole; int32, wrapped.

    Args:
        p: the parameter.
        part: a part of what this device holds of it; None: all of it.

    >>> places_in(torch.ones(2, 3).t())
    tensor([[0, 3],
            [1, 4],
            [2, 5]], dtype=torch.int32)
    """
    local = sharded.local(p)
    start = sum(first * stride for first, stride in zip(sharded.first_of_shard(p), p.stride(), strict=True))
    if part is not None:
        first = part.storage_offset() - local.storage_offset()
        for stride, whole in sorted(zip(local.stride(), p.stride(), strict=True), reverse=True):
            start += first // stride * whole if stride else 0
            first %= stride or 1
        local = part
    places = torch.full((1,) * local.ndim, _signed(start, 32), dtype=torch.int32, device=local.device)
    for axis, (size, stride) in enumerate(zip(local.shape, p.stride(), strict=True)):
        along = torch.arange(size, dtype=torch.int32, device=local.device) * _signed(stride, 32)
        places = places + along.reshape([-1 if i == axis else 1 for i in range(local.ndim)])
    return places.expand(local.shape)


def _low_word(x: Tensor) -> Tensor:
    x = x & 0xFFFFFFFF
    return torch.where(x >= 1 << 31, x - (1 << 32), x).to(torch.int32)


def _signed(number: int, bits: int) -> int:
    """The same bits as a signed number."""
    number &= (1 << bits) - 1
    return number - (1 << bits) if number >> (bits - 1) else number


def said(group: dict[str, Any], params: Sequence[Tensor]) -> str:
    """What a group does with weights of low precision, for people; empty: it has none, and was asked for nothing."""
    way = group["low_precision"]
    half = [p for p in params if is_half(p)]
    some = f"{len(half)} of {len(params)} parameters" if len(half) < len(params) else f"{len(half)} parameters"
    if way is not None:
        seed = f", seed={group['seed']}" if way == "stochastic" else ""
        if not half:
            return f"low_precision={way!r} has nothing to do: no parameter is float16 or bfloat16"
        return f"low_precision={way!r}{seed} for {some}"
    if not half:
        return ""
    dtypes = " and ".join(sorted({str(p.dtype).removeprefix("torch.") for p in half}))
    least = max(math.log2(torch.finfo(p.dtype).eps) for p in half) - 2
    return (
        f"{some} in {dtypes}, rounded to the nearest: steps below 2**{least:.0f} of a weight are lost, and the means "
        "that GC conserves drift; low_precision='kahan' or 'stochastic' keeps them"
    )

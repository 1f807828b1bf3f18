"""The way of an array of any shape to the kernels of `kernels.cu`, which are compiled at the first launch."""

import functools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import cupy
import numpy as np

from gc_cupy.arrays import on_device_of

SOURCE = Path(__file__).with_name("kernels.cu").read_text(encoding="ascii")

# A complex number is a pair of numbers, of which each is centered and updated as if it were alone.
_C_TYPES = {
    "float16": "float16",
    "bfloat16": "bfloat16",
    "float32": "float",
    "float64": "double",
    "complex64": "float",
    "complex128": "double",
}
NAMES = tuple(f"{kernel}<{c}>" for kernel in ("centralize", "sgdm", "adam") for c in dict.fromkeys(_C_TYPES.values()))

MAX_THREADS = 1024  # of a block; `kernels.cu` has room for as many
_KEPT = 4  # elements that a thread keeps on the chip (2 in double precision): a row of more than 4096 is read twice
_NULL = np.uintp(0)


class Launch(NamedTuple):
    """One kernel over one parameter, ready to run."""

    name: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Any, ...]
    copies: tuple[tuple[Any, Any], ...]  # (to, from) afterwards, for results whose memory is not in the kernel's order
    device: Any


class Fold(NamedTuple):
    """A shape as (outer, fan-in, inner): the order of axes that brings it there, and the three sizes."""

    order: tuple[int, ...]
    outer: int
    fan_in: int
    inner: int


def fold(shape: tuple[int, ...], axis: tuple[int, ...] | None) -> Fold:
    """Fan-in axes that lie side by side are taken where they lie; others are brought to the end, by copies.

    >>> fold((64, 3, 7, 7), (1, 2, 3)), fold((5, 5, 8, 16), (0, 1, 2))
    (Fold(order=(0, 1, 2, 3), outer=64, fan_in=147, inner=1), Fold(order=(0, 1, 2, 3), outer=1, fan_in=200, inner=16))
    >>> fold((64, 32, 3, 3), (0, 2, 3))
    Fold(order=(1, 0, 2, 3), outer=32, fan_in=576, inner=1)
    """
    order = tuple(range(len(shape)))
    size = math.prod(shape)
    axes = [one for one in axis or () if shape[one] != 1]
    if not axes:
        return Fold(order, size, 1, 1)
    fan_in = math.prod(shape[one] for one in axes)
    first, last = axes[0], axes[-1]
    if math.prod(shape[first : last + 1]) == fan_in:
        return Fold(order, math.prod(shape[:first]), fan_in, math.prod(shape[last + 1 :]))
    return Fold((*(one for one in order if one not in axes), *axes), size // fan_in, fan_in, 1)


def geometry(vectors: int, fan_in: int, inner: int) -> tuple[int, tuple[int, int]]:
    """Blocks, and the threads of a block as (x, y).

    It follows from the shape alone, never from the device, and so do the bits of every result.

    >>> geometry(64, 147, 1), geometry(4096, 9, 1), geometry(16, 200, 16)
    ((16, (64, 4)), (256, (16, 16)), (1, (16, 64)))
    """
    lanes = _power_of_2(-(-fan_in // _KEPT))
    if inner == 1:
        lanes = min(MAX_THREADS, max(lanes, _power_of_2(min(fan_in, 32))))
        places = max(1, 256 // lanes)
        return -(-vectors // places), (lanes, places)
    places = min(32, _power_of_2(vectors))
    lanes = min(MAX_THREADS // places, lanes)
    places = max(places, 256 // lanes)
    return -(-vectors // places), (places, lanes)


def _power_of_2(at_least: int) -> int:
    return 1 << (at_least - 1).bit_length()


def decays(weight_decay: float, decoupled: bool) -> tuple[float, float]:
    """The decay of the gradient and that of the step, of which one is 0."""
    return (0.0, weight_decay) if decoupled else (weight_decay, 0.0)


def prepare(
    kernel: str,
    axis: tuple[int, ...] | None,
    inputs: tuple[cupy.ndarray | None, ...],
    outputs: tuple[cupy.ndarray | None, ...],
    numbers: tuple[float, ...],
    flags: tuple[bool, ...],
) -> Launch | None:
    """A launch of one kernel over arrays of one shape, dtype and device; None where there is no element.

    Args:
        kernel: "centralize", "sgdm" or "adam".
        axis: checked fan-in axes, or None for no GC.
        inputs, outputs: arrays in the order of the kernel's parameters, in any memory order; None for one not used.
            An output may be an input.
        numbers: host numbers, rounded once to the precision that the kernel computes in.
        flags: its switches.
    """
    like = outputs[0]
    assert like is not None
    if like.size == 0:
        return None
    order, outer, fan_in, inner = fold(like.shape, axis)
    c_type = _C_TYPES[like.dtype.name]
    number = np.float64 if c_type == "double" else np.float32
    if like.dtype.kind == "c":
        inner *= 2
    pointers: list[Any] = []
    copies = []
    with on_device_of(like) as device:
        for array in inputs:
            pointers.append(_NULL if array is None else cupy.ascontiguousarray(array.transpose(order)))
        for array in outputs:
            if array is None:
                pointers.append(_NULL)
                continue
            seen = there = array.transpose(order)
            if not seen.flags.c_contiguous:
                there = cupy.empty(seen.shape, seen.dtype)
                copies.append((seen, there))
            pointers.append(there)
    blocks, block = geometry(outer * inner, fan_in, inner)
    with np.errstate(all="ignore"):
        arguments = (
            *pointers,
            *map(number, numbers),
            *map(np.bool_, flags),
            *map(np.int64, (outer * inner, fan_in, inner)),
            np.bool_(axis is not None),
        )
    return Launch(f"{kernel}<{c_type}>", (blocks,), block, arguments, tuple(copies), device)


def run(launches: Iterable[Launch | None]) -> None:
    """Launch on the current stream of each device.

    This is where many small launches would become one over a table of pointers.
    """
    ready = []
    for launch in launches:
        if launch is not None:
            with launch.device:
                ready.append((launch, _function(launch.name, int(launch.device))))
    for launch, function in ready:
        with launch.device:
            function(launch.grid, launch.block, launch.arguments)
            for to, result in launch.copies:
                to[...] = result


@functools.cache
def _module() -> cupy.RawModule:
    return cupy.RawModule(code=SOURCE, name_expressions=NAMES)


@functools.cache
def _function(name: str, device: int) -> cupy.RawKernel:
    """A kernel, loaded on the current device, which is this one."""
    return _module().get_function(name)

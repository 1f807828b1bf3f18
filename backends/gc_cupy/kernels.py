"""The way of an array of any shape to the kernels of `kernels.cu`, which are compiled at the first launch."""

import functools
import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import cupy
import numpy as np

from gc_cupy import compat
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
_OUTPUTS = {"sgdm": (0, 2), "adam": (0, 2, 3, 4)}  # which of their inputs the outputs are, in place
NAMES = tuple(
    f"{kernel}<{c}>"
    for kernel in ("centralize", "sgdm", "adam", "sgdm_table", "adam_table")
    for c in dict.fromkeys(_C_TYPES.values())
)

MAX_THREADS = 1024  # of a block; `kernels.cu` has room for as many
_KEPT = 4  # elements that a thread keeps on the chip (2 in double precision): a row of more than 4096 is read twice
_NULL = np.uintp(0)
_MOST_THREADS = 512  # of a block of a launch over many
_POINTERS, _WIDTH = 5, 10  # columns of a table for inputs, and all: see `kernels.cu`


class Launch(NamedTuple):
    """One kernel over one parameter, ready to run."""

    name: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    pointers: tuple[Any, ...]
    options: tuple[Any, ...]  # numbers and flags
    sizes: tuple[int, int, int]
    centered: bool
    copies: tuple[tuple[Any, Any], ...]  # (to, from) afterwards, for results whose memory is not in the kernel's order
    device: Any

    @property
    def arguments(self) -> tuple[Any, ...]:
        return (*self.pointers, *self.options, *map(np.int64, self.sizes), np.bool_(self.centered))


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
        options = (*map(number, numbers), *map(np.bool_, flags))
    return Launch(
        f"{kernel}<{c_type}>", (blocks,), block, tuple(pointers), options, (outer * inner, fan_in, inner),
        axis is not None, tuple(copies), device,
    )  # fmt: skip


def run(launches: Iterable[Launch | None]) -> None:
    """Launch on the current stream of each device.

    Those in place that have options and the shape of their blocks in common are one launch, through a table of their
    pointers, with the bits of launches one by one. Blocks of more threads, which large arrays have, go alone.
    """
    every = [launch for launch in launches if launch is not None]
    alone = len(every) > 1 and _share(every)
    together: dict[Any, list[Launch]] = {}
    for i, launch in enumerate(every):
        options = tuple(option.tobytes() for option in launch.options)  # by their bits: NaN is not equal to NaN
        fits = math.prod(launch.block) <= _MOST_THREADS and not alone and _is_in_place(launch)
        key = launch.name, int(launch.device), launch.block, options, -1 if fits else i
        together.setdefault(key, []).append(launch)
    ready = []
    for (name, device, *_), some in together.items():
        many = len(some) > 1
        if many:
            name = name.replace("<", "_table<")
        with some[0].device:
            ready.append((some, many, _function(name, device)))
    for some, many, function in ready:
        with some[0].device:
            if many:
                rows, blocks = _table(some)
                arguments = (cupy.array(rows), np.int32(len(some)), *some[0].options)
                function((blocks,), some[0].block, arguments)
            else:
                for launch in some:
                    function(launch.grid, launch.block, launch.arguments)
            for launch in some:
                for to, result in launch.copies:
                    to[...] = result


def _table(launches: list[Launch]) -> tuple[np.ndarray, int]:
    """A row for each, and how many blocks there are in all."""
    rows = np.zeros((len(launches), _WIDTH), np.int64)
    blocks = 0
    for row, launch in zip(rows, launches, strict=True):
        inputs = launch.pointers[: -len(_OUTPUTS[_kernel(launch)])]
        row[: len(inputs)] = [_address(pointer) for pointer in inputs]
        row[_POINTERS:] = (*launch.sizes, launch.centered, blocks)
        blocks += launch.grid[0]
    return rows, blocks


def _share(launches: list[Launch]) -> bool:
    """Whether any two of them have memory in common: then one must come after the other."""
    arrays = ({_address(x): x for x in launch.pointers if x is not _NULL} for launch in launches)
    spans = sorted((start, start + x.nbytes) for one in arrays for start, x in one.items())
    return any(start < end for (_, end), (start, _) in itertools.pairwise(spans))


def _kernel(launch: Launch) -> str:
    return launch.name.partition("<")[0]


def _is_in_place(launch: Launch) -> bool:
    """Whether every output is the input of which it is the new value."""
    places = _OUTPUTS.get(_kernel(launch))
    if places is None:
        return False
    outputs = launch.pointers[-len(places) :]
    return all(_address(launch.pointers[i]) == _address(x) for i, x in zip(places, outputs, strict=True))


def _address(pointer: Any) -> int:
    return 0 if pointer is _NULL else pointer.data.ptr


@functools.cache
def _module() -> cupy.RawModule:
    compat.warn_of_mixture()
    return cupy.RawModule(code=SOURCE, name_expressions=NAMES)


@functools.cache
def _function(name: str, device: int) -> cupy.RawKernel:
    """A kernel, loaded on the current device, which is this one."""
    return _module().get_function(name)

"""The steps of SGD and Adam with GC on a GPU: one Triton kernel over all tensors of a table (page `table`).

A tensor's memory is seen as (outer, r1, inner, r2): element (a, b) of the weight vector (o, i) lies at
((o·r1 + a)·inner + i)·r2 + b. A list of work, which follows from the shapes alone, cuts every tensor into blocks, and
each program takes one block:

    FLAT     without GC, (1, 1, 1, size): TILE elements
    ROWS     r1 = 1 and a weight vector fits: as many vectors as fit into TILE elements, read once
    LONG     r1 = 1, longer: one vector, of which the gradient is read twice (the second time from a cache)
    COLUMNS  r2 = 1 (fan-in in front): as many vectors as make a cache line, read twice
    GROUPS   the same with a small r2, as transposed convolutions have
    SPLIT    the same with any r2: one vector

Every sum is added up in an order that follows from the shape, so that the same step gives the same bits.
"""

# Triton's language is Python to the eye: an `if` of the compiler and one of the device cannot be joined, types are
# constants, and the types of a kernel's arguments are not those of what it is called with.
# ruff: noqa: SIM102, SIM300
# pyright: reportInvalidTypeForm=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import contextlib
import math
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from gc_torch import table

# ---- What is known when the kernel is compiled: options of the step, as bits of one number.

ADAM = tl.constexpr(1)  # otherwise SGD
ON_UPDATE = tl.constexpr(2)
L2 = tl.constexpr(4)
DECOUPLED = tl.constexpr(8)
MAXIMIZE = tl.constexpr(16)
NESTEROV = tl.constexpr(32)
MOMENTUM = tl.constexpr(64)
FRESH = tl.constexpr(128)  # PyTorch's first step of SGD: the momentum buffer starts as the gradient
AMSGRAD = tl.constexpr(256)
SCALED = tl.constexpr(512)  # the gradients are to be divided by grad_scale, and are left so
GUARDED = tl.constexpr(1024)  # nothing happens where found_inf is not 0
LR_TENSOR = tl.constexpr(2048)

# ---- The kinds of blocks, and their sizes.

FLAT, LONG, SPLIT, COLUMNS, GROUPS, ROWS = range(6)  # ROWS + k: vectors of at most SHORTEST << k elements
_FLAT, _LONG, _SPLIT, _COLUMNS, _GROUPS, _ROWS = map(tl.constexpr, range(6))
LAST = tl.constexpr(13)  # ROWS with TILE elements
SHORTEST = tl.constexpr(16)
TILE = tl.constexpr(4096)  # 16 elements a thread: with Adam's four arrays, what two programs a processor can hold
STRETCH = tl.constexpr(2048)  # elements of LONG, COLUMNS, … at a time: 4608, a usual fan-in, wastes a quarter
LINE = tl.constexpr(32)  # columns a program: a line of the cache in float32
WARPS = 8

# ---- The columns of the table that a program reads.

WIDTH = tl.constexpr(len(table.COLUMNS))
_STATE0, _STATE1, _STATE2 = tl.constexpr(table.STATE0), tl.constexpr(table.STATE1), tl.constexpr(table.STATE2)
_STEP, _OUTER, _R1 = tl.constexpr(table.STEP), tl.constexpr(table.OUTER), tl.constexpr(table.R1)
_INNER, _R2 = tl.constexpr(table.INNER), tl.constexpr(table.R2)


@triton.jit
def _number(bits, A: tl.constexpr):
    """A hyperparameter from its bits: Triton would round every number of Python to float32."""
    if A == tl.float64:
        return bits.to(tl.int64).to(tl.float64, bitcast=True)
    else:
        return bits.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _divide(x, y, A: tl.constexpr):
    # In float32 Triton's own division and root are approximate.
    if A == tl.float64:
        return x / y
    else:
        return tl.div_rn(x, y)


@triton.jit
def _root(x, A: tl.constexpr):
    if A == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)


@triton.jit
def _expm1(x, A: tl.constexpr):
    """exp(x) − 1 for x <= 0, to a few units of roundoff: x = n·log 2 + r, and a series for exp(r) − 1."""
    if A == tl.float64:
        x = tl.maximum(x, -40.0)
        n = tl.floor(x * 1.4426950408889634 + 0.5)
        r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10
        scale = ((n.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
        series = 1.0 + 0.0 * r
        for k in tl.static_range(15):
            series = 1.0 + r * series / (16 - k)
    else:
        x = tl.maximum(x, -20.0)
        n = tl.floor(x * 1.4426950408889634 + 0.5)
        r = (x - n * 0.693359375) - n * -2.12194440e-4
        scale = ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
        series = 1.0 + 0.0 * r
        for k in tl.static_range(9):
            series = 1.0 + r * series * (1.0 / (10 - k))
    return scale * (r * series) + (scale - 1.0)


@triton.jit
def _advance(x, w, m, v, top, n, OPTIONS: tl.constexpr, A: tl.constexpr):
    """From the gradient, in x, to the step, in x."""
    if ADAM & OPTIONS:
        m = n[2] * m + n[3] * x
        v = n[4] * v + n[5] * x * x
        if AMSGRAD & OPTIONS:
            top = tl.where((v > top) | (v != v), v, top)  # a maximum that keeps NaN
        else:
            top = v
        x = _divide(m * n[6], _root(top, A) * n[7] + n[8], A)
    elif MOMENTUM & OPTIONS:
        if FRESH & OPTIONS:
            m = x
        else:
            m = n[2] * m + n[3] * x
        if NESTEROV & OPTIONS:
            x = x + n[2] * m
        else:
            x = m
    if DECOUPLED & OPTIONS:
        x = x + n[1] * w
    return x, m, v, top


@triton.jit
def _load(pointers, mask, A: tl.constexpr):
    if mask is None:
        return tl.load(pointers).to(A)
    else:
        return tl.load(pointers, mask=mask, other=0.0).to(A)


@triton.jit
def _read(p, at, mask, n, scale, OPTIONS: tl.constexpr, A: tl.constexpr):
    """A block: x, of which GC takes the mean, the unscaled gradient, and what the step needs beside them.

    What a caller does not use of it, the compiler does not load.
    """
    g = _load(p[1] + at, mask, A)
    if SCALED & OPTIONS:
        g = _divide(g, scale, A)
    x = g
    if MAXIMIZE & OPTIONS:
        x = -x
    w = _load(p[0] + at, mask, A)
    m, v, top = w, w, w
    if (ADAM | MOMENTUM) & OPTIONS:
        if not (FRESH & OPTIONS):
            m = _load(p[2] + at, mask, A)
    if ADAM & OPTIONS:
        v = _load(p[3] + at, mask, A)
        if AMSGRAD & OPTIONS:
            top = _load(p[4] + at, mask, A)
    if L2 & OPTIONS:
        x = x + n[1] * w
    if ON_UPDATE & OPTIONS:
        x, m, v, top = _advance(x, w, m, v, top, n, OPTIONS, A)
    return x, g, w, m, v, top


@triton.jit
def _write(p, at, mask, e, x, n, OPTIONS: tl.constexpr, A: tl.constexpr):
    """The results of a block that `_read` has given as e, of which x is now centralized."""
    _, g, w, m, v, top = e
    if not (ON_UPDATE & OPTIONS):
        x, m, v, top = _advance(x, w, m, v, top, n, OPTIONS, A)
    tl.store(p[0] + at, (w - n[0] * x).to(p[0].dtype.element_ty), mask=mask)
    if SCALED & OPTIONS:
        tl.store(p[1] + at, g.to(p[1].dtype.element_ty), mask=mask)
    if (ADAM | MOMENTUM) & OPTIONS:
        tl.store(p[2] + at, m.to(p[2].dtype.element_ty), mask=mask)
    if ADAM & OPTIONS:
        tl.store(p[3] + at, v.to(p[3].dtype.element_ty), mask=mask)
        if AMSGRAD & OPTIONS:
            tl.store(p[4] + at, top.to(p[4].dtype.element_ty), mask=mask)


@triton.jit
def _from(p, first, ALIGNED: tl.constexpr):
    """The pointers, moved on to a block, which starts at a multiple of 16 bytes if ALIGNED.

    The compiler must see that of sizes as well, for the mask: `size // VECTOR * VECTOR`, which changes nothing, tells.
    """
    w, g, m, v, top = p[0] + first, p[1] + first, p[2] + first, p[3] + first, p[4] + first
    if ALIGNED:
        w, g, m = tl.multiple_of(w, 16), tl.multiple_of(g, 16), tl.multiple_of(m, 16)
        v, top = tl.multiple_of(v, 16), tl.multiple_of(top, 16)
    return w, g, m, v, top


@triton.jit
def _flat(
    p, block, size, n, scale, OPTIONS: tl.constexpr, A: tl.constexpr, ALIGNED: tl.constexpr, VECTOR: tl.constexpr
):  # fmt: skip
    if ALIGNED:
        size = size // VECTOR * VECTOR
    first = block * TILE
    at = tl.arange(0, TILE)
    mask = at < size - first
    p = _from(p, first, ALIGNED)
    e = _read(p, at, mask, n, scale, OPTIONS, A)
    _write(p, at, mask, e, e[0], n, OPTIONS, A)


@triton.jit
def _rows(
    p, block, vectors, length, n, scale,
    OPTIONS: tl.constexpr, A: tl.constexpr, ALIGNED: tl.constexpr, VECTOR: tl.constexpr, ACROSS: tl.constexpr,
):  # fmt: skip
    DOWN: tl.constexpr = TILE // ACROSS
    p = _from(p, block * DOWN * length, ALIGNED)
    length = length.to(tl.int32)
    if ALIGNED:
        length = length // VECTOR * VECTOR
    row = tl.arange(0, DOWN)[:, None]
    column = tl.arange(0, ACROSS)[None, :]
    mask = (row < vectors - block * DOWN) & (column < length)
    at = row * length + column
    e = _read(p, at, mask, n, scale, OPTIONS, A)
    mean = _divide(tl.sum(tl.where(mask, e[0], 0.0), axis=1, keep_dims=True), length.to(A), A)
    _write(p, at, mask, e, e[0] - mean, n, OPTIONS, A)


@triton.jit
def _long(
    p, block, r1, inner, r2, n, scale,
    OPTIONS: tl.constexpr, A: tl.constexpr, ALIGNED: tl.constexpr, VECTOR: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    if ALIGNED:
        r2 = r2 // VECTOR * VECTOR
    length = r2 if WHOLE else r1 * r2
    p = _from(p, (block // inner * r1 * inner + block % inner) * r2, ALIGNED)
    lane = tl.arange(0, STRETCH)
    total = tl.zeros([STRETCH], A)
    for start in range(0, length, STRETCH):
        mask = lane < length - start
        at = lane if WHOLE else (start + lane) // r2 * (inner * r2) + (start + lane) % r2
        q = _from(p, start, ALIGNED) if WHOLE else p
        e = _read(q, at, mask, n, scale, OPTIONS, A)
        total += tl.where(mask, e[0], 0.0)
    mean = _divide(tl.sum(total, axis=0), length.to(A), A)
    last = (length - 1) // STRETCH * STRETCH
    for back in range(0, length, STRETCH):  # backwards: what was read last is still in a cache
        start = last - back
        mask = lane < length - start
        at = lane if WHOLE else (start + lane) // r2 * (inner * r2) + (start + lane) % r2
        q = _from(p, start, ALIGNED) if WHOLE else p
        e = _read(q, at, mask, n, scale, OPTIONS, A)
        _write(q, at, mask, e, e[0] - mean, n, OPTIONS, A)


@triton.jit
def _columns(
    p, block, r1, inner, r2, n, scale,
    OPTIONS: tl.constexpr, A: tl.constexpr, ALIGNED: tl.constexpr, VECTOR: tl.constexpr, GROUPED: tl.constexpr,
):  # fmt: skip
    DOWN: tl.constexpr = STRETCH // LINE
    row = tl.arange(0, DOWN)[:, None]
    column = tl.arange(0, LINE)[None, :]
    columns = inner * r2
    if ALIGNED:
        columns = columns // VECTOR * VECTOR
    width = LINE
    if GROUPED:
        width = tl.full([], LINE, tl.int64) // r2 * r2
    blocks = (columns + width - 1) // width
    start = block % blocks * width
    within = column < columns - start
    if GROUPED:
        within = within & (column < width)
    p = _from(p, block // blocks * r1 * columns + start, ALIGNED)
    at = row * columns + column
    total = tl.zeros([DOWN, LINE], A)
    for j in range(0, r1, DOWN):
        mask = (row < r1 - j) & within
        e = _read(_from(p, j * columns, ALIGNED), at, mask, n, scale, OPTIONS, A)
        total += tl.where(mask, e[0], 0.0)
    mean = tl.sum(total, axis=0, keep_dims=True)
    if GROUPED:
        other = tl.arange(0, LINE)[:, None]
        same = other // r2.to(tl.int32) == column // r2.to(tl.int32)
        mean = tl.sum(tl.where(same, tl.trans(mean), 0.0), axis=0, keep_dims=True)
    mean = _divide(mean, (r1 * r2).to(A), A)
    last = (r1 - 1) // DOWN * DOWN
    for j in range(0, r1, DOWN):
        mask = (row < r1 - (last - j)) & within
        q = _from(p, (last - j) * columns, ALIGNED)
        e = _read(q, at, mask, n, scale, OPTIONS, A)
        _write(q, at, mask, e, e[0] - mean, n, OPTIONS, A)


# Neither the bits of a number nor where a list starts may compile the kernel anew.
_POINTERS = ["work", "rows", "lr_tensor", "found_inf", "grad_scale"]
_NUMBERS = ["lr", "decay", "a", "b", "c", "d", "eps", "log_beta1", "log_beta2", "tensors"]


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_POINTERS)
def _step(
    work, rows, lr_tensor, found_inf, grad_scale,
    lr: tl.int64, decay: tl.int64, a: tl.int64, b: tl.int64, c: tl.int64, d: tl.int64, eps: tl.int64,
    log_beta1: tl.int64, log_beta2: tl.int64,
    OPTIONS: tl.constexpr, KINDS: tl.constexpr, ALIGNED: tl.constexpr, DTYPE: tl.constexpr, STATE_DTYPE: tl.constexpr,
    STEP_DTYPE: tl.constexpr,
):  # fmt: skip
    if GUARDED & OPTIONS:
        if tl.load(found_inf) != 0:
            return
    A: tl.constexpr = tl.float64 if DTYPE == tl.float64 else tl.float32
    VECTOR: tl.constexpr = 128 // DTYPE.primitive_bitwidth
    entry = tl.load(work + tl.program_id(0))
    own = entry >> 56
    block = entry & 0xFFFFFFFF
    row = rows + ((entry >> 32) & 0xFFFFFF) * WIDTH
    w = tl.load(row).to(tl.pointer_type(DTYPE))
    g = tl.load(row + 1).to(tl.pointer_type(DTYPE))
    m, v, top = g, g, g
    if (ADAM | MOMENTUM) & OPTIONS:
        m = tl.load(row + _STATE0).to(tl.pointer_type(STATE_DTYPE))
    if ADAM & OPTIONS:
        v = tl.load(row + _STATE1).to(tl.pointer_type(STATE_DTYPE))
        if AMSGRAD & OPTIONS:
            top = tl.load(row + _STATE2).to(tl.pointer_type(STATE_DTYPE))
    outer, r1 = tl.load(row + _OUTER), tl.load(row + _R1)
    inner, r2 = tl.load(row + _INNER), tl.load(row + _R2)
    p = (w, g, m, v, top)

    scale = 1.0
    if SCALED & OPTIONS:
        scale = tl.load(grad_scale).to(A)
    rate = _number(lr, A)
    if LR_TENSOR & OPTIONS:
        rate = tl.load(lr_tensor).to(A)
    correction1, correction2 = rate, rate
    if ADAM & OPTIONS:
        step = tl.load(tl.load(row + _STEP).to(tl.pointer_type(STEP_DTYPE))).to(A)  # `_count` has been here
        correction1 = _divide(1.0, -_expm1(step * _number(log_beta1, A), A), A)
        correction2 = _divide(1.0, _root(-_expm1(step * _number(log_beta2, A), A), A), A)
    n = (
        rate, _number(decay, A), _number(a, A), _number(b, A), _number(c, A), _number(d, A),
        correction1, correction2, _number(eps, A),
    )  # fmt: skip

    for kind in tl.static_range(LAST + 1):
        if (KINDS >> kind) & 1:
            if own == kind:
                if kind == _FLAT:
                    _flat(p, block, r2, n, scale, OPTIONS, A, ALIGNED, VECTOR)
                elif kind < _COLUMNS:
                    _long(p, block, r1, inner, r2, n, scale, OPTIONS, A, ALIGNED, VECTOR, kind == _LONG)
                elif kind < _ROWS:
                    _columns(p, block, r1, inner, r2, n, scale, OPTIONS, A, ALIGNED, VECTOR, kind == _GROUPS)
                else:
                    ACROSS: tl.constexpr = SHORTEST << (kind - _ROWS)
                    _rows(p, block, outer * inner, r2, n, scale, OPTIONS, A, ALIGNED, VECTOR, ACROSS)


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_POINTERS)
def _count(rows, found_inf, tensors: tl.int64, OPTIONS: tl.constexpr, BLOCK: tl.constexpr, STEP_DTYPE: tl.constexpr):
    """One more step for every tensor, before any program of `_step` reads it."""
    if GUARDED & OPTIONS:
        if tl.load(found_inf) != 0:
            return
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < tensors
    step = tl.load(rows + i * WIDTH + _STEP, mask=mask, other=0).to(tl.pointer_type(STEP_DTYPE))
    tl.store(step, tl.load(step, mask=mask, other=0.0) + 1.0, mask=mask)


# ---- The host's side.

_TRITON = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32, torch.float64: tl.float64}
DTYPES = tuple(_TRITON)
NAME = "Triton"
DTYPES = tuple(_TRITON)
_AT_ONCE = 128  # tensors that one program counts a step for


def work(rows: np.ndarray, itemsize: int) -> tuple[np.ndarray, int]:
    """The blocks of all tensors, in one int64 each: kind (8 bits), tensor (24), block (32); how many are aligned.

    Those that can be read 16 bytes at a time come first, for a launch of their own: the others need more registers.

    Args:
        rows: the table.
        itemsize: of an element of the parameters, in bytes.

    >>> one = np.zeros((1, len(table.COLUMNS)), np.int64)
    >>> one[0, table.OUTER :] = 3, 1, 1, 4096, 1  # three rows that fill a block each
    >>> [hex(entry) for entry in work(one, 4)[0]]
    ['0xd00000000000000', '0xd00000000000001', '0xd00000000000002']
    """
    outer, r1, inner, r2, centralize = rows[:, table.OUTER :].T
    tile, line, shortest = TILE.value, LINE.value, SHORTEST.value
    size = outer * r1 * inner * r2
    short = np.ceil(np.log2(np.clip(r2, shortest, tile) / shortest)).astype(np.int64)  # of powers of 2 exact
    kind = np.select(
        [centralize == 0, (r1 == 1) & (r2 > tile), r1 == 1, r2 == 1, r2 <= line],
        [FLAT, LONG, ROWS + short, COLUMNS, GROUPS],
        SPLIT,
    )
    neighbours = np.select([kind == COLUMNS, (kind == GROUPS) | (kind == SPLIT)], [inner, 1], r2)
    aligned = (rows[:, table.W : table.STEP] % 16 == 0).all(1) & (neighbours * itemsize % 16 == 0)

    in_line = np.where(kind == GROUPS, line // np.maximum(r2, 1) * r2, line)
    blocks = np.select(
        [kind == FLAT, (kind == COLUMNS) | (kind == GROUPS), kind >= ROWS],
        [
            -(-size // tile),
            outer * -(-inner * r2 // np.maximum(in_line, 1)),
            -(-outer * inner // (tile // shortest >> short)),
        ],
        outer * inner,
    )
    blocks[size == 0] = 0
    if blocks.max(initial=0) >> 32 or len(rows) >> 24:
        raise ValueError(
            f"a step on a GPU takes at most 2^24 tensors of 2^32 blocks; got {len(rows)} of {blocks.max()}"
        )

    # The longest programs first: what is left at the end is short.
    turn = np.array([5, 1, 0, 2, 3, *[4] * (LAST.value + 1 - ROWS)])[kind]
    order = np.lexsort((turn, ~aligned))
    tensor, blocks = np.repeat(order, blocks[order]), blocks[order]
    block = np.arange(len(tensor)) - np.repeat(np.cumsum(blocks) - blocks, blocks)
    return kind[tensor] << 56 | tensor << 32 | block, int(aligned[tensor].sum())


def _parts(rows: np.ndarray, itemsize: int, overlap: bool) -> tuple[np.ndarray, list[tuple[int, int, bool, int]]]:
    """The work, and the launches that it takes: tensors that share memory are updated one after another."""
    entries, count = work(rows, itemsize)
    aligned = np.arange(len(entries)) < count
    tensor = (entries >> 32 & 0xFFFFFF) if overlap else np.zeros(len(entries), np.int64)
    order = np.argsort(tensor, kind="stable")
    entries, aligned, tensor = entries[order], aligned[order], tensor[order]
    ends = [*(np.flatnonzero(np.diff(tensor) | np.diff(aligned)) + 1), len(entries)]
    parts = []
    for start, end in zip([0, *ends], ends, strict=False):
        if start < end:
            kinds = int(np.bitwise_or.reduce(1 << (entries[start:end] >> 56)))
            parts.append((start, end, bool(aligned[start]), kinds))
    return entries, parts


class _Work(NamedTuple):
    key: bytes  # what it follows from
    entries: np.ndarray
    parts: list[tuple[int, int, bool, int]]  # each a launch: from, to, whether aligned, and the kinds there, as bits
    there: Tensor


class _Uploaded(NamedTuple):
    rows: np.ndarray
    work: _Work
    there: Tensor
    from_here: list[Tensor]  # page-locked: a graph copies it again at every replay


def takes(group: dict[str, Any], p: Tensor, of_states: torch.dtype, seen: table.Geometry) -> bool:
    """Whether the kernel is right: for all that it can see."""
    return True


class Steps:
    """Steps of one group on one device. What the kernel reads of the tensors is uploaded when it has changed."""

    def __init__(self) -> None:
        self._now: _Uploaded | None = None
        self._captured: list[_Uploaded] = []  # by graphs, for as long as this lives
        self._spare: list[Tensor] = []  # page-locked memory cannot be had during a capture

    def step(
        self,
        kind: str,
        group: dict[str, Any],
        columns: list[list[Any]],
        seen: list[table.Geometry],
        fresh: bool,
        found_inf: Tensor | None = None,
        grad_scale: Tensor | None = None,
    ) -> None:
        """One step of parameters of one device and dtype, with the options of their group.

        Args:
            kind: "sgd" or "adam".
            columns: parameters, gradients, states, and Adam's steps, which are on the device.
            seen: the geometry of each parameter.
            fresh: whether this is the first step of SGD.
            found_inf, grad_scale: of a GradScaler, on the device.
        """
        tensors, steps = (columns[:5], columns[5]) if kind == "adam" else (columns, None)
        options = {
            ADAM: kind == "adam",
            ON_UPDATE: group["gc_on"] == "update",
            (DECOUPLED if group.get("decoupled_weight_decay") else L2): group["weight_decay"] != 0,
            MAXIMIZE: group["maximize"],
            NESTEROV: group.get("nesterov"),
            MOMENTUM: group.get("momentum"),
            FRESH: fresh,
            AMSGRAD: group.get("amsgrad"),
        }
        p, states = columns[0][0], columns[2]
        self.take(
            table.rows(tensors, steps, seen), p.device, p.dtype, states[0].dtype if states else p.dtype,
            sum(bit.value for bit, on in options.items() if on), group, found_inf, grad_scale,
            steps[0].dtype if steps else torch.float32,
        )  # fmt: skip

    def take(
        self,
        rows: np.ndarray,
        device: torch.device,
        dtype: torch.dtype,
        state_dtype: torch.dtype,
        options: int,
        numbers: dict[str, Any],
        found_inf: Tensor | None = None,
        grad_scale: Tensor | None = None,
        step_dtype: torch.dtype = torch.float32,
    ) -> None:
        """One step of all tensors of a table: one launch; two where some are not aligned; one more counts Adam's steps.

        Args:
            rows: from `table.rows`.
            dtype, state_dtype: of parameters and gradients, and of states; update and means are computed in float32,
                or in float64 where the parameters are.
            options: bits, from the head of this page; those for the tensors below are set here.
            numbers: lr (a tensor on the device is read there), weight_decay, and momentum and dampening or betas and
                eps.
            found_inf, grad_scale: of a GradScaler, on the device.
            step_dtype: of Adam's steps.
        """
        lr = numbers["lr"]
        if isinstance(lr, Tensor) and lr.device != device:
            lr = lr.item()
        options |= LR_TENSOR.value * isinstance(lr, Tensor)
        options |= GUARDED.value * (found_inf is not None) | SCALED.value * (grad_scale is not None)
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            there = self._there(rows, device, dtype.itemsize)
            none = there.there
            if options & ADAM.value and len(rows):
                _count[(-(-len(rows) // _AT_ONCE),)](
                    there.there, none if found_inf is None else found_inf, len(rows),
                    options & GUARDED.value, _AT_ONCE, _TRITON[step_dtype], num_warps=4,
                )  # fmt: skip
            bits = _numbers(options, {**numbers, "lr": 0.0 if isinstance(lr, Tensor) else lr}, dtype)
            for start, end, aligned, kinds in there.work.parts:
                _step[(end - start,)](
                    there.work.there[start:], there.there, lr if isinstance(lr, Tensor) else none,
                    none if found_inf is None else found_inf, none if grad_scale is None else grad_scale, *bits,
                    options, kinds, aligned, _TRITON[dtype], _TRITON[state_dtype], _TRITON[step_dtype],
                    num_warps=WARPS,
                )  # fmt: skip

    def _there(self, rows: np.ndarray, device: torch.device, itemsize: int) -> _Uploaded:
        capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        now = self._now
        if now is None or now.there.device != device or not np.array_equal(now.rows, rows):
            here: list[Tensor] = []
            aligned = (rows[:, table.W : table.STEP] % 16 == 0).all(1)
            overlap = table.overlap(rows, itemsize)
            key = rows[:, table.OUTER :].tobytes() + aligned.tobytes() + bytes([overlap, itemsize])
            if now is None or now.there.device != device or now.work.key != key:
                entries, parts = _parts(rows, itemsize, overlap)
                there = _Work(key, entries, parts, self._upload(entries, device, capturing, here))
            else:
                there = now.work
            now = _Uploaded(rows, there, self._upload(rows, device, capturing, here), here)
            if not capturing:
                self._now = now
                if device.type == "cuda":
                    self._spare = [
                        torch.empty(x.size, dtype=torch.int64, pin_memory=True) for x in (rows, there.entries)
                    ]
        if capturing:
            self._captured.append(now)
        return now

    def _upload(self, array: np.ndarray, device: torch.device, capturing: bool, here: list[Tensor]) -> Tensor:
        """The array on the device, without waiting for it."""
        flat = torch.from_numpy(array.reshape(-1))
        if device.type != "cuda" or not flat.numel():
            return flat.to(device, copy=True)
        if capturing:
            fitting = [spare for spare in self._spare if spare.numel() >= flat.numel()]
            if not fitting:
                raise RuntimeError("a step that is captured in a CUDA graph needs one before it that is not captured")
            pinned = min(fitting, key=Tensor.numel)
            self._spare = [spare for spare in self._spare if spare is not pinned]
            pinned = pinned[: flat.numel()].copy_(flat)
            here.append(pinned)
        else:
            pinned = flat.pin_memory()  # PyTorch keeps it until the copy is done
        return pinned.to(device, non_blocking=True)


def _numbers(options: int, numbers: dict[str, Any], dtype: torch.dtype) -> list[int]:
    """The kernel's numbers, rounded once to the precision that it computes in, as their bits."""
    if options & ADAM.value:
        beta1, beta2 = numbers["betas"]
        logs = [math.log(beta) if beta else -1e4 for beta in (beta1, beta2)]  # exp(-1e4) is 0
        rest = [beta1, 1 - beta1, beta2, 1 - beta2, numbers["eps"], *logs]
    else:
        rest = [numbers["momentum"], 1 - numbers["dampening"], 0.0, 0.0, 0.0, 0.0, 0.0]
    values = np.array([numbers["lr"], numbers["weight_decay"], *rest], np.float64)
    if dtype == torch.float64:
        return values.view(np.int64).tolist()
    with np.errstate(all="ignore"):
        return values.astype(np.float32).view(np.int32).tolist()

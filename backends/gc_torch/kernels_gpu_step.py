"""The Triton kernel of a step, one program a block; and the small one before it, which counts the steps of Adam."""

# As on page `kernels_gpu_rules`.
# ruff: noqa: SIM102, SIM300
# pyright: reportInvalidTypeForm=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from gc_core.low_precision import GOLDEN
from gc_torch import kernels_gpu_blocks as blocks
from gc_torch import kernels_gpu_work as list_of_work
from gc_torch import table
from gc_torch.kernels_gpu_rules import (
    ADAM,
    AMSGRAD,
    GUARDED,
    KAHAN,
    LR_TENSOR,
    MOMENTUM,
    SCALED,
    STOCHASTIC,
    divide,
    expm1,
    number,
    root,
)

WARPS = 16  # 8 elements a thread: with Adam's four arrays two programs a processor, and 64 KiB of each on their way

_WIDTH = tl.constexpr(len(table.COLUMNS))
_STATE0, _STATE1, _STATE2 = tl.constexpr(table.STATE0), tl.constexpr(table.STATE1), tl.constexpr(table.STATE2)
_STEP, _OUTER, _R1 = tl.constexpr(table.STEP), tl.constexpr(table.OUTER), tl.constexpr(table.R1)
_COMPENSATION, _STREAM, _KEY = tl.constexpr(table.COMPENSATION), tl.constexpr(table.STREAM), tl.constexpr(table.KEY)
_GOLDEN = tl.constexpr(GOLDEN)
_INNER, _R2 = tl.constexpr(table.INNER), tl.constexpr(table.R2)

_UNALIGNED = tl.constexpr(list_of_work.UNALIGNED)
_FLAT, _SPLIT = tl.constexpr(list_of_work.FLAT), tl.constexpr(list_of_work.SPLIT)
_COLUMNS, _LONG = tl.constexpr(list_of_work.COLUMNS), tl.constexpr(list_of_work.LONG)
_GROUPS, _ROWS = tl.constexpr(list_of_work.GROUPS), tl.constexpr(list_of_work.ROWS)
_PACKED, _WIDE = tl.constexpr(list_of_work.PACKED), tl.constexpr(list_of_work.WIDE)
_RAGGED, _TALL = tl.constexpr(list_of_work.RAGGED), tl.constexpr(list_of_work.TALL)
_SHORTEST, _STRIP = tl.constexpr(list_of_work.SHORTEST), tl.constexpr(list_of_work.STRIP)

# Neither the bits of a number nor where a list starts may compile a kernel anew.
_POINTERS = ["work", "rows", "corrections", "lr_tensor", "found_inf", "grad_scale"]
_NUMBERS = ["lr", "decay", "a", "b", "c", "d", "eps", "log_beta1", "log_beta2", "tensors"]


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_POINTERS)
def count(
    rows, corrections, found_inf, log_beta1: tl.int64, log_beta2: tl.int64, tensors: tl.int64,
    OPTIONS: tl.constexpr, BLOCK: tl.constexpr, STEP_DTYPE: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """One more step for every tensor, and what hangs on it, before any program of `step` reads it: the two corrections
    of Adam, or the key of random bits, which goes into the table."""
    if GUARDED & OPTIONS:
        if tl.load(found_inf) != 0:
            return
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < tensors
    at = tl.load(rows + i * _WIDTH + _STEP, mask=mask, other=0).to(tl.pointer_type(STEP_DTYPE))
    steps = tl.load(at, mask=mask, other=0.0) + 1.0
    tl.store(at, steps, mask=mask)
    if STOCHASTIC & OPTIONS:
        x = tl.load(rows + i * _WIDTH + _STREAM, mask=mask, other=0).to(tl.uint64, bitcast=True)
        x += steps.to(tl.int64).to(tl.uint64, bitcast=True) * _GOLDEN
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB
        tl.store(rows + i * _WIDTH + _KEY, (x ^ (x >> 31)).to(tl.int64, bitcast=True), mask=mask)
    if ADAM & OPTIONS:
        steps = steps.to(A)
        first = divide(1.0, -expm1(steps * number(log_beta1, A), A), A)
        second = divide(1.0, root(-expm1(steps * number(log_beta2, A), A), A), A)
        tl.store(corrections + 2 * i, first, mask=mask)
        tl.store(corrections + 2 * i + 1, second, mask=mask)


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_POINTERS)
def step(
    work, rows, corrections, lr_tensor, found_inf, grad_scale,
    lr: tl.int64, decay: tl.int64, a: tl.int64, b: tl.int64, c: tl.int64, d: tl.int64, eps: tl.int64,
    OPTIONS: tl.constexpr, KINDS: tl.constexpr, DTYPE: tl.constexpr, STATE_DTYPE: tl.constexpr,
):  # fmt: skip
    if GUARDED & OPTIONS:
        if tl.load(found_inf) != 0:
            return
    A: tl.constexpr = tl.float64 if DTYPE == tl.float64 else tl.float32
    VECTOR: tl.constexpr = 128 // DTYPE.primitive_bitwidth
    entry = tl.load(work + tl.program_id(0))
    own = entry >> 56
    block = entry & 0xFFFFFFFF
    tensor = (entry >> 32) & 0xFFFFFF
    row = rows + tensor * _WIDTH
    w = tl.load(row).to(tl.pointer_type(DTYPE))
    g = tl.load(row + 1).to(tl.pointer_type(DTYPE))
    m, v, top, left = g, g, g, g
    if (ADAM | MOMENTUM) & OPTIONS:
        m = tl.load(row + _STATE0).to(tl.pointer_type(STATE_DTYPE))
    if ADAM & OPTIONS:
        v = tl.load(row + _STATE1).to(tl.pointer_type(STATE_DTYPE))
        if AMSGRAD & OPTIONS:
            top = tl.load(row + _STATE2).to(tl.pointer_type(STATE_DTYPE))
    if KAHAN & OPTIONS:
        left = tl.load(row + _COMPENSATION).to(tl.pointer_type(DTYPE))
    key = tl.load(row)
    if STOCHASTIC & OPTIONS:
        key = tl.load(row + _KEY)
    outer, r1 = tl.load(row + _OUTER), tl.load(row + _R1)
    inner, r2 = tl.load(row + _INNER), tl.load(row + _R2)
    p = (w, g, m, v, top, left)

    rate = number(lr, A)
    if LR_TENSOR & OPTIONS:
        rate = tl.load(lr_tensor).to(A)
    correction1, correction2, unscale = rate, rate, rate
    if ADAM & OPTIONS:
        correction1 = tl.load(corrections + 2 * tensor)
        correction2 = tl.load(corrections + 2 * tensor + 1)
    if SCALED & OPTIONS:
        unscale = divide(1.0, tl.load(grad_scale).to(A), A)  # as a GradScaler does: scales are powers of 2
    n = (
        rate, number(decay, A), number(a, A), number(b, A), number(c, A), number(d, A),
        correction1, correction2, number(eps, A), unscale, tl.load(row), key,
    )  # fmt: skip

    for at in tl.static_range(2 * _UNALIGNED):
        if (KINDS >> at) & 1:
            if own == at:
                kind: tl.constexpr = at if at < _UNALIGNED else at - _UNALIGNED
                ALIGNED: tl.constexpr = at < _UNALIGNED
                if kind == _FLAT:
                    blocks.flat(p, block, r2, n, OPTIONS, A, ALIGNED, VECTOR)
                elif kind == _SPLIT:
                    blocks.split(p, block, r1, inner, r2, n, OPTIONS, A)
                elif kind == _COLUMNS:
                    blocks.columns(
                        p, block, r1, inner, r2, n, OPTIONS, A, ALIGNED, VECTOR, _STRIP // 16 * VECTOR, False
                    )
                elif kind == _LONG:
                    blocks.long(p, block, r2, n, OPTIONS, A, ALIGNED, VECTOR)
                elif kind < _ROWS:
                    LINE: tl.constexpr = _STRIP // 16 * VECTOR << (kind - _GROUPS)
                    blocks.columns(p, block, r1, inner, r2, n, OPTIONS, A, ALIGNED, VECTOR, LINE, True)
                elif kind < _PACKED:
                    blocks.rows(p, block, outer * inner, r2, n, OPTIONS, A, VECTOR, _SHORTEST << (kind - _ROWS))
                elif kind < _WIDE:
                    ACROSS: tl.constexpr = _SHORTEST << (kind - _PACKED)
                    blocks.packed(p, block, outer * inner, r2, n, OPTIONS, A, ALIGNED, VECTOR, ACROSS)
                elif kind < _RAGGED:
                    blocks.wide(p, block, r2, n, OPTIONS, A, True, VECTOR, kind - _WIDE + 1, False)
                elif kind < _TALL:
                    blocks.wide(p, block, r2, n, OPTIONS, A, ALIGNED, VECTOR, kind - _RAGGED + 1, True)
                else:
                    blocks.tall(p, block, r1, inner, n, OPTIONS, A, VECTOR, kind - _TALL + 1)

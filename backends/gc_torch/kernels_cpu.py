"""The steps of SGD and Adam with GC on a CPU: one pass over all tensors of a table (page `table`), by Numba.

Memory is what such a step waits for, and it is fastest where each thread walks through a tensor in one long run. A
gradient must be read twice, for its means and for the step, the second time from a cache:

    rows      A weight vector is summed up, then stepped on: it is in the thread's own cache.
    columns   A panel, of up to `LANES` neighbouring numbers in every row, is summed up row after row, then stepped on
              row after row. A panel larger than a thread's own cache is walked through by all threads together, first
              for the sums, then for the step: so it is in the cache that they share.

A list of items, cut by the shapes alone, says what there is to do, and every sum is added up in an order that follows
from the shape: the number of threads changes no bit. Sums are in double precision.
"""

# Numba's decorators change what a function takes.
# pyright: reportCallIssue=false, reportPrivateImportUsage=false

import ctypes
import functools
import itertools
import math
import os
from typing import Any

import numba  # first: where it is absent, this is the name to install
import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numba.np.numpy_support import from_dtype
from torch import Tensor

from gc_torch import compat, table
from gc_torch.table import CENTRALIZE, COLUMNS, GRAD, INNER, R1, R2, STATE0, STATE1, STATE2, STEP, WRITTEN, W

NAME = "Numba"
DTYPES = (torch.float32, torch.float64, torch.bfloat16)

STRIP = 512  # elements of a buffer; with those of the other tensors of a step, larger ones are slower
KEPT = 1 << 13  # elements whose steps are kept from one pass to the next
ITEM = 1 << 16  # elements of an item
LANES = 1 << 12  # of a panel, at most, unless one weight vector has more
ALONE = 1 << 10  # lanes of a panel in one thread
BLOCK = 1 << 17  # elements of a panel in one thread, so that its cache holds them
PARTS = 8  # of the sums of a panel that threads share
LINES = 4  # of 64 bytes, that are asked for together when sums of columns are formed, so many bytes ahead:
AHEAD = 1 << 12

PLAIN, MOMENTUM, NESTEROV, ADAM, AMSGRAD = range(5)  # the rules
SIGN, L2, DECOUPLED, LR, MU, UNDAMPED, BETA1, REST1, BETA2, REST2, EPS, N_NUMBERS = range(12)
(
    TABLE, TENSORS, ITEMS, COUNTS, ENDS, COUNTERS, NUMBERS, SCALES, SCRATCH, SCRATCH_BYTES, SHARED, CAPACITY,
    STAGES, THREADS, RULE, ON_UPDATE, LOGS, WIDE, N_JOB,
) = range(19)  # words of a job  # fmt: skip
TENSOR, OFFSET, SIZE, FIRST, LAST, PART, N_ITEM = range(7)  # words of an item
STARTED, READY, FINISHED = range(3)  # counters; then those of the stages

WIDTH = len(COLUMNS)
YES, NO, NONE = np.bool_(True), np.bool_(False), np.int64(0)  # for literals, Numba would compile a function once more
_WORDS, _SINGLE, _DOUBLE = np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float64)
_HALF = np.zeros(0, np.uint16)  # bfloat16, of which Numba knows nothing

# Only sums may be reordered, once and for all when they are compiled. NaN and infinity keep their meaning everywhere.
# Nothing is contracted to a fused multiply-add: where LLVM does that hangs on what is inlined. The process that
# compiles has each function twice, on its own and as it is within its caller, and runs the first; one that loads what
# was cached has the second alone. So their bits would differ.
_options: dict[str, Any] = dict(nogil=True, error_model="numpy")
_inner = dict(_options, no_cpython_wrapper=True, no_cfunc_wrapper=True)
_compiled = numba.njit(**_inner)
_compiled_sum = numba.njit(**_inner, fastmath={"reassoc"})
# The call itself would be a tenth of a call for every row of some hundred numbers. What is pasted is, to Numba, part of
# its caller, and is not compiled on its own.
_pasted = numba.njit(**_inner, inline="always")
_inlined = numba.njit(**_inner, forceinline=True)
_inlined_sum = numba.njit(**_inner, fastmath={"reassoc"}, forceinline=True)


@intrinsic
def _pointer(typingctx, address, like):
    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(address, like), codegen


@intrinsic
def _as_words(typingctx, address):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.int64)(address), codegen


@intrinsic
def _count_up(typingctx, counter):
    """Add 1 to a counter; its number before that, for this thread alone."""

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.atomic_rmw("add", array.data, context.get_constant(types.int64, 1), "acq_rel")

    return types.int64(counter), codegen


@intrinsic
def _read(typingctx, counter):
    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.load_atomic(array.data, "acquire", 8)

    return types.int64(counter), codegen


@intrinsic
def _prefetch(typingctx, address):
    """Have the memory at an address, where there may be none of ours, brought into the caches."""

    def codegen(context, builder, signature, args):
        pointer, number = builder.inttoptr(args[0], ir.IntType(8).as_pointer()), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, number(0), number(3), number(1)])  # to read, to every level, data
        return context.get_dummy_value()

    return types.void(address), codegen


_yield = types.ExternalFunction("sched_yield", types.int32())


@_compiled
def _wait(counter, number):
    """Until the counter has come to the number. What is waited for has been begun by another thread, or it is done."""
    tries = 0
    while _read(counter) < number:
        tries += 1
        if tries > 10000:  # there are more threads than cores
            _yield()


@_inlined
def _at(address, offset, n, like):
    return carray(_pointer(address + offset * like.itemsize, like), n)


def _mean(means, i):
    """Of the weight vector of number i: one for all of them, or one for each."""
    return means if np.isscalar(means) else means[i]


@overload(_mean)
def _compiled_mean(means, i):
    if isinstance(means, types.Array):
        return lambda means, i: means[i]
    return lambda means, i: means


# ---- Rows: the whole step of a weight vector, in one loop after that for its mean, which is that of ±grad + λw.


@_inlined_sum
def _total(g, w, sign, decay):
    total = 0.0
    if decay != 0:
        for i in range(len(g)):
            total += np.float64(sign * g[i] + decay * w[i])
    else:
        for i in range(len(g)):
            total += np.float64(g[i])
        total *= sign
    return total


@_pasted
def _sgd(w, g, m, means, sign, decay, rule, numbers):
    lr, mu, undamped = numbers[LR], numbers[MU], numbers[UNDAMPED]
    if rule == PLAIN:
        for i in range(len(w)):
            x = sign * g[i] - _mean(means, i)
            if decay != 0:
                x += decay * w[i]
            w[i] -= lr * x
    elif rule == MOMENTUM:
        for i in range(len(w)):
            x = sign * g[i] - _mean(means, i)
            if decay != 0:
                x += decay * w[i]
            m[i] = now = mu * m[i] + undamped * x
            w[i] -= lr * now
    else:
        for i in range(len(w)):
            x = sign * g[i] - _mean(means, i)
            if decay != 0:
                x += decay * w[i]
            m[i] = now = mu * m[i] + undamped * x
            w[i] -= lr * (x + mu * now)


@_pasted
def _adam(w, g, m, v, means, sign, l2, numbers, scale1, scale2):
    lr, decay, eps = numbers[LR], numbers[DECOUPLED], numbers[EPS]
    beta1, rest1, beta2, rest2 = numbers[BETA1], numbers[REST1], numbers[BETA2], numbers[REST2]
    for i in range(len(w)):
        x = sign * g[i] - _mean(means, i)
        if l2 != 0:
            x += l2 * w[i]
        m[i] = first = beta1 * m[i] + rest1 * x
        v[i] = second = beta2 * v[i] + rest2 * x * x
        d = scale1 * first / (scale2 * math.sqrt(second) + eps)
        if decay != 0:
            d += decay * w[i]
        w[i] -= lr * d


@_compiled
def _rows(row, offset, size, length, how, adam, numbers):
    """Weight vectors of this length, one after another; without GC any numbers."""
    rule, _, scale1, scale2 = how
    sign, l2, mean = numbers[SIGN], numbers[L2], numbers.dtype.type(0)
    for start in range(offset, offset + size, length):
        w, g = _at(row[W], start, length, numbers), _at(row[GRAD], start, length, numbers)
        m, v = _at(row[STATE0], start, length, numbers), _at(row[STATE1], start, length, numbers)
        if row[CENTRALIZE]:
            mean = numbers.dtype.type(_total(g, w, sign, l2) / length)
        if adam is None:
            _sgd(w, g, m, mean, sign, l2, rule, numbers)
        else:
            _adam(w, g, m, v, mean, sign, l2, numbers, scale1, scale2)


# ---- Anything else: strip by strip in a buffer x, which is first the gradient, then the step.


@_compiled
def _gradient(x, row, start, numbers):
    """±grad + λw."""
    sign, l2 = numbers[SIGN], numbers[L2]
    w, g = _at(row[W], start, len(x), numbers), _at(row[GRAD], start, len(x), numbers)
    if l2 != 0:
        for i in range(len(x)):
            x[i] = sign * g[i] + l2 * w[i]
    else:
        for i in range(len(x)):
            x[i] = sign * g[i]


@_compiled
def _advance(x, row, start, how, adam, numbers, again):
    """From the gradient to the step; `again`: from states that have advanced."""
    rule, _, scale1, scale2 = how
    n = len(x)
    w, m, v = _at(row[W], start, n, numbers), _at(row[STATE0], start, n, numbers), _at(row[STATE1], start, n, numbers)
    if adam is None and rule != PLAIN:
        mu, undamped = numbers[MU], numbers[UNDAMPED]
        if not again:
            for i in range(n):
                m[i] = mu * m[i] + undamped * x[i]
        if rule == MOMENTUM:
            for i in range(n):
                x[i] = m[i]
        else:
            for i in range(n):
                x[i] += mu * m[i]
    if adam is not None:
        decay, eps = numbers[DECOUPLED], numbers[EPS]
        beta1, rest1, beta2, rest2 = numbers[BETA1], numbers[REST1], numbers[BETA2], numbers[REST2]
        top = _at(row[STATE2], start, n, numbers)
        if not again:
            for i in range(n):
                m[i] = beta1 * m[i] + rest1 * x[i]
                v[i] = beta2 * v[i] + rest2 * x[i] * x[i]
            if rule == AMSGRAD:
                for i in range(n):
                    top[i] = top[i] if v[i] <= top[i] else v[i]  # NaN stays
        largest = top if rule == AMSGRAD else v
        for i in range(n):
            d = scale1 * m[i] / (scale2 * math.sqrt(largest[i]) + eps)
            if decay != 0:
                d += decay * w[i]
            x[i] = d


@_pasted
def _subtract(x, mean):
    for i in range(len(x)):
        x[i] -= mean


@_pasted
def _apply(x, row, start, numbers):
    lr, w = numbers[LR], _at(row[W], start, len(x), numbers)
    for i in range(len(x)):
        w[i] -= lr * x[i]


@_compiled
def _rows_by_strips(row, offset, size, length, scratch, how, adam, numbers):
    """The same as `_rows`, for GC on the update and AMSGrad."""
    number, centralize, kept = numbers.dtype.type, row[CENTRALIZE] != 0, length <= KEPT
    on_update = how[1] and centralize
    for first in range(offset, offset + size, length):
        total = 0.0
        for start in range(0, length if centralize else 0, STRIP):
            x = _at(scratch, start if kept else 0, min(STRIP, length - start), numbers)
            _gradient(x, row, first + start, numbers)
            if on_update:
                _advance(x, row, first + start, how, adam, numbers, NO)
            total += _total(x, x, number(1), number(0))
        mean = number(total / length)
        for start in range(0, length, STRIP):
            x = _at(scratch, start if kept else 0, min(STRIP, length - start), numbers)
            if not (kept and centralize):
                _gradient(x, row, first + start, numbers)
                if on_update:
                    _advance(x, row, first + start, how, adam, numbers, YES)
            _subtract(x, mean)
            if not on_update:
                _advance(x, row, first + start, how, adam, numbers, NO)
            _apply(x, row, first + start, numbers)


# ---- Columns: a panel has a sum and a mean for each of its lanes.


@_inlined_sum
def _add(sums, x):
    for j in range(len(sums)):
        sums[j] += np.float64(x[j])


@_inlined_sum
def _add_row(sums, address, offset, like):
    # A sum waits for each of its numbers; the processor alone does not ask for enough of them ahead.
    n, block = len(sums), LINES * 64 // like.itemsize
    for j in range(0, n - block + 1, block):
        for line in range(LINES):
            _prefetch(address + (offset + j) * like.itemsize + AHEAD + 64 * line)
        _add(sums[j : j + block], _at(address, offset + j, block, like))
    rest = n // block * block
    _add(sums[rest:], _at(address, offset + rest, n - rest, like))


@_compiled
def _add_rows(sums, address, offset, stride, rows, like):
    for i in range(rows):
        _add_row(sums, address, offset + i * stride, like)


@_compiled
def _sum_up(sums, row, offset, first, last, scratch, how, adam, numbers):
    """Rows [first, last) of a panel, lane by lane: ±grad + λw, or the step, for which the states advance."""
    _, on_update, _, _ = how
    n = len(sums)
    stride = max(n, row[INNER] * row[R2])
    sums[:] = 0
    if on_update:
        for i in range(first, last):
            for start in range(0, n, STRIP):
                x = _at(scratch, 0, min(STRIP, n - start), numbers)
                _gradient(x, row, offset + i * stride + start, numbers)
                _advance(x, row, offset + i * stride + start, how, adam, numbers, NO)
                _add(sums[start : start + len(x)], x)
        return
    sign, decay = np.float64(numbers[SIGN]), np.float64(numbers[L2])
    if decay != 0:
        _add_rows(sums, row[W], offset + first * stride, stride, last - first, numbers)
        for j in range(n):
            sums[j] *= sign * decay
    _add_rows(sums, row[GRAD], offset + first * stride, stride, last - first, numbers)
    for j in range(n):
        sums[j] *= sign


@_compiled_sum
def _means(means, sums, row):
    """Of each weight vector, which is R2 neighbouring lanes of each of the rows in a panel's row, for all its lanes."""
    length, width, part = row[R2], min(len(sums), row[INNER] * row[R2]), 1 / (row[R1] * row[R2])
    for j in range(width, len(sums)):
        sums[j % width] += sums[j]
    if length == 1:
        for j in range(width):
            means[j] = sums[j] * part
    else:
        for j in range(0, width, length):
            total = 0.0
            for k in range(j, j + length):
                total += sums[k]
            for k in range(j, j + length):
                means[k] = total * part
    for j in range(width, len(sums)):
        means[j] = means[j - width]


@_compiled
def _step_rows(row, offset, first, last, means, scratch, how, adam, numbers):
    """The step of rows [first, last) of a panel."""
    rule, on_update, scale1, scale2 = how
    sign, l2, stride = numbers[SIGN], numbers[L2], max(len(means), row[INNER] * row[R2])
    for i in range(first, last):
        start, n = offset + i * stride, len(means)
        if on_update or rule == AMSGRAD:
            for at in range(0, n, STRIP):
                x = _at(scratch, 0, min(STRIP, n - at), numbers)
                _gradient(x, row, start + at, numbers)
                if on_update:
                    _advance(x, row, start + at, how, adam, numbers, YES)
                for j in range(len(x)):
                    x[j] -= means[at + j]
                if not on_update:
                    _advance(x, row, start + at, how, adam, numbers, NO)
                _apply(x, row, start + at, numbers)
            continue
        w, g = _at(row[W], start, n, numbers), _at(row[GRAD], start, n, numbers)
        m, v = _at(row[STATE0], start, n, numbers), _at(row[STATE1], start, n, numbers)
        if adam is None:
            _sgd(w, g, m, means, sign, l2, rule, numbers)
        else:
            _adam(w, g, m, v, means, sign, l2, numbers, scale1, scale2)


# ---- bfloat16: an item is copied to float32, where it goes the same ways, and back. So each result is rounded once.


@intrinsic
def _to_single(typingctx, half):
    def codegen(context, builder, signature, args):
        word = builder.zext(args[0], ir.IntType(32))
        return builder.bitcast(builder.shl(word, word.type(16)), ir.FloatType())

    return types.float32(half), codegen


@intrinsic
def _to_half(typingctx, single):
    """To the nearest, ties to even; NaN stays."""

    def codegen(context, builder, signature, args):
        word = builder.bitcast(args[0], ir.IntType(32))
        odd = builder.and_(builder.lshr(word, word.type(16)), word.type(1))
        rounded = builder.lshr(builder.add(word, builder.add(odd, word.type(0x7FFF))), word.type(16))
        nan = builder.fcmp_unordered("uno", args[0], args[0])
        return builder.trunc(builder.select(nan, word.type(0x7FC0), rounded), ir.IntType(16))

    return types.uint16(single), codegen


@_compiled
def _unpack(wide, row, offset, n, first, last, many, buffers):
    """A row of the table for copies of the n lanes in rows [first, last), without gaps, of so many of its tensors."""
    stride = max(n, row[INNER] * row[R2])
    for column in range(many):
        to = buffers + column * n * (last - first) * 4
        wide[column] = to if row[column] else 0
        if row[column]:
            for i in range(first, last):
                x, y = _at(row[column], offset + i * stride, n, _HALF), _at(to, (i - first) * n, n, _SINGLE)
                for j in range(n):
                    y[j] = _to_single(x[j])
    wide[R1], wide[INNER], wide[R2], wide[CENTRALIZE] = row[R1], n // row[R2], row[R2], row[CENTRALIZE]


@_compiled
def _pack(row, wide, offset, n, first, last):
    """What a step has written, back."""
    stride = max(n, row[INNER] * row[R2])
    for column in WRITTEN:
        if row[column]:
            for i in range(first, last):
                x, y = _at(row[column], offset + i * stride, n, _HALF), _at(wide[column], (i - first) * n, n, _SINGLE)
                for j in range(n):
                    x[j] = _to_half(y[j])


# ---- What a thread does: stage by stage the items of its own share, then those that others have left. A stage for the
# ---- sums of a panel and one for its step alternate; in the last one all items stand alone.


@_compiled
def _count(table, wide, logs, scales):
    """Count Adam's steps, and give 1 / (1 − β1ᵗ) and 1 / √(1 − β2ᵗ) for every row of the table."""
    last = -1.0
    for index in range(len(table) // WIDTH):
        address = table[index * WIDTH + STEP]
        if wide:
            double = _at(address, 0, 1, _DOUBLE)
            double[0] += 1
            t = double[0]
        else:
            single = _at(address, 0, 1, _SINGLE)
            single[0] += np.float32(1)
            t = np.float64(single[0])
        if t == last:
            scales[2 * index], scales[2 * index + 1] = scales[2 * index - 2], scales[2 * index - 1]
            continue
        last = t
        scales[2 * index] = -1 / math.expm1(t * logs[0])
        scales[2 * index + 1] = 1 / math.sqrt(-math.expm1(t * logs[1]))


def _thread(adam, half):
    """What a thread does, as Numba compiles it: without what is for Adam, or for bfloat16, where that is None."""

    def run(address):
        job, like = carray(_as_words(address), N_JOB), carray(address, 0)  # of the dtype to compute in
        stages, threads, capacity = job[STAGES], job[THREADS], job[CAPACITY]
        table, numbers = _at(job[TABLE], 0, job[TENSORS] * WIDTH, _WORDS), _at(job[NUMBERS], 0, N_NUMBERS, like)
        scales = _at(job[SCALES], 0, 2 * job[TENSORS], like)
        if adam is not None and job[LOGS]:
            _count(table, job[WIDE] != 0, _at(job[LOGS], 0, 2, _DOUBLE), scales)
            return
        counts, ends = _at(job[COUNTS], 0, stages, _WORDS), _at(job[ENDS], 0, stages * threads, _WORDS)
        items = _at(job[ITEMS], 0, ends[-1] * N_ITEM, _WORDS)
        counters = _at(job[COUNTERS], 0, FINISHED + stages * (1 + threads), _WORDS)
        ready, finished, following = counters[READY:], counters[FINISHED:], counters[FINISHED + stages :]
        me = _count_up(counters[STARTED:])
        scratch = job[SCRATCH] + me * job[SCRATCH_BYTES]
        own_sums = _at(scratch, KEPT, capacity, _DOUBLE)
        own_means = _at(scratch + (KEPT + capacity) * 8, 0, capacity, like)
        wide = _at(scratch + (KEPT + 2 * capacity) * 8, 0, WIDTH, _WORDS)
        for stage in range(stages):
            panel, of_step, alone = stage // 2, stage % 2 == 1, stage == stages - 1
            shared_sums = _at(job[SHARED], 0, PARTS * capacity, _DOUBLE)
            shared_means = _at(job[SHARED] + (PARTS + panel % 2) * capacity * 8, 0, capacity, like)
            if of_step:
                _wait(ready, panel + 1)
            for turn in range(threads):
                share = stage * threads + (me + turn) % threads
                while True:
                    k = _count_up(following[share:])
                    if k >= ends[share]:
                        break
                    item = items[k * N_ITEM : (k + 1) * N_ITEM]
                    index, offset, n, first, last = item[TENSOR], item[OFFSET], item[SIZE], item[FIRST], item[LAST]
                    row = real = table[index * WIDTH : (index + 1) * WIDTH]
                    begin, here = first, offset
                    if half is not None:
                        many = STEP if of_step or alone else STATE0  # for its sums, parameter and gradient
                        _unpack(wide, real, offset, n, first, last, many, scratch + (KEPT + 2 * capacity + WIDTH) * 8)
                        row, here, first, last = wide, NONE, NONE, last - first
                    how = (job[RULE], job[ON_UPDATE] != 0, scales[2 * index], scales[2 * index + 1])
                    length = row[R2] if row[CENTRALIZE] else n
                    if of_step:
                        _step_rows(row, here, first, last, shared_means[:n], scratch, how, adam, numbers)
                        _count_up(finished[stage:])
                    elif not alone:
                        part = shared_sums[item[PART] * capacity :][:n]
                        _sum_up(part, row, here, first, last, scratch, how, adam, numbers)
                        if _count_up(finished[stage:]) + 1 == counts[stage]:
                            for other in range(1, counts[stage]):
                                _add(shared_sums[:n], shared_sums[other * capacity :][:n])
                            if panel >= 2:  # whose means were where these go
                                _wait(finished[stage - 3 :], counts[stage - 3])
                            _means(shared_means[:n], shared_sums[:n], real)
                            _count_up(ready)
                    elif row[R1] > 1:
                        most = max(1, min(capacity, BLOCK // last) // row[R2]) * row[R2]
                        for start in range(here, here + n, most):
                            lanes = min(most, here + n - start)
                            _sum_up(own_sums[:lanes], row, start, first, last, scratch, how, adam, numbers)
                            _means(own_means[:lanes], own_sums[:lanes], real)
                            _step_rows(row, start, first, last, own_means[:lanes], scratch, how, adam, numbers)
                    elif job[RULE] == AMSGRAD or (job[ON_UPDATE] and row[CENTRALIZE]):
                        _rows_by_strips(row, here, n, length, scratch, how, adam, numbers)
                    else:
                        _rows(row, here, n, length, how, adam, numbers)
                    if half is not None and (of_step or alone):
                        _pack(real, wide, offset, n, begin, begin + last)

    return run


@functools.cache
def _entry(kind: str, dtype: torch.dtype) -> int:
    """The address of a function of C that takes a job, for tensors of this dtype; compiled at the first call."""
    signature = types.void(types.CPointer(from_dtype(_computed_in(dtype))))
    adam, half = True if kind == "adam" else None, True if dtype == torch.bfloat16 else None
    try:
        return cfunc(signature, nopython=True, cache=True)(_thread(adam, half)).address
    except Exception:  # no place to write, a full disk, a file of the cache that ends too early
        return cfunc(signature, nopython=True)(_thread(adam, half)).address


def compile(kind: str, dtype: torch.dtype) -> None:
    """Have what steps of this kind and dtype need, before anything changes; any exception: it cannot be had."""
    _entry(kind, dtype)


def _computed_in(dtype: torch.dtype) -> np.dtype:
    return np.dtype(np.float64 if dtype == torch.float64 else np.float32)


# ---- Threads: those of PyTorch itself. Threads of our own would wait for PyTorch's, which spin for a while after their
# ---- work is done; on few cores that costs a quarter of the step.


_parallel = compat.gomp_parallel()
if _parallel is None:
    raise NotImplementedError("this build of PyTorch has no GOMP_parallel, on whose threads the kernel runs")
_parallel.argtypes, _parallel.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
_on_this_thread = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_forked = False  # of OpenMP's threads a child process has none, and would wait for them


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):  # elsewhere there is no fork
    os.register_at_fork(after_in_child=_note_fork)


def takes(group: dict[str, Any], p: Tensor, of_states: torch.dtype, seen: table.Geometry) -> bool:
    """Whether the kernel is right: between the two stages of a panel, bfloat16 would round the states."""
    return p.dtype != torch.bfloat16 or (of_states == p.dtype and (group["gc_on"] == "gradient" or seen.r1 == 1))


def work(seen: Any) -> tuple[np.ndarray, np.ndarray]:
    """What there is to do: items, and how many of them each stage has.

    An item is (tensor, offset, size, first row, last row + 1, part): of columns, `size` lanes from the offset on in
    these rows; else `size` numbers. The part says whose sums they are of those that make up the sums of a panel.

    Args:
        seen: `Geometry` of each tensor.

    >>> items, counts = work([table.Geometry(1000, 1, 1, 256, 1), table.Geometry(1, 300, 1000, 1, 1)])
    >>> items[:3].tolist(), counts.tolist()
    ([[1, 0, 1000, 0, 37, 0], [1, 0, 1000, 37, 75, 1], [1, 0, 1000, 75, 112, 2]], [8, 5, 4])
    """
    shared: list[list[tuple[int, ...]]] = []
    alone: list[tuple[int, ...]] = []
    for tensor, (outer, r1, inner, r2, centralize) in enumerate(np.asarray(seen).tolist()):
        row, size = inner * r2, outer * r1 * inner * r2
        if not size:
            continue
        if not centralize or r1 == 1:
            unit = r2 if centralize else 1
            most = max(1, ITEM // unit) * unit
            alone += [(tensor, at, min(most, size - at), 0, 1, 0) for at in range(0, size, most)]
            continue
        rows = r1
        if row < STRIP:  # several rows side by side, where they come out even
            together = next(k for k in range(STRIP // row, 0, -1) if r1 % k == 0)
            row, rows = together * row, r1 // together
        in_one_thread = rows * min(ALONE, row) <= BLOCK
        most = max(ALONE, ITEM // rows) if in_one_thread else -(-row // -(-row // LANES))
        most = -(-most // r2) * r2
        for at in (start + lane for start in range(0, size, rows * row) for lane in range(0, row, most)):
            n = min(most, row - at % row)
            if in_one_thread:
                alone.append((tensor, at, n, 0, rows, 0))
                continue
            cuts = [rows * part // PARTS for part in range(PARTS + 1)]
            shared.append([(tensor, at, n, cuts[part], cuts[part + 1], part) for part in range(PARTS)])
            some = max(1, ITEM // n)
            shared.append([(tensor, at, n, first, min(first + some, rows), 0) for first in range(0, rows, some)])
    stages = [*shared, alone]
    return (
        np.array([item for stage in stages for item in stage], np.int64).reshape(-1, N_ITEM),
        np.array(list(map(len, stages)), np.int64),
    )


def shares(items: np.ndarray, counts: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the share of each thread in each stage begins and ends, in items: in one run, and even.

    >>> items, counts = work([table.Geometry(1000, 1, 1, 256, 1)])
    >>> [cuts.tolist() for cuts in shares(items, counts, 2)]
    [[[0, 2]], [[2, 4]]]
    """
    numbers = items[:, SIZE] * (items[:, LAST] - items[:, FIRST])
    ends = np.zeros((len(counts), threads), np.int64)
    done = np.concatenate([[0], np.cumsum(counts)])
    for stage, (first, last) in enumerate(itertools.pairwise(done)):
        here = numbers[first:last]
        middles = np.cumsum(here) - here / 2
        ends[stage] = first + np.searchsorted(middles, here.sum() * np.arange(1, threads + 1) / threads)
    return np.concatenate([[0], ends.ravel()[:-1]]).reshape(ends.shape), ends


class Steps:
    """Steps of the same tensors, one after another; what a job has of them is set up once."""

    def __init__(self) -> None:
        self._job = np.zeros(N_JOB, np.int64)
        self._rows = np.zeros(0, np.int64)
        self._threads = 0

    def step(
        self,
        kind: str,
        group: dict[str, Any],
        columns: list[list[Any]],
        seen: Any,
        fresh: bool,
        found_inf: Tensor | None = None,
        grad_scale: Tensor | None = None,
    ) -> None:
        """One step of parameters of one dtype, with the options of their group.

        Args:
            kind: "sgd" or "adam".
            columns: parameters, gradients, states, and Adam's steps.
            seen: the geometry of each parameter.
            fresh: whether this is the first step of SGD; its momentum buffers are zero.
            found_inf, grad_scale: of a GradScaler; gradients are left unscaled, as by PyTorch's fused step.
        """
        if found_inf is not None and found_inf.item():
            return
        if grad_scale is not None:
            compat.divide_(columns[1], grad_scale.item())
        tensors, steps = (columns[:5], columns[5]) if kind == "adam" else (columns, None)
        if not len(self._rows):
            self._set_up(seen, columns[0][0].dtype)
        rows = self._rows
        rows[:, STATE0 : STEP + 1] = 0
        for index, column in enumerate(tensors):
            if column:
                rows[:, index] = table.addresses(column)
        if not np.array_equal(rows[:, WRITTEN], self._written):
            self._written, self._overlap = rows[:, WRITTEN], table.overlap(rows, self._dtype.itemsize)
        self._share(1 if _forked or self._overlap else torch.get_num_threads())
        self._numbers[:] = _numbers(kind, group, fresh)
        self._counters[:] = self._counters_at_start
        self._job[RULE], self._job[ON_UPDATE] = _rule(kind, group), group["gc_on"] == "update"
        entry, address = _entry(kind, self._dtype), self._address
        if steps:
            rows[:, STEP] = table.addresses(steps)
            logs = np.array([math.log(beta) if beta else -math.inf for beta in group["betas"]])
            self._job[LOGS], self._job[WIDE] = logs.ctypes.data, steps[0].dtype == torch.float64
            _on_this_thread(entry)(address)
            self._job[LOGS] = 0
        if self._threads > 1:
            _parallel(entry, address, self._threads, 0)
        else:
            _on_this_thread(entry)(address)

    def _set_up(self, seen: Any, dtype: torch.dtype) -> None:
        self._rows, self._dtype, number = table.rows([], None, seen), dtype, _computed_in(dtype)
        self._scales, self._numbers = np.ones((len(self._rows), 2), number), np.zeros(N_NUMBERS, number)
        self._items, self._counts = work(seen)
        self._written, self._overlap = np.zeros(0, np.int64), False
        columns = self._rows[self._rows[:, R1] > 1, R2]
        shared = self._items[: self._counts[:-1].sum(), SIZE]
        self._capacity = max([ALONE, *columns.tolist(), *shared.tolist()])
        self._job[[TENSORS, STAGES, CAPACITY]] = len(self._rows), len(self._counts), self._capacity
        self._address = self._job.ctypes.data

    def _share(self, threads: int) -> None:
        """Cut the work for so many threads, if it is not."""
        threads = max(1, min(threads, len(self._items)))
        if threads == self._threads:
            return
        self._threads, stages = threads, len(self._counts)
        begins, self._ends = shares(self._items, self._counts, threads)
        self._counters_at_start = np.concatenate([np.zeros(FINISHED + stages, np.int64), begins.ravel()])
        self._counters = self._counters_at_start.copy()
        # PyTorch's memory is aligned.
        size = KEPT + 2 * self._capacity
        if self._dtype == torch.bfloat16:
            rows = self._items[:, LAST] - self._items[:, FIRST]
            size += WIDTH + STEP * int((self._items[:, SIZE] * rows).max(initial=0) + 1) // 2
        self._scratch = torch.zeros(threads, size, dtype=torch.float64)
        self._shared = torch.zeros((PARTS + 2) * self._capacity if stages > 1 else 0, dtype=torch.float64)
        arrays = {
            TABLE: self._rows, ITEMS: self._items, COUNTS: self._counts, ENDS: self._ends, COUNTERS: self._counters,
            NUMBERS: self._numbers, SCALES: self._scales, SCRATCH: self._scratch.numpy(),
            SHARED: self._shared.numpy(),
        }  # fmt: skip
        for word, array in arrays.items():
            self._job[word] = array.ctypes.data
        self._job[[SCRATCH_BYTES, THREADS]] = self._scratch.stride(0) * 8, threads


def _rule(kind: str, group: dict[str, Any]) -> int:
    if kind == "adam":
        return AMSGRAD if group["amsgrad"] else ADAM
    return NESTEROV if group["nesterov"] else MOMENTUM if group["momentum"] else PLAIN


def _numbers(kind: str, group: dict[str, Any], fresh: bool) -> list[float]:
    numbers = [0.0] * N_NUMBERS
    numbers[SIGN] = -1.0 if group["maximize"] else 1.0
    numbers[DECOUPLED if group.get("decoupled_weight_decay") else L2] = float(group["weight_decay"])
    numbers[LR] = float(group["lr"])
    if kind == "adam":
        beta1, beta2 = group["betas"]
        numbers[BETA1 : EPS + 1] = beta1, 1 - beta1, beta2, 1 - beta2, group["eps"]
    else:
        numbers[MU : UNDAMPED + 1] = group["momentum"], 1 if fresh else 1 - group["dampening"]
    return numbers

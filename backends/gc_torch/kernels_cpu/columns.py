"""Columns: a panel has a sum and a mean for each of its lanes."""

# Numba's decorators change what a function takes.
# pyright: reportCallIssue=false, reportPrivateImportUsage=false

import numpy as np

from gc_torch.kernels_cpu.compiling import compiled, compiled_sum, elements, inlined_sum, prefetch
from gc_torch.kernels_cpu.rows import adam_loop, sgd_loop
from gc_torch.kernels_cpu.strips import advance, apply, gradient
from gc_torch.kernels_cpu.words import AHEAD, AMSGRAD, L2, LINES, NO, SIGN, STRIP, YES
from gc_torch.table import GRAD, INNER, R1, R2, STATE0, STATE1, W


@inlined_sum
def add(sums, x):
    for j in range(len(sums)):
        sums[j] += np.float64(x[j])


@inlined_sum
def _add_row(sums, address, offset, like):
    # A sum waits for each of its numbers; the processor alone does not ask for enough of them ahead.
    n, block = len(sums), LINES * 64 // like.itemsize
    for j in range(0, n - block + 1, block):
        for line in range(LINES):
            prefetch(address + (offset + j) * like.itemsize + AHEAD + 64 * line)
        add(sums[j : j + block], elements(address, offset + j, block, like))
    rest = n // block * block
    add(sums[rest:], elements(address, offset + rest, n - rest, like))


@compiled
def _add_rows(sums, address, offset, stride, rows, like):
    for i in range(rows):
        _add_row(sums, address, offset + i * stride, like)


@compiled
def sum_panel(sums, row, offset, first, last, scratch, how, adam, numbers):
    """Rows [first, last) of a panel, lane by lane: ±grad + λw, or the step, for which the states advance."""
    _, on_update, _, _ = how
    n = len(sums)
    stride = max(n, row[INNER] * row[R2])
    sums[:] = 0
    if on_update:
        for i in range(first, last):
            for start in range(0, n, STRIP):
                x = elements(scratch, 0, min(STRIP, n - start), numbers)
                gradient(x, row, offset + i * stride + start, numbers)
                advance(x, row, offset + i * stride + start, how, adam, numbers, NO)
                add(sums[start : start + len(x)], x)
        return
    sign, decay = np.float64(numbers[SIGN]), np.float64(numbers[L2])
    if decay != 0:
        _add_rows(sums, row[W], offset + first * stride, stride, last - first, numbers)
        for j in range(n):
            sums[j] *= sign * decay
    _add_rows(sums, row[GRAD], offset + first * stride, stride, last - first, numbers)
    for j in range(n):
        sums[j] *= sign


@compiled_sum
def means_of(means, sums, row):
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


@compiled
def step_panel(row, offset, first, last, means, scratch, how, adam, numbers):
    """The step of rows [first, last) of a panel."""
    rule, on_update, scale1, scale2 = how
    sign, l2, stride = numbers[SIGN], numbers[L2], max(len(means), row[INNER] * row[R2])
    for i in range(first, last):
        start, n = offset + i * stride, len(means)
        if on_update or rule == AMSGRAD:
            for at in range(0, n, STRIP):
                x = elements(scratch, 0, min(STRIP, n - at), numbers)
                gradient(x, row, start + at, numbers)
                if on_update:
                    advance(x, row, start + at, how, adam, numbers, YES)
                for j in range(len(x)):
                    x[j] -= means[at + j]
                if not on_update:
                    advance(x, row, start + at, how, adam, numbers, NO)
                apply(x, row, start + at, numbers)
            continue
        w, g = elements(row[W], start, n, numbers), elements(row[GRAD], start, n, numbers)
        m, v = elements(row[STATE0], start, n, numbers), elements(row[STATE1], start, n, numbers)
        if adam is None:
            sgd_loop(w, g, m, means, sign, l2, rule, numbers)
        else:
            adam_loop(w, g, m, v, means, sign, l2, numbers, scale1, scale2)

"""GC on the update and AMSGrad: strip by strip in a buffer x, which is first the gradient, then the step."""

# Numba's decorators change what a function takes.
# pyright: reportCallIssue=false, reportPrivateImportUsage=false

import math

from gc_torch.kernels_cpu.compiling import compiled, elements, pasted
from gc_torch.kernels_cpu.rows import sum_of
from gc_torch.kernels_cpu.words import (
    AMSGRAD,
    BETA1,
    BETA2,
    DECOUPLED,
    EPS,
    KEPT,
    L2,
    LR,
    MOMENTUM,
    MU,
    NO,
    PLAIN,
    REST1,
    REST2,
    SIGN,
    STRIP,
    UNDAMPED,
    YES,
)
from gc_torch.table import CENTRALIZE, GRAD, STATE0, STATE1, STATE2, W


@compiled
def gradient(x, row, start, numbers):
    """±grad + λw."""
    sign, l2 = numbers[SIGN], numbers[L2]
    w, g = elements(row[W], start, len(x), numbers), elements(row[GRAD], start, len(x), numbers)
    if l2 != 0:
        for i in range(len(x)):
            x[i] = sign * g[i] + l2 * w[i]
    else:
        for i in range(len(x)):
            x[i] = sign * g[i]


@compiled
def advance(x, row, start, how, adam, numbers, again):
    """From the gradient to the step; `again`: from states that have advanced."""
    rule, _, scale1, scale2 = how
    n = len(x)
    w, m, v = (
        elements(row[W], start, n, numbers),
        elements(row[STATE0], start, n, numbers),
        elements(row[STATE1], start, n, numbers),
    )
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
        top = elements(row[STATE2], start, n, numbers)
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


@pasted
def subtract(x, mean):
    for i in range(len(x)):
        x[i] -= mean


@pasted
def apply(x, row, start, numbers):
    lr, w = numbers[LR], elements(row[W], start, len(x), numbers)
    for i in range(len(x)):
        w[i] -= lr * x[i]


@compiled
def step_strips(row, offset, size, length, scratch, how, adam, numbers):
    """The same as `step_rows`, for GC on the update and AMSGrad."""
    number, centralize, kept = numbers.dtype.type, row[CENTRALIZE] != 0, length <= KEPT
    on_update = how[1] and centralize
    for first in range(offset, offset + size, length):
        total = 0.0
        for start in range(0, length if centralize else 0, STRIP):
            x = elements(scratch, start if kept else 0, min(STRIP, length - start), numbers)
            gradient(x, row, first + start, numbers)
            if on_update:
                advance(x, row, first + start, how, adam, numbers, NO)
            total += sum_of(x, x, number(1), number(0))
        mean = number(total / length)
        for start in range(0, length, STRIP):
            x = elements(scratch, start if kept else 0, min(STRIP, length - start), numbers)
            if not (kept and centralize):
                gradient(x, row, first + start, numbers)
                if on_update:
                    advance(x, row, first + start, how, adam, numbers, YES)
            subtract(x, mean)
            if not on_update:
                advance(x, row, first + start, how, adam, numbers, NO)
            apply(x, row, first + start, numbers)

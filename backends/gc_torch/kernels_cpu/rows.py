"""Rows: the whole step of a weight vector, in one loop after that for its mean, which is that of ±grad + λw."""

# Numba's decorators change what a function takes.
# pyright: reportCallIssue=false, reportPrivateImportUsage=false

import math

import numpy as np

from gc_torch.kernels_cpu.compiling import compiled, elements, inlined_sum, mean_of, pasted
from gc_torch.kernels_cpu.words import (
    BETA1,
    BETA2,
    DECOUPLED,
    EPS,
    L2,
    LR,
    MOMENTUM,
    MU,
    PLAIN,
    REST1,
    REST2,
    SIGN,
    UNDAMPED,
)
from gc_torch.table import CENTRALIZE, GRAD, STATE0, STATE1, W


@inlined_sum
def sum_of(g, w, sign, decay):
    total = 0.0
    if decay != 0:
        for i in range(len(g)):
            total += np.float64(sign * g[i] + decay * w[i])
    else:
        for i in range(len(g)):
            total += np.float64(g[i])
        total *= sign
    return total


@pasted
def sgd_loop(w, g, m, means, sign, decay, rule, numbers):
    lr, mu, undamped = numbers[LR], numbers[MU], numbers[UNDAMPED]
    if rule == PLAIN:
        for i in range(len(w)):
            x = sign * g[i] - mean_of(means, i)
            if decay != 0:
                x += decay * w[i]
            w[i] -= lr * x
    elif rule == MOMENTUM:
        for i in range(len(w)):
            x = sign * g[i] - mean_of(means, i)
            if decay != 0:
                x += decay * w[i]
            m[i] = now = mu * m[i] + undamped * x
            w[i] -= lr * now
    else:
        for i in range(len(w)):
            x = sign * g[i] - mean_of(means, i)
            if decay != 0:
                x += decay * w[i]
            m[i] = now = mu * m[i] + undamped * x
            w[i] -= lr * (x + mu * now)


@pasted
def adam_loop(w, g, m, v, means, sign, l2, numbers, scale1, scale2):
    lr, decay, eps = numbers[LR], numbers[DECOUPLED], numbers[EPS]
    beta1, rest1, beta2, rest2 = numbers[BETA1], numbers[REST1], numbers[BETA2], numbers[REST2]
    for i in range(len(w)):
        x = sign * g[i] - mean_of(means, i)
        if l2 != 0:
            x += l2 * w[i]
        m[i] = first = beta1 * m[i] + rest1 * x
        v[i] = second = beta2 * v[i] + rest2 * x * x
        d = scale1 * first / (scale2 * math.sqrt(second) + eps)
        if decay != 0:
            d += decay * w[i]
        w[i] -= lr * d


@compiled
def step_rows(row, offset, size, length, how, adam, numbers):
    """Weight vectors of this length, one after another; without GC any numbers."""
    rule, _, scale1, scale2 = how
    sign, l2, mean = numbers[SIGN], numbers[L2], numbers.dtype.type(0)
    for start in range(offset, offset + size, length):
        w, g = elements(row[W], start, length, numbers), elements(row[GRAD], start, length, numbers)
        m, v = elements(row[STATE0], start, length, numbers), elements(row[STATE1], start, length, numbers)
        if row[CENTRALIZE]:
            mean = numbers.dtype.type(sum_of(g, w, sign, l2) / length)
        if adam is None:
            sgd_loop(w, g, m, mean, sign, l2, rule, numbers)
        else:
            adam_loop(w, g, m, v, mean, sign, l2, numbers, scale1, scale2)

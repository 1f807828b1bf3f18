"""The steps of SGD and Adam with GC on a CPU: one pass over all tensors of a table (page `table`), by Numba.

Memory is what such a step waits for. So each strip of a tensor, small enough for the innermost cache, goes through
everything at once: the gradient is read into a buffer and centralized there, the states advance, the weights follow.
The means must be known before, so a block, of whole weight vectors, is read twice, the second time from a cache.

A list of blocks, cut by the shapes alone, says who does what, and every sum is added up in an order that follows from
the shape: the number of threads changes no bit. Sums are in double precision.
"""

# Numba's decorators change what a function takes.
# pyright: reportCallIssue=false, reportPrivateImportUsage=false

import ctypes
import functools
import math
import os
from typing import Any

import numpy as np
import torch
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic
from torch import Tensor

from gc_torch import table
from gc_torch.table import CENTRALIZE, COLUMNS, GRAD, INNER, R1, R2, STATE0, STATE1, STATE2, STEP, W

NAME = "Numba"
DTYPES = (torch.float32, torch.float64)

KEPT = 1 << 13  # elements whose steps are kept from one pass to the next
STRIP = 512  # elements; with those of the other tensors of a step, larger ones are slower
ITEM = 1 << 16  # elements that a thread takes at a time
BLOCK = 1 << 17  # elements of a block of columns, so that they are still in a cache when the means are known
LINE = 16  # columns at least of a block: what a line of the cache holds

PLAIN, MOMENTUM, NESTEROV, ADAM, AMSGRAD = range(5)  # the rules
TABLE, TENSORS, ITEMS, N_ITEMS, COUNTERS, NUMBERS, SCALES, SCRATCH, RULE, ON_UPDATE, JOB = range(11)  # words of a job
SIGN, L2, DECOUPLED, LR, MU, UNDAMPED, BETA1, REST1, BETA2, REST2, EPS, N_NUMBERS = range(12)

WIDTH = len(COLUMNS)
SCRATCH_BYTES = (KEPT + 2 * STRIP) * 8
_WORDS, _SINGLE, _DOUBLE = np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float64)

# Only sums may be reordered, once and for all when they are compiled. NaN and infinity keep their meaning everywhere.
_options: dict[str, Any] = dict(nogil=True, error_model="numpy")
_inner = dict(_options, no_cpython_wrapper=True, no_cfunc_wrapper=True)
_compiled = njit(**_inner, fastmath={"contract"})
_compiled_sum = njit(**_inner, fastmath={"contract", "reassoc"})


@intrinsic
def _pointer(typingctx, address, like):
    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(address, like), codegen


@intrinsic
def _take(typingctx, counter):
    """The counter's number, for this thread alone."""

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.atomic_rmw("add", array.data, context.get_constant(types.int64, 1), "monotonic")

    return types.int64(counter), codegen


@_compiled
def _at(address, offset, n, like):
    return carray(_pointer(address + offset * like.itemsize, like), n)


# ---- What happens to a strip. x is a buffer: first the gradient as the rule has it, ±grad + λw, then the step.


@_compiled_sum
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


@_compiled
def _add_up(sums, g, w, length, sign, decay):
    """Each weight vector of this length, or of it what is here, to its own sum."""
    if length > 1:
        for j in range(len(g) // length):
            sums[j] += _total(g[j * length : (j + 1) * length], w[j * length : (j + 1) * length], sign, decay)
    elif decay != 0:
        for j in range(len(g)):
            sums[j] += np.float64(sign * g[j] + decay * w[j])
    else:
        for j in range(len(g)):
            sums[j] += np.float64(sign * g[j])


@_compiled
def _gradient(x, g, w, sign, decay, mean):
    if decay != 0:
        for i in range(len(x)):
            x[i] = sign * g[i] + decay * w[i] - mean
    else:
        for i in range(len(x)):
            x[i] = sign * g[i] - mean


@_compiled
def _subtract(x, means, length):
    """From each weight vector of this length its mean."""
    if length == 1:
        for j in range(len(x)):
            x[j] -= means[j]
        return
    for j in range(len(x) // length):
        vector, mean = x[j * length : (j + 1) * length], means[j]
        for i in range(length):
            vector[i] -= mean


@_compiled
def _sgd(w, g, m, mean, sign, decay, rule, numbers):
    """The whole step of a strip whose mean is known; the buffer may stand for the gradient."""
    lr, mu, undamped = numbers[LR], numbers[MU], numbers[UNDAMPED]
    if rule == PLAIN:
        for i in range(len(w)):
            x = sign * g[i] - mean
            if decay != 0:
                x += decay * w[i]
            w[i] -= lr * x
    elif rule == MOMENTUM:
        for i in range(len(w)):
            x = sign * g[i] - mean
            if decay != 0:
                x += decay * w[i]
            m[i] = now = mu * m[i] + undamped * x
            w[i] -= lr * now
    else:
        for i in range(len(w)):
            x = sign * g[i] - mean
            if decay != 0:
                x += decay * w[i]
            m[i] = now = mu * m[i] + undamped * x
            w[i] -= lr * (x + mu * now)


@_compiled
def _adam(w, g, m, v, mean, sign, l2, numbers, scale1, scale2):
    """The same for Adam."""
    lr, decay, eps = numbers[LR], numbers[DECOUPLED], numbers[EPS]
    beta1, rest1, beta2, rest2 = numbers[BETA1], numbers[REST1], numbers[BETA2], numbers[REST2]
    for i in range(len(w)):
        x = sign * g[i] - mean
        if l2 != 0:
            x += l2 * w[i]
        m[i] = first = beta1 * m[i] + rest1 * x
        v[i] = second = beta2 * v[i] + rest2 * x * x
        d = scale1 * first / (scale2 * math.sqrt(second) + eps)
        if decay != 0:
            d += decay * w[i]
        w[i] -= lr * d


@_compiled
def _step(x, w, m, v, top, rule, numbers, scale1, scale2, advance):
    """The step, into x; without `advance` from states that have advanced."""
    if rule in (MOMENTUM, NESTEROV):
        mu, undamped = numbers[MU], numbers[UNDAMPED]
        if advance:
            for i in range(len(w)):
                m[i] = mu * m[i] + undamped * x[i]
        if rule == MOMENTUM:
            for i in range(len(w)):
                x[i] = m[i]
        else:
            for i in range(len(w)):
                x[i] += mu * m[i]
    elif rule >= ADAM:
        decay, eps = numbers[DECOUPLED], numbers[EPS]
        beta1, rest1, beta2, rest2 = numbers[BETA1], numbers[REST1], numbers[BETA2], numbers[REST2]
        if advance:
            for i in range(len(w)):
                m[i] = beta1 * m[i] + rest1 * x[i]
                v[i] = beta2 * v[i] + rest2 * x[i] * x[i]
            if rule == AMSGRAD:
                for i in range(len(w)):
                    top[i] = top[i] if v[i] <= top[i] else v[i]  # NaN stays
        largest = top if rule == AMSGRAD else v
        for i in range(len(w)):
            d = scale1 * m[i] / (scale2 * math.sqrt(largest[i]) + eps)
            if decay != 0:
                d += decay * w[i]
            x[i] = d


@_compiled
def _apply(w, x, numbers):
    lr = numbers[LR]
    for i in range(len(w)):
        w[i] -= lr * x[i]


@_compiled
def _block(row, outer, first, last, scratch, rule, on_update, numbers, scale1, scale2):
    """Weight vectors [outer, :, first:last, :] of a tensor (outer, r1, inner, r2), several of them only within a strip.

    Without GC: elements [first, last).
    """
    number, sign, decay = numbers.dtype.type, numbers[SIGN], numbers[L2]
    r1, inner, r2, centralize = row[R1], row[INNER], row[R2], row[CENTRALIZE] != 0
    if not centralize:
        r1, r2, on_update = 1, 1, False
    vectors = last - first
    size = vectors * r2  # of one run
    means, sums = _at(scratch, KEPT, STRIP, numbers), _at(scratch, KEPT + STRIP, STRIP, _DOUBLE)
    kept = r1 * size <= KEPT  # the steps, until their means are known
    done = 0
    if centralize:
        most = STRIP if on_update or r1 > 1 else size
        sums[:vectors] = 0
        for i in range(r1):
            run = ((outer * r1 + i) * inner + first) * r2
            for start in range(run, run + size, most):
                n = min(most, run + size - start)
                w, g = _at(row[W], start, n, numbers), _at(row[GRAD], start, n, numbers)
                length = n if vectors == 1 else r2
                if not on_update:
                    _add_up(sums, g, w, length, sign, decay)
                    continue
                x = _at(scratch, done if kept else 0, n, numbers)
                m, v = _at(row[STATE0], start, n, numbers), _at(row[STATE1], start, n, numbers)
                top = _at(row[STATE2], start, n, numbers)
                _gradient(x, g, w, sign, decay, number(0))
                _step(x, w, m, v, top, rule, numbers, scale1, scale2, True)
                _add_up(sums, x, w, length, number(1), number(0))
                done += n
        for j in range(vectors):
            means[j] = number(sums[j] / (r1 * r2))
    done = 0
    for i in range(r1):
        run = ((outer * r1 + i) * inner + first) * r2
        for start in range(run, run + size, STRIP):
            n = min(STRIP, run + size - start)
            w, g = _at(row[W], start, n, numbers), _at(row[GRAD], start, n, numbers)
            m, v = _at(row[STATE0], start, n, numbers), _at(row[STATE1], start, n, numbers)
            top = _at(row[STATE2], start, n, numbers)
            x = _at(scratch, done if on_update and kept else 0, n, numbers)
            length = n if vectors == 1 else r2
            done += n
            if on_update:
                if not kept:
                    _gradient(x, g, w, sign, decay, number(0))
                    _step(x, w, m, v, top, rule, numbers, scale1, scale2, False)
                _subtract(x, means, length)
                _apply(w, x, numbers)
                continue
            if rule == AMSGRAD or (centralize and vectors > 1):
                _gradient(x, g, w, sign, decay, means[0] if centralize and vectors == 1 else number(0))
                if centralize and vectors > 1:
                    _subtract(x, means, length)
                if rule == AMSGRAD:
                    _step(x, w, m, v, top, rule, numbers, scale1, scale2, True)
                    _apply(w, x, numbers)
                elif rule == ADAM:
                    _adam(w, x, m, v, number(0), number(1), number(0), numbers, scale1, scale2)
                else:
                    _sgd(w, x, m, number(0), number(1), number(0), rule, numbers)
                continue
            mean = means[0] if centralize else number(0)
            if rule == ADAM:
                _adam(w, g, m, v, mean, sign, decay, numbers, scale1, scale2)
            else:
                _sgd(w, g, m, mean, sign, decay, rule, numbers)


@_compiled
def _blocks(row, first, last, scratch, rule, on_update, numbers, scale1, scale2):
    """One item: units [first, last), weight vectors, or elements without GC."""
    outer, most = 0, last - first
    if row[CENTRALIZE]:
        if row[R1] == 1:
            most = max(1, STRIP // row[R2])
        else:
            outer = first // row[INNER]
            first, last = first - outer * row[INNER], last - outer * row[INNER]
    for start in range(first, last, most):
        _block(row, outer, start, min(start + most, last), scratch, rule, on_update, numbers, scale1, scale2)


@_compiled
def _thread(job, like):
    """What one thread does: items, as long as there are any."""
    table, items = _at(job[TABLE], 0, job[TENSORS] * WIDTH, _WORDS), _at(job[ITEMS], 0, job[N_ITEMS] * 3, _WORDS)
    counters = _at(job[COUNTERS], 0, 2, _WORDS)
    numbers, scales = _at(job[NUMBERS], 0, N_NUMBERS, like), _at(job[SCALES], 0, 2 * job[TENSORS], like)
    scratch = job[SCRATCH] + _take(counters[1:]) * SCRATCH_BYTES
    while True:
        k = 3 * _take(counters)
        if k >= len(items):
            return
        index = items[k]
        row = table[index * WIDTH : (index + 1) * WIDTH]
        _blocks(
            row, items[k + 1], items[k + 2], scratch, job[RULE], job[ON_UPDATE] != 0, numbers,
            scales[2 * index], scales[2 * index + 1],
        )  # fmt: skip


@njit(**_options, cache=True)
def _count(table, like, log_beta1, log_beta2, scales):
    """Count Adam's steps, and give 1 / (1 − β1ᵗ) and 1 / √(1 − β2ᵗ) for every row of the table."""
    last = -1.0
    for index in range(len(table)):
        step = _at(table[index, STEP], 0, 1, like)
        step[0] += like.dtype.type(1)
        t = np.float64(step[0])
        if t == last:
            scales[index] = scales[index - 1]
            continue
        last = t
        scales[index, 0] = -1 / math.expm1(t * log_beta1)
        scales[index, 1] = 1 / math.sqrt(-math.expm1(t * log_beta2))


@functools.cache
def _entry(dtype):
    """The address of a function of C that takes a job, for tensors of this dtype; compiled at the first call."""
    compiled = cfunc(types.void(types.CPointer(types.int64)), nopython=True, cache=True)
    if dtype == np.float32:

        @compiled
        def single(job):
            _thread(carray(job, JOB), _SINGLE)

        return single.address

    @compiled
    def double(job):
        _thread(carray(job, JOB), _DOUBLE)

    return double.address


# ---- Threads: those of PyTorch itself. Threads of our own would wait for PyTorch's, which spin for a while after their
# ---- work is done; on few cores that costs a quarter of the step.


try:
    _parallel = ctypes.CDLL(torch._C.__file__).GOMP_parallel  # runs a function on all threads of a team
except AttributeError:
    raise ImportError("a PyTorch that was built with OpenMP") from None
_parallel.argtypes, _parallel.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
_on_this_thread = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_forked = False  # of OpenMP's threads a child process has none, and would wait for them


def _note_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_note_fork)


def takes(seen: table.Geometry) -> bool:
    """Whether the kernel is the fastest for a tensor: columns that no cache holds are PyTorch's."""
    return seen.r1 == 1 or seen.outer * seen.r1 * seen.inner * seen.r2 <= BLOCK


def items(seen: Any) -> np.ndarray:
    """The work: (tensor, first unit, last unit + 1), a unit being a weight vector, or an element without GC.

    Args:
        seen: `Geometry` of each tensor.

    >>> items([table.Geometry(1000, 1, 1, 256, 1), table.Geometry(1, 1, 1, 10, 0)]).tolist()
    [[0, 0, 256], [0, 256, 512], [0, 512, 768], [0, 768, 1000], [1, 0, 10]]
    """
    found: list[tuple[int, int, int]] = []
    for tensor, (outer, r1, inner, r2, centralize) in enumerate(np.asarray(seen).tolist()):
        if not outer * r1 * inner * r2:
            continue
        if not centralize:
            units = outer * r1 * inner * r2
            found += [(tensor, first, min(first + ITEM, units)) for first in range(0, units, ITEM)]
        elif r1 == 1:
            units, most = outer * inner, max(1, ITEM // r2)
            found += [(tensor, first, min(first + most, units)) for first in range(0, units, most)]
        else:
            most = max(1, min(STRIP, max(LINE, BLOCK // r1)) // r2)
            found += [
                (tensor, start + first, start + min(first + most, inner))
                for start in range(0, outer * inner, inner)
                for first in range(0, inner, most)
            ]
    return np.array(found, np.int64).reshape(-1, 3)


class Steps:
    """Steps of the same tensors, one after another; the work is cut once."""

    def __init__(self) -> None:
        self._items: np.ndarray | None = None
        self._written = np.zeros(0, np.int64)  # addresses
        self._overlap = False
        self._scratch = np.zeros(0)

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
            torch._foreach_div_(columns[1], grad_scale.item())
        if self._items is None:
            self._items = items(seen)
        tensors, steps = (columns[:5], columns[5]) if kind == "adam" else (columns, None)
        rows = table.rows(tensors, steps, seen)
        dtype = np.dtype(str(columns[0][0].dtype).removeprefix("torch."))
        scales = np.ones((len(rows), 2), dtype)
        if steps:
            like = np.zeros(0, str(steps[0].dtype).removeprefix("torch."))
            with np.errstate(divide="ignore"):
                _count(rows, like, *np.log(np.array(group["betas"], np.float64)), scales)
        rule = _rule(kind, group)
        on_update = group["gc_on"] == "update"
        written = rows[:, [W, STATE0, STATE1, STATE2]]
        if not np.array_equal(written, self._written):
            self._written, self._overlap = written, table.overlap(rows, dtype.itemsize)
        threads = 1 if _forked or self._overlap else min(torch.get_num_threads(), len(self._items))
        counters, numbers = np.zeros(2, np.int64), _numbers(kind, group, fresh, dtype)
        if len(self._scratch) < max(threads, 1) * SCRATCH_BYTES // 8:
            self._scratch = np.zeros(max(threads, 1) * SCRATCH_BYTES // 8)
        arrays = (rows, self._items, counters, numbers, scales, self._scratch)
        words = [array.ctypes.data for array in arrays]
        job = np.array([words[0], len(rows), words[1], len(self._items), *words[2:], rule, on_update], np.int64)
        if threads > 1:
            _parallel(_entry(dtype), job.ctypes.data, threads, 0)
        elif threads == 1:
            _on_this_thread(_entry(dtype))(job.ctypes.data)


def _rule(kind: str, group: dict[str, Any]) -> int:
    if kind == "adam":
        return AMSGRAD if group["amsgrad"] else ADAM
    return NESTEROV if group["nesterov"] else MOMENTUM if group["momentum"] else PLAIN


def _numbers(kind: str, group: dict[str, Any], fresh: bool, dtype: np.dtype) -> np.ndarray:
    decay, decoupled = float(group["weight_decay"]), bool(group.get("decoupled_weight_decay"))
    numbers = np.zeros(N_NUMBERS, np.float64)
    numbers[SIGN] = -1 if group["maximize"] else 1
    numbers[DECOUPLED if decoupled else L2] = decay
    numbers[LR] = float(group["lr"])
    if kind == "adam":
        beta1, beta2 = group["betas"]
        numbers[[BETA1, REST1, BETA2, REST2, EPS]] = beta1, 1 - beta1, beta2, 1 - beta2, group["eps"]
    else:
        numbers[[MU, UNDAMPED]] = group["momentum"], 1 if fresh else 1 - group["dampening"]
    return numbers.astype(dtype)

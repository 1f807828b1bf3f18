"""What a thread does: stage by stage the items of its own share, then those that others have left.

A stage for the sums of a panel and one for its step alternate; in the last one all items stand alone.
"""

# Numba's decorators change what a function takes.
# pyright: reportCallIssue=false, reportPrivateImportUsage=false

import math

import numpy as np
from numba import carray

from gc_torch.kernels_cpu.bfloat16 import key_of, pack, unpack
from gc_torch.kernels_cpu.columns import add, means_of, step_panel, sum_panel
from gc_torch.kernels_cpu.compiling import as_words, compiled, count_up, elements, wait
from gc_torch.kernels_cpu.rows import step_rows
from gc_torch.kernels_cpu.strips import step_strips
from gc_torch.kernels_cpu.words import (
    AMSGRAD,
    BLOCK,
    CAPACITY,
    COUNT,
    COUNTERS,
    COUNTS,
    DOUBLE,
    ENDS,
    FINISHED,
    FIRST,
    ITEMS,
    KEPT,
    LAST,
    LOGS,
    N_ITEM,
    N_JOB,
    N_NUMBERS,
    NONE,
    NUMBERS,
    OFFSET,
    ON_UPDATE,
    PART,
    PARTS,
    READY,
    RULE,
    SCALES,
    SCRATCH,
    SCRATCH_BYTES,
    SHARED,
    SINGLE,
    SIZE,
    STAGES,
    STARTED,
    STOCHASTIC,
    TABLE,
    TENSOR,
    TENSORS,
    THREADS,
    WIDE,
    WIDTH,
    WORDS,
)
from gc_torch.table import CENTRALIZE, COMPENSATION, KEY, R1, R2, STATE0, STEP, STREAM


@compiled
def _count(table, wide, adam, logs, scales):
    """Count the steps of every row of the table, and give what hangs on them: for Adam 1 / (1 − β1ᵗ) and
    1 / √(1 − β2ᵗ), and the keys of random bits."""
    last = -1.0
    for index in range(len(table) // WIDTH):
        address = table[index * WIDTH + STEP]
        if wide:
            double = elements(address, 0, 1, DOUBLE)
            double[0] += 1
            t = double[0]
        else:
            single = elements(address, 0, 1, SINGLE)
            single[0] += np.float32(1)
            t = np.float64(single[0])
        table[index * WIDTH + KEY] = key_of(table[index * WIDTH + STREAM], np.int64(t))
        if adam is None:
            continue
        if t == last:
            scales[2 * index], scales[2 * index + 1] = scales[2 * index - 2], scales[2 * index - 1]
            continue
        last = t
        scales[2 * index] = -1 / math.expm1(t * logs[0])
        scales[2 * index + 1] = 1 / math.sqrt(-math.expm1(t * logs[1]))


def thread(adam, half, sources):
    """What a thread does, as Numba compiles it: without what is for Adam, or for bfloat16, where that is None.

    `sources` stands for the text of these pages: what is cached was made from it.
    """

    def run(address):
        if sources is None:
            return
        job, like = carray(as_words(address), N_JOB), carray(address, 0)  # of the dtype to compute in
        stages, threads, capacity = job[STAGES], job[THREADS], job[CAPACITY]
        table, numbers = (
            elements(job[TABLE], 0, job[TENSORS] * WIDTH, WORDS),
            elements(job[NUMBERS], 0, N_NUMBERS, like),
        )
        scales = elements(job[SCALES], 0, 2 * job[TENSORS], like)
        if job[COUNT]:
            _count(table, job[WIDE] != 0, adam, elements(job[LOGS], 0, 2, DOUBLE), scales)
            if threads > 1:
                return
        counts, ends = elements(job[COUNTS], 0, stages, WORDS), elements(job[ENDS], 0, stages * threads, WORDS)
        items = elements(job[ITEMS], 0, ends[-1] * N_ITEM, WORDS)
        counters = elements(job[COUNTERS], 0, FINISHED + stages * (1 + threads), WORDS)
        ready, finished, following = counters[READY:], counters[FINISHED:], counters[FINISHED + stages :]
        me = count_up(counters[STARTED:])
        scratch = job[SCRATCH] + me * job[SCRATCH_BYTES]
        own_sums = elements(scratch, KEPT, capacity, DOUBLE)
        own_means = elements(scratch + (KEPT + capacity) * 8, 0, capacity, like)
        wide = elements(scratch + (KEPT + 2 * capacity) * 8, 0, WIDTH, WORDS)
        for stage in range(stages):
            panel, of_step, alone = stage // 2, stage % 2 == 1, stage == stages - 1
            shared_sums = elements(job[SHARED], 0, PARTS * capacity, DOUBLE)
            shared_means = elements(job[SHARED] + (PARTS + panel % 2) * capacity * 8, 0, capacity, like)
            if of_step:
                wait(ready, panel + 1)
            for turn in range(threads):
                share = stage * threads + (me + turn) % threads
                while True:
                    k = count_up(following[share:])
                    if k >= ends[share]:
                        break
                    item = items[k * N_ITEM : (k + 1) * N_ITEM]
                    index, offset, n, first, last = item[TENSOR], item[OFFSET], item[SIZE], item[FIRST], item[LAST]
                    row = real = table[index * WIDTH : (index + 1) * WIDTH]
                    begin, here = first, offset
                    if half is not None:
                        many = COMPENSATION if of_step or alone else STATE0  # for its sums, parameter and gradient
                        unpack(wide, real, offset, n, first, last, many, scratch + (KEPT + 2 * capacity + WIDTH) * 8)
                        row, here, first, last = wide, NONE, NONE, last - first
                    how = (job[RULE], job[ON_UPDATE] != 0, scales[2 * index], scales[2 * index + 1])
                    length = row[R2] if row[CENTRALIZE] else n
                    if of_step:
                        step_panel(row, here, first, last, shared_means[:n], scratch, how, adam, numbers)
                        count_up(finished[stage:])
                    elif not alone:
                        part = shared_sums[item[PART] * capacity :][:n]
                        sum_panel(part, row, here, first, last, scratch, how, adam, numbers)
                        if count_up(finished[stage:]) + 1 == counts[stage]:
                            for other in range(1, counts[stage]):
                                add(shared_sums[:n], shared_sums[other * capacity :][:n])
                            if panel >= 2:  # whose means were where these go
                                wait(finished[stage - 3 :], counts[stage - 3])
                            means_of(shared_means[:n], shared_sums[:n], real)
                            count_up(ready)
                    elif row[R1] > 1:
                        most = max(1, min(capacity, BLOCK // last) // row[R2]) * row[R2]
                        for start in range(here, here + n, most):
                            lanes = min(most, here + n - start)
                            sum_panel(own_sums[:lanes], row, start, first, last, scratch, how, adam, numbers)
                            means_of(own_means[:lanes], own_sums[:lanes], real)
                            step_panel(row, start, first, last, own_means[:lanes], scratch, how, adam, numbers)
                    elif job[RULE] == AMSGRAD or (job[ON_UPDATE] and row[CENTRALIZE]):
                        step_strips(row, here, n, length, scratch, how, adam, numbers)
                    else:
                        step_rows(row, here, n, length, how, adam, numbers)
                    if half is not None and (of_step or alone):
                        pack(real, wide, offset, n, begin, begin + last, job[STOCHASTIC] != 0)

    return run

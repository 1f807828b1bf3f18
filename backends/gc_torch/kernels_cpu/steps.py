"""Steps of the same tensors, one after another."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gc_torch import compat, table
from gc_torch.kernels_cpu import threads
from gc_torch.kernels_cpu.entry import computed_in, entry
from gc_torch.kernels_cpu.words import (
    ADAM,
    ALONE,
    AMSGRAD,
    BETA1,
    CAPACITY,
    COUNT,
    COUNTERS,
    COUNTS,
    DECOUPLED,
    ENDS,
    EPS,
    FINISHED,
    FIRST,
    ITEMS,
    KEPT,
    L2,
    LAST,
    LOGS,
    LR,
    MOMENTUM,
    MU,
    N_JOB,
    N_NUMBERS,
    NESTEROV,
    NUMBERS,
    ON_UPDATE,
    PARTS,
    PLAIN,
    RULE,
    SCALES,
    SCRATCH,
    SCRATCH_BYTES,
    SHARED,
    SIGN,
    SIZE,
    SMALL,
    STAGES,
    STOCHASTIC,
    TABLE,
    TENSORS,
    THREADS,
    UNDAMPED,
    WIDE,
    WIDTH,
)  # fmt: skip
from gc_torch.kernels_cpu.work import shares, work
from gc_torch.table import PLACES, R1, R2, STATE0, STEP, WRITTEN


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
        streams: Sequence[int] = (),
    ) -> None:
        """One step of parameters of one dtype, with the options of their group.

        Args:
            kind: "sgd" or "adam".
            columns: parameters, gradients, states, steps, and compensations.
            seen: the geometry of each parameter.
            fresh: whether this is the first step of SGD; its momentum buffers are zero.
            found_inf, grad_scale: of a GradScaler; gradients are left unscaled, as by PyTorch's fused step.
            streams: of random bits for each parameter, where weights are rounded stochastically.
        """
        if found_inf is not None and found_inf.item():
            return
        if grad_scale is not None:
            compat.divide_(columns[1], grad_scale.item())
        if not len(self._rows):
            self._set_up(seen, columns[0][0].dtype, streams)
        addresses = [list(map(Tensor.data_ptr, column)) for column in columns]
        if addresses != self._addresses:
            self._point_to(kind, addresses)
        self._share(1 if self._small or self._overlap else threads.at_most())
        memory = threads.memory(self._words)
        if memory is not self._memory:
            self._memory, at = memory, memory.ctypes.data
            self._job[SCRATCH], self._job[SHARED] = at, at + self._threads * self._job[SCRATCH_BYTES]
        numbers = _numbers(kind, group, fresh)
        rule = _rule(kind, group), group["gc_on"] == "update"
        if (numbers, rule) != self._told:
            self._numbers[:], self._told = numbers, (numbers, rule)
            self._job[RULE], self._job[ON_UPDATE] = rule
        self._counters[:] = self._counters_at_start
        compiled = entry(kind, self._dtype)
        steps = columns[PLACES[kind].index(STEP)] if kind == "adam" or streams else None
        if steps:
            if kind == "adam":
                self._logs[:] = [math.log(beta) if beta else -math.inf for beta in group["betas"]]
            self._job[COUNT], self._job[WIDE] = True, steps[0].dtype == torch.float64
            compiled.call(self._address)  # it counts the steps; alone, a thread goes on with them
            self._job[COUNT] = False
        if self._threads > 1:
            threads.run(compiled.address, self._address, self._threads)
        elif not steps:
            compiled.call(self._address)

    def _point_to(self, kind: str, addresses: list[list[int]]) -> None:
        """Where the tensors are now."""
        rows = self._rows
        rows[:, STATE0 : STEP + 1] = 0
        for index, column in zip(PLACES[kind], addresses, strict=False):
            if column:
                rows[:, index] = column
        written = rows[:, WRITTEN]
        if not np.array_equal(written, self._written):
            self._written, self._overlap = written, table.overlap(rows, self._dtype.itemsize)
        self._addresses = addresses

    def _set_up(self, seen: Any, dtype: torch.dtype, streams: Sequence[int]) -> None:
        self._rows, self._dtype, number = table.rows([], None, seen, streams=streams), dtype, computed_in(dtype)
        self._scales, self._numbers = np.ones((len(self._rows), 2), number), np.zeros(N_NUMBERS, number)
        self._logs = np.zeros(2)
        self._job[[LOGS, STOCHASTIC]] = self._logs.ctypes.data, bool(streams)
        self._items, self._counts = work(seen)
        self._written, self._overlap = np.zeros(0, np.int64), False
        self._addresses: list[list[int]] = []
        self._told: Any = None
        columns = self._rows[self._rows[:, R1] > 1, R2]
        shared = self._items[: self._counts[:-1].sum(), SIZE]
        self._capacity = max([ALONE, *columns.tolist(), *shared.tolist()])
        self._job[[TENSORS, STAGES, CAPACITY]] = len(self._rows), len(self._counts), self._capacity
        self._address = self._job.ctypes.data
        lengths = self._items[:, SIZE] * (self._items[:, LAST] - self._items[:, FIRST])
        self._small = lengths.sum() <= SMALL
        # For each thread: a buffer, sums and means of a panel, and, in bfloat16, copies of an item.
        self._own = KEPT + 2 * self._capacity
        if dtype == torch.bfloat16:
            self._own += WIDTH + STEP * int(lengths.max(initial=0) + 1) // 2
        self._own += -self._own % 8  # to whole lines of the cache
        self._between = (PARTS + 2) * self._capacity if len(self._counts) > 1 else 0

    def _share(self, among: int) -> None:
        """Cut the work for so many threads, if it is not."""
        among = max(1, min(among, len(self._items)))
        if among == self._threads:
            return
        self._threads, stages = among, len(self._counts)
        begins, self._ends = shares(self._items, self._counts, among)
        self._counters_at_start = np.concatenate([np.zeros(FINISHED + stages, np.int64), begins.ravel()])
        self._counters = self._counters_at_start.copy()
        self._words, self._memory = among * self._own + self._between, None
        arrays = {
            TABLE: self._rows, ITEMS: self._items, COUNTS: self._counts, ENDS: self._ends, COUNTERS: self._counters,
            NUMBERS: self._numbers, SCALES: self._scales,
        }  # fmt: skip
        for word, array in arrays.items():
            self._job[word] = array.ctypes.data
        self._job[[SCRATCH_BYTES, THREADS]] = self._own * 8, among


def _rule(kind: str, group: dict[str, Any]) -> int:
    if kind == "adam":
        return AMSGRAD if group["amsgrad"] else ADAM
    if not group["momentum"]:  # a schedule may take it away from Nesterov's, too; then there is no buffer
        return PLAIN
    return NESTEROV if group["nesterov"] else MOMENTUM


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

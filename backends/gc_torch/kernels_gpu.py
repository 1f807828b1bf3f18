"""The steps of SGD and Adam with GC on a GPU: one Triton kernel over all tensors of a table (module `table`).

Before it, for Adam, a small one counts the steps and computes the bias corrections of each tensor. What they read of
the tensors, the table and a list of work, is uploaded when it has changed, without waiting for it.
"""

import contextlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import triton.language as tl
from torch import Tensor

from gc_torch import kernels_gpu_step as kernels
from gc_torch import kernels_gpu_work as list_of_work
from gc_torch import table
from gc_torch.kernels_gpu_rules import (
    ADAM,
    AMSGRAD,
    DECOUPLED,
    FRESH,
    GUARDED,
    HALF,
    KAHAN,
    L2,
    LR_TENSOR,
    MAXIMIZE,
    MOMENTUM,
    NESTEROV,
    ON_UPDATE,
    SCALED,
    STOCHASTIC,
)  # fmt: skip

_TRITON = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32, torch.float64: tl.float64}
DTYPES = tuple(_TRITON)
NAME = "Triton"
AT_ONCE = 128  # tensors that one program counts a step for
LISTS = 4  # of work, that are kept: where the set of gradients varies, the latest
GRAPHS = 4  # that can be captured one after another, without a step between them

# What has been compiled and loaded in this process. A first use may fail, or take a second: that is over before a step
# has changed anything, and before a CUDA graph is captured.
_compiled: set[Any] = set()


class _Work(NamedTuple):
    entries: np.ndarray
    parts: list[tuple[int, int, int]]
    there: Tensor


class _Uploaded(NamedTuple):
    rows: np.ndarray
    l2: bool
    work: _Work
    there: Tensor
    corrections: Tensor
    from_here: list[Tensor]  # page-locked: a graph copies it again at every replay


def takes(group: dict[str, Any], p: Tensor, of_states: torch.dtype, seen: table.Geometry) -> bool:
    """Whether the kernel is right: for all that it can see."""
    return True


class Steps:
    """Steps of any tensors of one device and dtype. No more is kept than the last few of them need."""

    def __init__(self) -> None:
        self._now: _Uploaded | None = None
        self._lists: OrderedDict[bytes, _Work] = OrderedDict()
        self._captured: list[_Uploaded] = []  # by graphs, for as long as this lives
        self._spare: list[Tensor] = []  # page-locked memory cannot be had during a capture

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
        """One step of parameters of one device and dtype, with the options of their group.

        Args:
            kind: "sgd" or "adam".
            columns: parameters, gradients, states, steps, which are on the device, and compensations.
            seen: the geometry of each parameter.
            fresh: whether this is the first step of SGD.
            found_inf, grad_scale: of a GradScaler, on any device.
            streams: of random bits for each parameter, where weights are rounded stochastically.
        """
        at = table.PLACES[kind].index(table.STEP)
        tensors, (steps, compensations) = columns[:at], [*columns[at:], [], []][:2]
        options = {
            ADAM: kind == "adam",
            ON_UPDATE: group["gc_on"] == "update",
            (DECOUPLED if group.get("decoupled_weight_decay") else L2): group["weight_decay"] != 0,
            MAXIMIZE: group["maximize"],
            NESTEROV: group.get("nesterov"),
            MOMENTUM: group.get("momentum"),
            FRESH: fresh,
            AMSGRAD: group.get("amsgrad"),
            KAHAN: compensations,
            STOCHASTIC: streams,
        }
        p, states = columns[0][0], columns[2]
        self.take(
            table.rows(tensors, steps, seen, compensations, streams), p.device, p.dtype,
            states[0].dtype if states else p.dtype,
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
        """One step of all tensors of a table.

        Args:
            rows: from `table.rows`.
            dtype, state_dtype: of parameters and gradients, and of states; update and means are computed in float32,
                or in float64 where the parameters are.
            options: bits, from page `kernels_gpu_rules`; those for the tensors below are set here.
            numbers: lr (a tensor on the device is read there), weight_decay, and momentum and dampening or betas and
                eps.
            found_inf, grad_scale: of a GradScaler.
            step_dtype: of Adam's steps.

        Raises:
            RuntimeError: a CUDA graph is being captured, and needs what only a step outside of one can prepare.
        """
        device = _numbered(device)
        lr = numbers["lr"]
        if isinstance(lr, Tensor) and lr.device != device:
            lr = lr.item()
        found_inf, grad_scale = (
            x if x is None or x.device == device else x.to(device, non_blocking=True) for x in (found_inf, grad_scale)
        )
        options |= LR_TENSOR.value * isinstance(lr, Tensor) | HALF.value * (dtype.itemsize == 2)
        options |= GUARDED.value * (found_inf is not None) | SCALED.value * (grad_scale is not None)
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
            now = self._there(rows, device, dtype, bool(options & L2.value), capturing)
            none = now.there
            guard = none if found_inf is None else found_inf
            numbers = {**numbers, "lr": 0.0 if isinstance(lr, Tensor) else lr}
            *bits, log_beta1, log_beta2 = _numbers(options, numbers, dtype)
            launches = []
            if options & (ADAM.value | STOCHASTIC.value) and len(rows):
                a = tl.float64 if dtype == torch.float64 else tl.float32
                launches.append(
                    (
                        kernels.count, (-(-len(rows) // AT_ONCE),), 4,
                        (now.there, now.corrections, guard, log_beta1, log_beta2, len(rows)),
                        (options & (ADAM.value | GUARDED.value | STOCHASTIC.value), AT_ONCE, _TRITON[step_dtype], a),
                    )
                )  # fmt: skip
            for start, end, kinds in now.work.parts:
                launches.append(
                    (
                        kernels.step, (end - start,), kernels.WARPS,
                        (
                            now.work.there[start:], now.there, now.corrections,
                            lr if isinstance(lr, Tensor) else none, guard,
                            none if grad_scale is None else grad_scale, *bits,
                        ),
                        (options, kinds, _TRITON[dtype], _TRITON[state_dtype]),
                    )
                )  # fmt: skip
            _compile(launches, device, capturing)
            for kernel, grid, warps, arguments, constants in launches:
                kernel[grid](*arguments, *constants, num_warps=warps, enable_fp_fusion=False)

    def _there(
        self, rows: np.ndarray, device: torch.device, dtype: torch.dtype, l2: bool, capturing: bool
    ) -> _Uploaded:
        now = self._now
        if now is None or now.there.device != device or now.l2 != l2 or not np.array_equal(now.rows, rows):
            here: list[Tensor] = []
            work = self._work(rows, device, dtype.itemsize, l2, capturing, here)
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            corrections = torch.empty(2 * len(rows), dtype=wide, device=device)
            now = _Uploaded(rows, l2, work, self._upload(rows, device, capturing, here), corrections, here)
            if not capturing:
                self._now = now
        if capturing:
            self._captured.append(now)
        elif device.type == "cuda":
            self._provide(now.rows.size, now.work.entries.size)
            stream = torch.cuda.current_stream(device)
            for tensor in (now.there, now.work.there, now.corrections):  # it may be another one than before
                tensor.record_stream(stream)
        return now

    def _work(
        self, rows: np.ndarray, device: torch.device, itemsize: int, l2: bool, capturing: bool, here: list[Tensor]
    ) -> _Work:
        """The list of work, one of the last few if it is the same."""
        lies = (rows[:, table.W : table.STEP] % 16 == 0).all(1)
        overlap = table.overlap(rows, itemsize)
        key = rows[:, table.OUTER :].tobytes() + lies.tobytes() + bytes([overlap, l2, itemsize]) + str(device).encode()
        if key not in self._lists:
            entries, parts = list_of_work.parts(list_of_work.work(rows, itemsize, l2), overlap)
            made = _Work(entries, parts, self._upload(entries, device, capturing, here))
            if capturing:  # its memory is filled when the graph is replayed, and not before
                return made
            self._lists[key] = made
            while len(self._lists) > LISTS:
                self._lists.popitem(last=False)
        self._lists.move_to_end(key)
        return self._lists[key]

    def _provide(self, *sizes: int) -> None:
        """Page-locked memory for the next graphs."""
        enough = [spare for spare in self._spare if spare.numel() >= max(sizes)]
        if len(enough) < 2 * GRAPHS:
            missing = 2 * GRAPHS - len(enough)
            size = 1 << max(8, (max(sizes) - 1).bit_length())
            self._spare = enough + [torch.empty(size, dtype=torch.int64, pin_memory=True) for _ in range(missing)]

    def _upload(self, array: np.ndarray, device: torch.device, capturing: bool, here: list[Tensor]) -> Tensor:
        """The array on the device, without waiting for it."""
        flat = torch.from_numpy(array.reshape(-1))
        if device.type != "cuda" or not flat.numel():
            return flat.to(device, copy=True)
        if capturing:
            if not self._spare or self._spare[-1].numel() < flat.numel():
                raise RuntimeError(
                    "a step that is captured in a CUDA graph needs one before it that is not captured, with the same "
                    f"parameters and gradients; after that one, {GRAPHS} graphs can be captured"
                )
            pinned = self._spare.pop()[: flat.numel()].copy_(flat)
            here.append(pinned)
        else:
            pinned = flat.pin_memory()  # PyTorch keeps it until the copy is done
        return pinned.to(device, non_blocking=True)


def _numbered(device: torch.device) -> torch.device:
    """The device as tensors name theirs: "cuda" alone would be another one than "cuda:0"."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _compile(launches: list[tuple[Any, ...]], device: torch.device, capturing: bool) -> None:
    """Have everything compiled that is to be launched, so that an error comes before anything has changed."""
    for kernel, grid, warps, arguments, constants in launches:
        key = (id(kernel), constants, tuple(getattr(x, "dtype", None) for x in arguments), device)
        if key in _compiled:
            continue
        if capturing:
            raise RuntimeError(
                "a step that is captured in a CUDA graph needs one before it that is not captured, with the same "
                "options, dtypes and shapes, for which its kernel is compiled"
            )
        made = kernel.warmup(*arguments, *constants, grid=grid, num_warps=warps, enable_fp_fusion=False)
        if made is not None:
            _ = made.run  # loads it
        _compiled.add(key)


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

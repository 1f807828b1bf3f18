"""Weights in float16 and bfloat16 that train: optimizer(kind, params, axes, low_precision=…, seed=…).

A port declares what it has by `rounding`, a tuple with "kahan" and "stochastic" among its names, and is judged by
it in those of the two dtypes that it claims. `optimizer` is then given low_precision="kahan", or "stochastic" with a
seed, for "sgd" without momentum. The properties are part of the chapter `optimizer`.

What must hold needs no formula of rounding. With compensated summation a weight is, after any number of steps, the one
of exact arithmetic but for one rounding to its dtype, of at most u|w|, and for what the compensation itself is rounded
by in every step, u of u|w|. With stochastic rounding it is one of the two neighbours, and the share of those that are
rounded up is the fraction that rounding to the nearest throws away: N independent choices differ from their expectation
by more than √(log(2/p) / 2N) with a probability of less than p [Hoeffding 1963]; p is 1e-12 here.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
from hypothesis import strategies as st

from .. import oracle
from ..bounds import PRECISIONS, Approx, precisely
from ..judge import agree, require, same
from ..port import Port
from ..registry import property
from ..strategies import FC, SEEDS, Array, Training, normal
from .optimizer import fresh, make, read, step

MANY = 1024  # weights that choose at random
SURE = math.sqrt(math.log(2 / 1e-12) / (2 * MANY))  # how far their share may be from its expectation


def _dtypes(port: Port) -> list[str]:
    return [dtype for dtype in port.real_dtypes if dtype in ("float16", "bfloat16")]


def _unit(dtype: str) -> float:
    """The distance between neighbours from 1 to 2."""
    return 2 * float(PRECISIONS[dtype].unit)


@st.composite
def _small_steps(draw, port: Port) -> Training:
    """Eight steps of at most a quarter of what the dtype can hold."""
    dtype, seed = draw(st.sampled_from(_dtypes(port))), draw(SEEDS)
    shape = draw(st.sampled_from(((2, 3), (3, 4))))
    w, grad = normal(shape, dtype, seed, "1.5 + x / 16"), normal(shape, dtype, seed + 1, "1 + np.sign(x)")
    options = {"lr": _unit(dtype) / 8, "momentum": 0.0, "low_precision": "kahan"}
    return Training("sgd", {FC: w}, ({FC: grad},) * 8, {FC: 1}, options)


@precisely
def _kahan(case: Training) -> list[Approx]:
    """The weights after each step."""
    w, grads = case.params[FC], [g[FC].value.astype(np.float32) for g in case.grads]
    of_dtype, u = PRECISIONS[w.dtype], PRECISIONS[w.dtype].unit
    path = oracle.sgdm_run(
        w.value.astype(np.float32), grads, "float32", axis=case.axes[FC], lr=case.hyper["lr"], momentum=0.0
    )
    largest = np.maximum.reduce([abs(one.value) + one.error for one in path])
    a_step = (u * u + 2 * PRECISIONS["float32"].unit) * largest + of_dtype.tiny
    return [
        Approx(one.value, one.error + Decimal(n + 1) * a_step, one.precision).stored(w.dtype)
        for n, one in enumerate(path)
    ]


@property("optimizer.kahan_keeps_small_steps", needs=("optimizer", "kahan"), share=0.05, since=2, cases=_small_steps)
def kahan_keeps_small_steps(port: Port, case: Training) -> None:
    """Compensated summation: steps too small for the dtype add up as in exact arithmetic."""
    want, optimizer = _kahan(case), make(port, case)
    for number, grads in enumerate(case.grads):
        step(port, optimizer, fresh(port, grads))
        agree(read(port, optimizer)[FC], want[number], f"{FC} after step {number + 1}, at ")


def _stochastic(count: int, share: int) -> Any:
    """Steps of ± a share of the distance between neighbours."""

    @st.composite
    def cases(draw, port: Port) -> Training:
        dtype, seed = draw(st.sampled_from(_dtypes(port))), draw(SEEDS)
        w = Array(f"np.full((2, {MANY}), 1.5).astype({dtype!r})")
        grad = Array(f"np.tile([1.0, -1.0], (2, {MANY // 2})).astype({dtype!r})")
        options = {"lr": _unit(dtype) / share, "momentum": 0.0, "low_precision": "stochastic", "seed": seed}
        return Training("sgd", {FC: w}, ({FC: grad},) * count, {FC: 1}, options)

    return cases


def _moved(port: Port, optimizer: Any, case: Training) -> np.ndarray:
    """By how many distances between neighbours the weights have moved, in the direction of the step."""
    w = case.params[FC]
    way = np.sign(case.grads[0][FC].value.astype(np.float64))
    got = read(port, optimizer)[FC]
    require(got.dtype == w.value.dtype, f"{FC} is {got.dtype.name}, and must be {w.dtype}")
    return (w.value.astype(np.float64) - got.astype(np.float64)) * way / _unit(w.dtype)


def _steps(port: Port, case: Training) -> Any:
    optimizer = make(port, case)
    for grads in case.grads:
        step(port, optimizer, fresh(port, grads))
    return optimizer


SHARE = "optimizer.params(), [(p != params[n]).mean() for n, p in optimizer.params().items()]"


def _by_chance(share: float, chance: float, what: str) -> None:
    """Require that a share is what independent bits make of it."""
    require(abs(share - chance) <= SURE, f"{what}: with new bits it must be {chance:.3f}, within {SURE:.2f}", SHARE)


@property(
    "optimizer.stochastic_in_expectation", needs=("optimizer", "stochastic"), share=0.05, since=2,
    cases=lambda port: _stochastic(1, 4)(port),
)  # fmt: skip
def stochastic_in_expectation(port: Port, case: Training) -> None:
    """Stochastic rounding: a weight goes to one of its two neighbours, up as often as the fraction says."""
    moved = _moved(port, _steps(port, case), case)
    require(bool(np.isin(moved, (0, 1)).all()), "a weight is neither of its two neighbours in the dtype", SHARE)
    for row, share in enumerate(moved.mean(1)):
        _by_chance(
            share, 0.25,
            f"after a step of a quarter of the distance to the next number a share of {share:.3f} of the {MANY} "
            f"weights of row {row} has moved there",
        )  # fmt: skip


@property(
    "optimizer.stochastic_new_bits", needs=("optimizer", "stochastic"), share=0.05, since=2,
    cases=lambda port: _stochastic(6, 4)(port),
)  # fmt: skip
def stochastic_new_bits(port: Port, case: Training) -> None:
    """Random bits are new in every step, and in every row."""
    moved, count = _moved(port, _steps(port, case), case), len(case.grads)
    for row, still in enumerate((moved == 0).mean(1)):
        _by_chance(
            still, 0.75**count,
            f"of {count} steps of a quarter of the distance to the next number, none has moved a share of {still:.3f} "
            f"of the weights of row {row}",
        )  # fmt: skip
    both = (moved[0] == moved[1]).mean()
    chance = sum((math.comb(count, k) * 0.25**k * 0.75 ** (count - k)) ** 2 for k in range(count + 1))
    _by_chance(both, chance, f"a share of {both:.3f} of the weights has moved as far in one row as in the other")


@property(
    "optimizer.stochastic_repeats", needs=("optimizer", "stochastic"), share=0.05, since=2,
    cases=lambda port: _stochastic(2, 4)(port),
)  # fmt: skip
def stochastic_repeats(port: Port, case: Training) -> None:
    """The same seed gives the same bits, another seed other ones."""
    one, two = read(port, _steps(port, case))[FC], read(port, _steps(port, case))[FC]
    same(two, one, f"{FC} of the second of two optimizers with the same seed", SHARE)
    other = Training(case.kind, case.params, case.grads, case.axes, {**case.hyper, "seed": case.hyper["seed"] + 1})
    again = read(port, _steps(port, other))[FC]
    require(not np.array_equal(one, again), "another seed gives the same weights", SHARE)

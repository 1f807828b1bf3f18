"""Honest ports: right ones, written in different ways. All of them must pass, with every seed.

They are here to keep the suite fair, not to be used.
"""

from __future__ import annotations

from typing import Any

from .straight import AdamState, SGDMState, Stateful, Straight
from .switched import SWITCHED
from .variants import (
    FewOptions,
    Float32Only,
    Float32Scalars,
    Float64Inside,
    FlushesSubnormals,
    HalfOnly,
    Immutable,
    InPlaceKernels,
    MatrixForm,
    OptimizerOnly,
    PairwiseSums,
    SequentialSums,
    StepSizeFirst,
    WeightedSum,
    operator_only,
)

__all__ = ["HONEST", "AdamState", "SGDMState", "Stateful", "Straight"]

HONEST: tuple[Any, ...] = (
    Straight(),
    SequentialSums(),
    PairwiseSums(),
    MatrixForm(),
    WeightedSum(),
    Float64Inside(),
    Float32Scalars(),
    StepSizeFirst(),
    InPlaceKernels(),
    FlushesSubnormals(),
    Immutable(),
    Float32Only(),
    HalfOnly(),
    FewOptions(),
    operator_only,
    OptimizerOnly(),
    *(make() for make in SWITCHED),
)

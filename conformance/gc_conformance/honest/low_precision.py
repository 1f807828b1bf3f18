"""Weights that are rounded otherwise than to the nearest, in the honest optimizer."""

from __future__ import annotations

from typing import Any

import numpy as np

from .straight import Stateful

DIGITS = {"float16": 11, "bfloat16": 8}  # significant bits


class LowPrecision(Stateful):
    """An optimizer over dicts that computes in float32 and takes care of what its parameters cannot hold."""

    def __init__(self, port, kind: str, params: dict, axes: dict, hyper: dict):
        hyper = dict(hyper)
        self.way, seed = hyper.pop("low_precision"), hyper.pop("seed", 0)
        self.random = np.random.default_rng(seed)
        self.narrow = {name: w.copy() for name, w in params.items()}
        self.left = {name: np.zeros(w.shape, np.float32) for name, w in params.items()}
        super().__init__(port, kind, {n: w.astype(np.float32) for n, w in params.items()}, axes, hyper)

    def step(self, grads):
        for name, w in self.narrow.items():
            self.values[name] = w.astype(np.float32) + self.left[name]
        super().step({name: g.astype(np.float32) for name, g in grads.items()})
        for name, wide in self.values.items():
            self.narrow[name], self.left[name] = self.stored(wide, self.narrow[name].dtype)

    def stored(self, wide: np.ndarray, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
        """A weight as it is stored, and what is to be added to it before the next step."""
        if self.way == "kahan":
            narrow = wide.astype(dtype)
            return narrow, (wide - narrow.astype(np.float32)).astype(dtype).astype(np.float32)
        _, exponent = np.frexp(wide)
        unit = np.ldexp(1.0, exponent - DIGITS[dtype.name])
        return (np.floor(wide / unit + self.bits(wide.shape)) * unit).astype(dtype), np.zeros_like(wide)

    def bits(self, shape) -> np.ndarray:
        return self.random.random(shape)

    def params(self):
        return dict(self.narrow)

"""Means over seeds with 95 % intervals, and the differences that GC makes, paired by seed."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t

CONFIDENCE = 0.95
PAIRS = (("GC-SGDM", "SGDM"), ("GC-Adam (gradient)", "Adam"), ("GC-Adam (update)", "Adam"))


@dataclass(frozen=True)
class Interval:
    """mean ± half_width; half_width is None for one value, which says nothing of its spread."""

    mean: float
    half_width: float | None

    @property
    def low(self) -> float:
        return self.mean - (self.half_width or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.half_width or 0.0)


def interval(values: Any, confidence: float = CONFIDENCE) -> Interval:
    """Student's interval for the mean: mean ± t((1 + confidence)/2, n − 1) · s / √n."""
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if n < 2:
        return Interval(float(values.mean()), None)
    quantile = t.ppf((1 + confidence) / 2, n - 1)
    return Interval(float(values.mean()), float(quantile * values.std(ddof=1) / math.sqrt(n)))


def summary(curves: dict[str, dict[str, list]]) -> dict[str, dict[str, Interval]]:
    """Of each method: the test results after the last epoch, and what GC acts on."""
    found = {}
    for method, curve in curves.items():
        of_seeds = {
            "test_accuracy": [100 * seed[-1] for seed in curve["test_accuracy"]],  # per cent
            "test_loss": [seed[-1] for seed in curve["test_loss"]],
            "gradient_norm": [float(np.mean(seed)) for seed in curve["gradient_norm"]],  # mean over training
            "mean_drift": [seed[-1] for seed in curve["mean_drift"]],
        }
        found[method] = {name: interval(values) for name, values in of_seeds.items()}
    return found


def differences(curves: dict[str, dict[str, list]]) -> list[dict[str, Any]]:
    """GC minus plain after the last epoch, seed by seed: accuracy in points, loss."""
    found = []
    for gc, plain in PAIRS:
        row: dict[str, Any] = {"gc": gc, "plain": plain}
        for name, scale in (("test_accuracy", 100), ("test_loss", 1)):
            last = [np.array([seed[-1] for seed in curves[method][name]]) for method in (gc, plain)]
            by_seed = scale * (last[0] - last[1])
            row[name] = interval(by_seed)
            row[f"{name}_by_seed"] = by_seed.tolist()
        found.append(row)
    return found

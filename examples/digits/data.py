"""The digits and every random number of a run: drawn by NumPy from the seed, so that all backends see the same."""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits

SIZES = (64, 48, 24, 10)  # pixels, hidden, hidden, classes. No weight is square: a wrong axis would show
BATCH = 64
TEST_SHARE = 0.2


class Digits(NamedTuple):
    """Images as rows of 64 numbers in [0, 1], labels as rows of ten numbers, one of them 1; both float64."""

    x: np.ndarray
    y: np.ndarray


@cache
def _images() -> tuple[np.ndarray, np.ndarray]:
    return load_digits(return_X_y=True)


def split(seed: int) -> tuple[Digits, Digits]:
    """Training and test set of this seed: 1438 and 359 of the 1797 images."""
    images, labels = _images()
    x, y = images / 16.0, np.eye(SIZES[-1])[labels]
    order = np.random.default_rng([seed, 0]).permutation(len(x))
    test, train = np.split(order, [int(TEST_SHARE * len(x))])
    return Digits(x[train], y[train]), Digits(x[test], y[test])


def initial_weights(seed: int) -> dict[str, np.ndarray]:
    """He initialization. Weights as (in, out), the paper's W; a network may store them the other way."""
    rng = np.random.default_rng([seed, 1])
    weights = {}
    for layer, (fan_in, out) in enumerate(pairwise(SIZES), start=1):
        weights[f"W{layer}"] = rng.normal(0.0, np.sqrt(2.0 / fan_in), (fan_in, out))
        weights[f"b{layer}"] = np.zeros(out)
    return weights


def batches(digits: Digits, seed: int, epoch: int) -> Iterator[Digits]:
    """One epoch in a random order, without the incomplete last batch."""
    order = np.random.default_rng([seed, 2, epoch]).permutation(len(digits.x))
    for start in range(0, len(order) - BATCH + 1, BATCH):
        chosen = order[start : start + BATCH]
        yield Digits(digits.x[chosen], digits.y[chosen])

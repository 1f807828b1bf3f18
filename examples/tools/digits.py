"""The data of every example: scikit-learn's handwritten digits, 8×8 pixels, as float32 in [0, 1]."""

from collections.abc import Iterator

import numpy as np
from sklearn.datasets import load_digits


def batches(size: int, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`count` batches of images (size, 64) and labels (size,), in an order that never changes."""
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    for _ in range(count):
        chosen = rng.choice(len(images), size, replace=False)
        yield (images[chosen] / 16).astype(np.float32), labels[chosen].astype(np.int64)

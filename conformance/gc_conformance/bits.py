"""Arrays in JSON: a dtype, a shape, and the elements as exact bits in hexadecimal, little-endian, in C order."""

from __future__ import annotations

import numpy as np


def bits(values: np.ndarray, dtype: str) -> str:
    if dtype == "bfloat16":
        wide = np.ascontiguousarray(values, dtype="<f4").view("<u4")
        return (wide >> 16).astype("<u2").tobytes().hex()
    return np.asarray(values, dtype=np.dtype(dtype).newbyteorder("<")).tobytes().hex()


def described(array: np.ndarray) -> dict:
    """The `array` of the schemas for a NumPy array."""
    return {"dtype": array.dtype.name, "shape": list(array.shape), "bits": bits(array, array.dtype.name)}


def array_of(entry: dict) -> np.ndarray:
    """The NumPy array that an `array` of the schemas describes."""
    dtype, raw = entry["dtype"], bytes.fromhex(entry["bits"])
    if dtype == "bfloat16":
        import ml_dtypes

        array = np.frombuffer(raw, "<u2").astype(np.uint16).view(ml_dtypes.bfloat16)
    else:
        array = np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).astype(dtype)
    return array.reshape(entry["shape"]).copy()

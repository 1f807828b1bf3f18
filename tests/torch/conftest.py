"""The update rules once more, straight from the formulas, in float64: `restated`, which the tests here hold against."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small tensors, and other tests beside these: more threads only wait for each other."""
    torch.set_num_threads(1)


def phi(g, axes):
    """Each weight vector minus its mean, whose sum is exact."""
    if axes is None or not g.size:
        return g
    axes = [axis % g.ndim for axis in (axes if isinstance(axes, tuple) else (axes,))]
    others = [axis for axis in range(g.ndim) if axis not in axes]
    rows = np.transpose(g, others + axes)
    vectors = rows.reshape(math.prod(rows.shape[: len(others)]), -1).copy()
    for vector in vectors:
        vector -= math.fsum(vector) / len(vector)
    return np.transpose(vectors.reshape(rows.shape), np.argsort(others + axes))


def sgdm(
    w, g, m, *, lr, axis, momentum=0.9, dampening=0.0, nesterov=False, weight_decay=0.0, decoupled=False,
    gc_on="gradient",
):  # fmt: skip
    """(w, m); m None is PyTorch's first step."""
    if not decoupled:
        g = g + weight_decay * w
    if gc_on == "gradient":
        g = phi(g, axis)
    m = g if m is None else momentum * m + (1 - dampening) * g
    d = g + momentum * m if nesterov else m
    if decoupled:
        d = d + weight_decay * w
    return w - lr * (phi(d, axis) if gc_on == "update" else d), m


def adam(
    w, g, t, m, v, top, *, lr, axis, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False, amsgrad=False,
    gc_on="gradient",
):  # fmt: skip
    """(w, t, m, v, top)"""
    if not decoupled:
        g = g + weight_decay * w
    if gc_on == "gradient":
        g = phi(g, axis)
    t = t + 1
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g * g
    top = np.maximum(top, v)
    corrections = [-math.expm1(t * math.log(beta)) if beta else 1.0 for beta in betas]
    d = (m / corrections[0]) / (np.sqrt((top if amsgrad else v) / corrections[1]) + eps)
    if decoupled:
        d = d + weight_decay * w
    return w - lr * (phi(d, axis) if gc_on == "update" else d), t, m, v, top


@pytest.fixture(scope="session")
def restated():
    return SimpleNamespace(phi=phi, sgdm=sgdm, adam=adam)

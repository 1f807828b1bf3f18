"""The update rules once more, straight from the formulas, in float64, without PyTorch."""

import math

import numpy as np


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


class Run:
    """What an optimizer must do: arrays by name, each seen as `views[name]`, (shape, fan-in axes or None).

    Args:
        kind: "SGD", "Adam" or "AdamW", with their PyTorch names and defaults for the options.
    """

    def __init__(self, kind, params, views, *, maximize=False, **options):
        self.kind, self.maximize, self.views = kind, maximize, views
        self.params = {name: np.asarray(w, np.float64).reshape(views[name][0]) for name, w in params.items()}
        self.options = {"lr": 1e-3, "gc_on": "gradient", **options}
        if kind == "SGD":
            self.options = {"momentum": 0.0, **self.options}
            self.state = dict.fromkeys(params)
        else:
            self.options = {"weight_decay": 1e-2 if kind == "AdamW" else 0.0, **self.options}
            self.state = {name: (0, *(np.zeros_like(w) for _ in range(3))) for name, w in self.params.items()}

    def step(self, grads):
        for name, g in grads.items():
            shape, axes = self.views[name]
            w, g = self.params[name], np.asarray(g, np.float64).reshape(shape)
            g = -g if self.maximize else g
            options = {**self.options, "axis": axes}
            if options["gc_on"] is None:
                options |= {"axis": None, "gc_on": "gradient"}
            if self.kind == "SGD":
                m = self.state[name] if options["momentum"] else None  # then PyTorch has no buffer, and no dampening
                self.params[name], self.state[name] = sgdm(w, g, m, **options)
            else:
                self.params[name], *state = adam(w, g, *self.state[name], decoupled=self.kind == "AdamW", **options)
                self.state[name] = tuple(state)

    def seen(self, name, tensor):
        """A tensor of a parameter's shape, as GC sees it."""
        return tensor.detach().double().reshape(self.views[name][0]).numpy()

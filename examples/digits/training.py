"""Training with and without GC, and what is measured on the way. The same lines drive every backend."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from examples.digits import data

GAMMA = 0.5  # added to every pixel to measure the output shift; pixels lie in [0, 1]
SHIFT_UNITS = 5  # units of the first layer whose output shift is kept


class Method(NamedTuple):
    """One way to train."""

    name: str
    rule: str  # "sgdm" or "adam"
    lr: float
    gc_on: str | None  # None: no GC


METHODS = (
    Method("SGDM", "sgdm", 0.1, None),
    Method("GC-SGDM", "sgdm", 0.1, "gradient"),
    Method("Adam", "adam", 0.003, None),
    Method("GC-Adam (gradient)", "adam", 0.003, "gradient"),
    Method("GC-Adam (update)", "adam", 0.003, "update"),
)


def make_step(network: Any, method: Method) -> Callable:
    """One training step of this method: (params, state, x, y) -> (params, state, loss, gradients as they were used)."""
    gct = network.gct
    update = partial({"sgdm": gct.sgdm_update, "adam": gct.adam_update}[method.rule], lr=method.lr)
    if method.gc_on:
        update = partial(update, gc_on=method.gc_on)

    def step(params, state, x, y):
        loss, grads = network.loss_and_grads(params, x, y)
        new_params, new_state, used = {}, {}, {}
        for name, w in params.items():
            axis = gct.fan_in_axes(tuple(w.shape), network.LAYOUT) if method.gc_on else None
            new_params[name], new_state[name] = update(w, grads[name], state[name], axis=axis)
            used[name] = gct.centralize(grads[name], axis if method.gc_on == "gradient" else None)
        return new_params, new_state, loss, used

    return network.compiled(step)


def train(network: Any, method: Method, step: Callable, seed: int, epochs: int, on_epoch: Callable) -> dict[str, Any]:
    """Train once. Returns the curves: some with a value per step, some per epoch, beginning before the first.

    `on_epoch` is called after every epoch.
    """
    gct = network.gct
    train_set, test_set = data.split(seed)
    start = data.initial_weights(seed)
    params = {name: gct.from_numpy(_turned(w, network)) for name, w in start.items()}
    init = {"sgdm": gct.sgdm_init, "adam": gct.adam_init}[method.rule]
    state = {name: init(w) for name, w in params.items()}
    test_x = gct.from_numpy(test_set.x)

    def read(arrays):
        """The weight matrices, (in, out), in NumPy. Biases are not GC's."""
        return {name: _turned(gct.to_numpy(w), network) for name, w in arrays.items() if w.ndim == 2}

    per_step = {"loss": [], "gradient_norm": [], "gradient_max": []}
    per_epoch = {"test_loss": [], "test_accuracy": [], "mean_drift": [], "output_shift": []}

    def measure():
        scores = gct.to_numpy(network.logits(params, test_x))
        weights = read(params)
        append(per_epoch, **test_scores(scores, test_set.y), mean_drift=mean_drift(weights, start),
               output_shift=output_shift(weights["W1"], test_set.x[0]))  # fmt: skip

    measure()
    for epoch in range(epochs):
        for batch in data.batches(train_set, seed, epoch):
            params, state, loss, used = step(params, state, gct.from_numpy(batch.x), gct.from_numpy(batch.y))
            grads = read(used).values()
            append(per_step, loss=float(loss),
                   gradient_norm=float(np.sqrt(sum((g**2).sum() for g in grads))),
                   gradient_max=float(max(abs(g).max() for g in grads)))  # fmt: skip
        measure()
        on_epoch()
    return {**per_step, **per_epoch}


def test_scores(scores: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Mean cross-entropy and share of right answers."""
    log_p = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    return {
        "test_loss": float(-(y * log_p).sum() / len(y)),
        "test_accuracy": float((scores.argmax(1) == y.argmax(1)).mean()),
    }


def mean_drift(weights: dict[str, np.ndarray], start: dict[str, np.ndarray]) -> float:
    """How far the mean of a weight vector has moved, |mean(wᵗ) − mean(w⁰)|, on average over all units."""
    return float(np.concatenate([abs((w - start[name]).mean(0)) for name, w in weights.items()]).mean())


def output_shift(w1: np.ndarray, image: np.ndarray) -> list[float]:
    """What γ on every pixel adds to the outputs of the first layer: γ 1ᵀw for each unit (the paper's Theorem 4.1)."""
    w1 = w1[:, :SHIFT_UNITS]
    return ((image + GAMMA) @ w1 - image @ w1).tolist()


def append(curves: dict[str, list], **values: Any) -> None:
    """One more point of each curve."""
    for name, value in values.items():
        curves[name].append(value)


def _turned(array: np.ndarray, network: Any) -> np.ndarray:
    """(in, out) to how the network stores it, or back."""
    return np.ascontiguousarray(array.T) if network.LAYOUT == "out_first" else array

"""Three layers with or without batch normalization, in NumPy, differentiated by hand.

As in `examples.digits.numpy_network`, but in front of each ReLU outputs may be normalized over the batch of n rows::

    Ẑ = (Z − mean Z) / σ,  σ = √(var Z + ε),  Y = γ ⊙ Ẑ + β
    ∂L/∂γ = Σ Ẑ ⊙ D,  ∂L/∂β = Σ D,  ∂L/∂Z = γ/σ ⊙ (D − (∂L/∂β + Ẑ ⊙ ∂L/∂γ) / n)     with D = ∂L/∂Y

Source: Ioffe and Szegedy, Batch Normalization (arXiv 1502.03167).
"""

from itertools import pairwise

import numpy as np

EPS = 1e-5


def initial_weights(seed: int, width: int, normalized: bool) -> dict[str, np.ndarray]:
    """He initialization of 64-width-width/2-10; weights are (in, out)."""
    rng = np.random.default_rng([seed, 1])
    params = {}
    for layer, (fan_in, out) in enumerate(pairwise((64, width, width // 2, 10)), start=1):
        params[f"W{layer}"] = rng.normal(0.0, np.sqrt(2.0 / fan_in), (fan_in, out))
        params[f"b{layer}"] = np.zeros(out)
        if normalized and layer < 3:
            params[f"g{layer}"] = np.ones(out)
    return params


def statistics(params, x):
    """Mean and σ of the outputs of each normalized layer over all of x: what testing normalizes with."""
    found = {}
    a = x
    for layer in (1, 2):
        z = a @ params[f"W{layer}"]
        if f"g{layer}" in params:
            found[layer] = z.mean(0), np.sqrt(z.var(0) + EPS)
            z = (z - found[layer][0]) / found[layer][1] * params[f"g{layer}"]
        a = np.maximum(z + params[f"b{layer}"], 0)
    return found


def logits(params, x, found):
    """The outputs of the last layer, normalized with the statistics that were found."""
    a = x
    for layer in (1, 2):
        z = a @ params[f"W{layer}"]
        if layer in found:
            z = (z - found[layer][0]) / found[layer][1] * params[f"g{layer}"]
        a = np.maximum(z + params[f"b{layer}"], 0)
    return a @ params["W3"] + params["b3"]


def loss_and_grads(params, x, y):
    """Mean cross-entropy of a batch, normalized by itself, and its gradient for every parameter by name."""
    n = len(x)
    inputs, normal, sigma = [x], {}, {}
    for layer in (1, 2):
        z = inputs[-1] @ params[f"W{layer}"]
        if f"g{layer}" in params:
            sigma[layer] = np.sqrt(z.var(0) + EPS)
            normal[layer] = (z - z.mean(0)) / sigma[layer]
            z = normal[layer] * params[f"g{layer}"]
        inputs.append(np.maximum(z + params[f"b{layer}"], 0))
    z = inputs[2] @ params["W3"] + params["b3"]
    z = z - z.max(1, keepdims=True)  # the same softmax, and exp cannot overflow
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))

    grads = {}
    d = (np.exp(log_p) - y) / n
    for layer in (3, 2, 1):
        grads[f"b{layer}"] = d.sum(0)
        if layer in normal:
            grads[f"g{layer}"] = (normal[layer] * d).sum(0)
            d = d - (grads[f"b{layer}"] + normal[layer] * grads[f"g{layer}"]) / n
            d = d * params[f"g{layer}"] / sigma[layer]
        grads[f"W{layer}"] = inputs[layer - 1].T @ d
        d = (d @ params[f"W{layer}"].T) * (inputs[layer - 1] > 0)
    return -(y * log_p).sum() / n, {name: grads[name] for name in params}

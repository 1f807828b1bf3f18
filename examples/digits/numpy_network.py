"""The network in NumPy, differentiated by hand.

Three layers, ReLU between them, cross-entropy on top. For a batch X of n rows and one-hot labels Y::

    A0 = X,  Z_l = A_(l-1) W_l + b_l,  A_l = max(Z_l, 0),  L = −(1/n) Σ Y ⊙ log softmax(Z_3)

Backwards, with D_l = ∂L/∂Z_l::

    D_3 = (softmax(Z_3) − Y) / n
    ∂L/∂W_l = A_(l-1)ᵀ D_l,  ∂L/∂b_l = column sums of D_l,  D_(l-1) = (D_l W_lᵀ) ⊙ [Z_(l-1) > 0]
"""

import numpy as np

import gc_core as gct

# W is (in, out): the weights that feed one unit are a column, and GC takes its mean along axis 0.
LAYOUT = "out_last"


def logits(params, x):
    """Z_3 of every row of x."""
    return _forward(params, x)[1]


def loss_and_grads(params, x, y):
    """Mean cross-entropy of a batch, and its gradient for every parameter by name."""
    inputs, z = _forward(params, x)
    z = z - z.max(1, keepdims=True)  # the same softmax, and exp cannot overflow
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    loss = -(y * log_p).sum() / len(x)

    grads = {}
    d = (np.exp(log_p) - y) / len(x)
    for layer in (3, 2, 1):
        a = inputs[layer - 1]
        grads[f"W{layer}"] = a.T @ d
        grads[f"b{layer}"] = d.sum(0)
        d = (d @ params[f"W{layer}"].T) * (a > 0)  # A > 0 where Z > 0
    return loss, {name: grads[name] for name in params}


def _forward(params, x):
    """The inputs [A_0, A_1, A_2] of the three layers, and Z_3."""
    a1 = np.maximum(x @ params["W1"] + params["b1"], 0)
    a2 = np.maximum(a1 @ params["W2"] + params["b2"], 0)
    return [x, a1, a2], a2 @ params["W3"] + params["b3"]


def compiled(step):
    """NumPy has nothing to compile."""
    return step


__all__ = ["LAYOUT", "compiled", "gct", "logits", "loss_and_grads"]

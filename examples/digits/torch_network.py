"""The network in PyTorch, differentiated by autograd."""

import torch
from torch.nn.functional import cross_entropy, linear, relu

import gc_torch as gct

# W is (out, in), as in torch.nn.Linear: the weights that feed one unit are a row, and GC takes its mean along axis 1.
LAYOUT = "out_first"


def logits(params, x):
    """Outputs of the last layer for every row of x."""
    hidden = relu(linear(x, params["W1"], params["b1"]))
    hidden = relu(linear(hidden, params["W2"], params["b2"]))
    return linear(hidden, params["W3"], params["b3"])


def loss_and_grads(params, x, y):
    """Mean cross-entropy of a batch, and its gradient for every parameter by name."""
    leaves = {name: w.detach().requires_grad_() for name, w in params.items()}
    loss = cross_entropy(logits(leaves, x), y)
    grads = torch.autograd.grad(loss, list(leaves.values()))
    return loss.detach(), dict(zip(leaves, grads, strict=True))


def compiled(step):
    """Eager PyTorch runs it as it stands."""
    return step


__all__ = ["LAYOUT", "compiled", "gct", "logits", "loss_and_grads"]

"""The network on a GPU with CuPy: NumPy's functions act on CuPy's arrays, so the hand-made gradient serves here too."""

import gc_cupy as gct
from examples.digits.numpy_network import LAYOUT, compiled, logits, loss_and_grads

__all__ = ["LAYOUT", "compiled", "gct", "logits", "loss_and_grads"]

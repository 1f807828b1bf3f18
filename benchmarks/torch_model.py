"""Parameters of PyTorch that a benchmark steps on."""

import torch

import gc_torch as gct
from benchmarks.shapes import Shape


class Model:
    """Parameters of the shapes, with random gradients whose means are not zero, and their plan."""

    def __init__(self, shapes: list[Shape], dtype: str = "float32", device: str = "cpu"):
        torch.manual_seed(0)
        self.shapes, self.module = shapes, torch.nn.Module()
        for i, one in enumerate(shapes):
            p = torch.nn.Parameter(torch.randn(one.shape, device=device).mul_(0.02).to(getattr(torch, dtype)))
            p.grad = torch.randn(one.shape, device=device).add_(0.5).to(p.dtype)
            self.module.register_parameter(f"p{i}", p)
        self.plan = gct.plan(self.module, {f"p{i}": one.axes for i, one in enumerate(shapes)})
        self.params = list(self.module.parameters())

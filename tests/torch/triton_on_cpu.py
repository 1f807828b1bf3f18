"""Triton's interpreter, which runs the kernel on CPU tensors, with the one thing put right that it gets wrong.

It cuts bfloat16 off where a GPU rounds to nearest. TRITON_INTERPRET=1 must be set before Triton is imported.
"""

import os

import numpy as np
import torch

DEVICE = torch.device(os.environ.get("GC_DEVICE", "cpu"))
if DEVICE.type == "cuda":  # as tensors name theirs
    DEVICE = torch.device("cuda", 0)


def repair() -> None:
    """Let the interpreter convert bfloat16 as PyTorch does."""
    import triton.language as tl
    from triton.runtime import interpreter

    its_own = interpreter._convert_float
    if its_own.__module__ == __name__:
        return

    def convert(data, from_dtype, to_dtype, rounding_mode):
        if (from_dtype, to_dtype) == (tl.float32, tl.bfloat16):
            rounded = torch.from_numpy(np.ascontiguousarray(data, np.float32)).to(torch.bfloat16)
            return rounded.view(torch.int16).numpy().view(np.uint16).reshape(data.shape)
        if (from_dtype, to_dtype) == (tl.bfloat16, tl.float32):
            return (data.view(np.uint16).astype(np.uint32) << 16).reshape(data.shape)
        return its_own(data, from_dtype, to_dtype, rounding_mode)

    interpreter._convert_float = convert


if DEVICE.type == "cpu":
    repair()

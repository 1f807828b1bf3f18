"""Memory for a step's temporaries, kept from step to step: on a CPU, fresh pages cost more than the arithmetic."""

import torch
from torch import Tensor

from gc_torch.arrays import is_dense

_KEEP_AT_MOST = 1 << 28  # bytes of one device and dtype; beyond it, memory is given back


class Scratch:
    """Hands out uninitialized tensors that are valid until `clear`."""

    def __init__(self):
        self._flat: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._used: dict[tuple[torch.device, torch.dtype], int] = {}

    def like(self, p: Tensor, dtype: torch.dtype) -> Tensor:
        """A tensor of the shape and strides of p."""
        key = (p.device, dtype)
        start = self._used.get(key, 0)
        self._used[key] = start + -(-p.numel() // 16) * 16  # the next one starts on a cache line
        flat = self._flat.get(key)
        if flat is None or start + p.numel() > flat.numel() or not is_dense(p):
            return torch.empty_like(p, dtype=dtype, requires_grad=False)
        return flat[start : start + p.numel()].as_strided(p.shape, p.stride())

    def clear(self) -> None:
        """Take back what was handed out, and keep as much for the next time."""
        for key, used in self._used.items():
            device, dtype = key
            flat = self._flat.get(key)
            if (
                device.type == "cpu"
                and used * dtype.itemsize <= _KEEP_AT_MOST
                and (flat is None or flat.numel() < used)
            ):
                self._flat[key] = torch.empty(used, dtype=dtype, device=device)
        self._used.clear()

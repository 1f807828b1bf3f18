"""Memory for temporaries that is kept from step to step, since fresh pages cost more than the arithmetic."""

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

    def reserve(self, device: torch.device, dtype: torch.dtype, n: int) -> bool:
        """Whether memory for n elements is kept, now if not before. It is on a CPU, if it is not very much."""
        flat = self._flat.get((device, dtype))
        if device.type != "cpu" or n * dtype.itemsize > _KEEP_AT_MOST:
            return False
        if flat is None or flat.numel() < n:
            self._flat[device, dtype] = torch.empty(n, dtype=dtype, device=device)
        return True

    def clear(self) -> None:
        """Take back what was handed out, and keep as much for the next time."""
        for (device, dtype), used in self._used.items():
            self.reserve(device, dtype, used)
        self._used.clear()

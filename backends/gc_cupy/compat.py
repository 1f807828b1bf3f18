"""What differs between releases of CuPy, and between builds. The oldest release is that of `gc_core.versions`."""

import functools
import sys
import warnings

from gc_core import versions
from gc_core.reasons import GCWarning

cupy = versions.require("gc_cupy", "cupy")  # before anything else of it is looked for


def mixture() -> str | None:
    """What is to be said of a PyTorch in this process that is built for another CUDA than CuPy; nothing is imported."""
    torch = sys.modules.get("torch")
    theirs = getattr(getattr(torch, "version", None), "cuda", None)  # "12.8"; None without CUDA
    build = getattr(getattr(cupy.cuda, "driver", None), "get_build_version", lambda: 0)()  # 13020 for 13.2; 0 unknown
    ours = build // 1000
    if not theirs or not ours or versions.release(theirs)[0] == ours:
        return None
    return (
        f"PyTorch is built for CUDA {theirs}, and CuPy for CUDA {ours}: in one process each may find the other's "
        f"libraries. CuPy for the CUDA of PyTorch is cupy-cuda{versions.release(theirs)[0]}x: pip uninstall "
        f"cupy-cuda{ours}x, then pip install cupy-cuda{versions.release(theirs)[0]}x"
    )


@functools.cache
def _say(text: str) -> None:
    warnings.warn(text, GCWarning, stacklevel=4)


def warn_of_mixture() -> None:
    """Say it once: when gc_cupy is imported, or at its first kernel where PyTorch came later."""
    if text := mixture():
        _say(text)


warn_of_mixture()

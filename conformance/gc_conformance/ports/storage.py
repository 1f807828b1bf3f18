"""How the frameworks store layers: what a library for one of them never meets is *not provided*, not wrong."""

from __future__ import annotations

from collections.abc import Sequence

PYTORCH_ALONE = ("weight_norm", "spectral_norm", "orthogonal", "bias_k", "bias_v", "in_proj")


def stores(
    framework: str | None, kind: str, stored: str, part: str = "weight", groups: int = 1, stack=None, tied=False
) -> bool:
    """Whether models for "torch", "jax" or "keras" have such a layer stored like this; of any, where it is None."""
    out_first = stored.startswith(("out in", "stack out"))
    heads = "head_dim" in stored
    transposed = kind.startswith("conv_transpose")
    convolution = kind.startswith("conv") and not transposed
    if framework is None:
        return True
    if framework == "torch":
        has = not heads and "mult" not in stored and not (convolution and not out_first)
        has = has and not (transposed and not stored.startswith("in out"))
        return has and (stack is None or out_first or stack == "experts")
    has = not part.startswith(PYTORCH_ALONE) and not (transposed and stored.startswith("in out"))
    has = has and not (transposed and groups > 1) and kind != "bilinear"
    return has and not (framework == "keras" and out_first)


def require(framework: str, kind: str, *, stored: str, **words) -> None:
    """Raise `NotImplementedError` where the framework does not store such a layer like this."""
    if not stores(framework, kind, stored, **words):
        raise NotImplementedError(f"{kind} stored ({stored})")


def own_axes(shape: Sequence[int], layout: str, least: int = 2) -> tuple[int, ...] | None:
    """All axes but the output's, first or last; None below the least number of dimensions."""
    if len(shape) < least:
        return None
    return tuple(range(1, len(shape))) if layout == "out_first" else tuple(range(len(shape) - 1))


def only(own: tuple[int, ...] | None, axis, shape: Sequence[int]) -> None:
    """Not provided, unless the axes asked for are those that the framework takes for this shape in any case."""
    asked = None if axis is None else {a % len(shape) for a in ((axis,) if isinstance(axis, int) else axis)}
    if asked != (None if own is None else set(own)):
        raise NotImplementedError(f"axes other than {own} for a shape of {len(shape)} dimensions")

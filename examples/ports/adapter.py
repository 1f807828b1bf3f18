"""What the adapters share: saying what a library does not offer, so that it is reported as not provided.

Each adapter also names `causes`: why properties fail, with patterns of their ids, found by reading and by trying. The
page groups failures by them; a cause for which nothing fails any more is an error.
"""

from collections.abc import Sequence

PYTORCH_ALONE = ("weight_norm", "spectral_norm", "orthogonal", "bias_k", "bias_v", "in_proj")


def last_is_output(shape: Sequence[int]) -> tuple[int, ...] | None:
    return tuple(range(len(shape) - 1)) if len(shape) > 1 else None


def first_is_output(shape: Sequence[int]) -> tuple[int, ...] | None:
    return tuple(range(1, len(shape))) if len(shape) > 1 else None


def only(own: tuple[int, ...] | None, axis, shape: Sequence[int]) -> None:
    """Not provided, unless the axes asked for are those that the library takes for this shape in any case."""
    asked = None if axis is None else {a % len(shape) for a in ((axis,) if isinstance(axis, int) else axis)}
    if asked != (None if own is None else set(own)):
        raise NotImplementedError(f"axes other than {own} for a shape of {len(shape)} dimensions")


def stored_by(library: str, kind: str, stored: str, part: str, groups: int, stack: str | None) -> None:
    """Not provided, unless models for this library store such a layer in this way."""
    out_first = stored.startswith(("out in", "stack out"))
    heads = "head_dim" in stored
    transposed = kind.startswith("conv_transpose")
    convolution = kind.startswith("conv") and not transposed
    if library == "torch":
        has = not heads and "mult" not in stored and not (convolution and not out_first)
        has = has and not (transposed and not stored.startswith("in out"))
        has = has and (stack is None or out_first or stack == "experts")
    else:
        has = not part.startswith(PYTORCH_ALONE) and not (transposed and stored.startswith("in out"))
        has = has and not (transposed and groups > 1) and kind != "bilinear"
        if library == "keras":
            has = has and not out_first
    if not has:
        raise NotImplementedError(f"{kind} stored ({stored})")


BY_RANK = "The rule goes by rank, and takes tensors for weights that are none."
FAN_IN_ONE = "Where the fan-in is one, zero is left: the parameter never moves."
STACKS = "The axis of a stack of layers is taken for part of the layer."
TRANSPOSED = "The first axis of a transposed convolution is its input, and is taken for its output."
OUT_LAST = "The output axis of weights stored (in, out) is taken for the fan-in."
NOT_WEIGHTS = (
    *("layers.*embedding*", "layers.class_token", "layers.relative_position_table", "layers.bias_4d", "layers.unknown"),
    *("layers.norm_scale_3d", "layers.layer_scale"),
)
HALF = "The mean is rounded to half precision before it is subtracted."
EPS = "Adam's eps is added to sqrt(v) before v's bias correction, which makes it smaller by sqrt(1 - beta2^t)."

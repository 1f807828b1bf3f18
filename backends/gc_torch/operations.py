"""What PyTorch's operations do with the axes of a tensor that is made of parameters alone.

Structure first (views, slices, joins), then what only prepares a weight (casts, sums, functions). Where such a tensor
meets the data is on page `program`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from gc_core import axes as ax
from gc_core.axes import Axes
from gc_torch import compat

aten = compat.aten


@dataclass(frozen=True)
class Root:
    """One parameter in a tensor that is made of it: which of its axes run along the tensor's, and what was done."""

    axes: Axes | None  # None: what was done to it cannot be followed
    function: bool = False  # it is not linear in the parameter
    product: bool = False  # multiplied, element by element, by another parameter
    factor: bool = False  # matrix product with another parameter
    looked_up: bool = False  # places were chosen by integers
    lost: str = ""  # the operation that could not be followed

    def moved(self, change: Callable[[Axes], Axes]) -> "Root":
        return self if self.axes is None else replace(self, axes=change(self.axes))

    def without(self, operation: str) -> "Root":
        return replace(self, axes=None, lost=self.lost or operation)


@dataclass(eq=False)
class Made:
    """A tensor that is made of parameters alone, or (`times_data`) such a one times data, element by element."""

    roots: dict[str, Root]
    times_data: bool = False
    consumed: bool = False
    # Of a product of two: what it is if it turns out that one of them was the input of a layer. (input, weight, axis)
    layer: "tuple[Made, Made, int] | None" = None

    def map(self, change: Callable[[Root], Root]) -> "Made":
        return replace(self, roots={name: change(root) for name, root in self.roots.items()}, consumed=False)


# ---- Structure: one tensor in, with its axes elsewhere


def _permuted(axes: Axes, x: Tensor, out: Any, order: Sequence[int]) -> Axes:
    return tuple(axes[i] for i in order)


def _transposed(axes: Axes, x: Tensor, out: Any, a: int = 0, b: int = 1) -> Axes:
    if len(axes) < 2:
        return axes
    order = list(axes)
    order[a], order[b] = order[b], order[a]
    return tuple(order)


def _reshaped(axes: Axes, x: Tensor, out: Any, *_: Any) -> Axes:
    return ax.reshaped(axes, x.shape, out.shape)


def _same(axes: Axes, x: Tensor, out: Any, *_: Any) -> Axes:
    return axes


def aligned(axes: Axes, shape: Sequence[int], wanted: Sequence[int]) -> Axes:
    """As broadcasting does it: axes that are missing, or 1 long, are blank."""
    missing = len(wanted) - len(shape)
    result = [ax.blank(n) for n in wanted[:missing]]
    for axis, n, to in zip(axes, shape, wanted[missing:], strict=True):
        result.append(axis if n == to else ax.blank(to))
    return tuple(result)


def _expanded(axes: Axes, x: Tensor, out: Any, *_: Any) -> Axes:
    return aligned(axes, x.shape, out.shape)


def _selected(axes: Axes, x: Tensor, out: Any, dim: int, index: Any) -> Axes:
    dim %= len(axes)
    return axes[:dim] + axes[dim + 1 :]


def _sliced(axes: Axes, x: Tensor, out: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Axes:
    dim %= len(axes)
    first, last, step = slice(start, end, step).indices(x.shape[dim])
    return (*axes[:dim], ax.sliced(axes[dim], x.shape[dim], first, last, step), *axes[dim + 1 :])


def _repeated(axes: Axes, x: Tensor, out: Any, repeats: Sequence[int]) -> Axes:
    missing = len(repeats) - len(axes)
    result = [ax.blank(n) for n in repeats[:missing]]
    return (*result, *(ax.blank(n) + axis for n, axis in zip(repeats[missing:], axes, strict=True)))


def _padded(axes: Axes, x: Tensor, out: Any, *_: Any) -> Axes:
    pairs = zip(axes, x.shape, out.shape, strict=True)
    return tuple(axis if n == m else ax.loosened(axis, m, whole=True) for axis, n, m in pairs)


def _looked_up(axes: Axes, x: Tensor, out: Tensor, *_: Any) -> Axes:
    """What is left of the axes from which nothing was chosen: those at the end."""
    kept = 0
    while kept < min(len(axes), out.ndim) and x.shape[-1 - kept] == out.shape[-1 - kept]:
        kept += 1
    return (*map(ax.blank, out.shape[: out.ndim - kept]), *axes[len(axes) - kept :])


def _indexed(axes: Axes, x: Tensor, out: Tensor, indices: Sequence[Any]) -> Axes:
    chosen = [i for i, index in enumerate(indices) if index is not None]
    together = chosen == list(range(chosen[0], chosen[-1] + 1))
    kept = [axis for i, axis in enumerate(axes) if i not in chosen]
    new = out.ndim - len(kept)
    at = chosen[0] if together else 0
    return (*kept[:at], *map(ax.blank, out.shape[at : at + new]), *kept[at:])


def _index_selected(axes: Axes, x: Tensor, out: Tensor, dim: int, *_: Any) -> Axes:
    dim %= len(axes)
    return (*axes[:dim], ax.blank(out.shape[dim]), *axes[dim + 1 :])


STRUCTURE: dict[Any, Callable[..., Axes]] = {
    aten.t: _transposed, aten.transpose: _transposed, aten.permute: _permuted,
    aten.numpy_T: lambda axes, x, out: axes[::-1],
    **dict.fromkeys([aten.view, aten._unsafe_view, aten.reshape, aten._reshape_alias, aten.squeeze, aten.unsqueeze,
                     aten.view_copy, aten.flatten, aten.unflatten], _reshaped),
    **dict.fromkeys([aten.detach, aten.alias, aten.clone, aten._to_copy, aten.contiguous, aten.lift_fresh, aten.to,
                     aten.positive, aten.neg, aten.conj, aten._conj, aten.flip, aten.roll, aten.tril, aten.triu,
                     aten.resolve_conj, aten._conj_physical, aten.real, aten.lift, aten.copy, aten.type_as,
                     aten._pin_memory, aten.view_as], _same),
    aten.expand: _expanded, aten.expand_as: _expanded, aten.select: _selected, aten.slice: _sliced,
    aten.repeat: _repeated, aten.constant_pad_nd: _padded,
}  # fmt: skip
LOOK_UPS: dict[Any, Callable[..., Axes]] = {
    aten.index: _indexed, aten.index_select: _index_selected, aten.gather: _looked_up, aten.take: _looked_up,
}  # fmt: skip


def _split(axes: Axes, x: Tensor, outs: Sequence[Tensor], dim: int) -> list[Axes]:
    dim %= len(axes)
    result, start = [], 0
    for out in outs:
        stop = start + out.shape[dim]
        result.append((*axes[:dim], ax.sliced(axes[dim], x.shape[dim], start, stop), *axes[dim + 1 :]))
        start = stop
    return result


def in_parts(packet: Any, axes: Axes, x: Tensor, outs: Sequence[Tensor], args: Sequence[Any]) -> list[Axes]:
    """The axes of each of the tensors that one was cut into."""
    if packet is aten.unbind:
        dim = args[0] if args else 0
        return [_selected(axes, x, out, dim, None) for out in outs]
    return _split(axes, x, outs, args[1] if len(args) > 1 else 0)


IN_PARTS = {
    aten.split, aten.split_with_sizes, aten.unbind, aten.chunk, aten.unsafe_split, aten.unsafe_split_with_sizes,
    aten.unsafe_chunk, aten.tensor_split,
}  # fmt: skip


def joined(packet: Any, axes: Axes, out: Tensor, dim: int) -> Axes:
    """The axes of one of the tensors that were joined, in the whole."""
    dim %= out.ndim
    if packet is aten.stack:
        return (*axes[:dim], ax.blank(out.shape[dim]), *axes[dim:])
    return (*axes[:dim], ax.loosened(axes[dim], out.shape[dim], whole=True), *axes[dim + 1 :])


# ---- Preparing a weight: several tensors without data in, one out

SUMS = {aten.add, aten.sub, aten.rsub, aten.lerp, aten.where, aten.masked_fill, aten.addcmul, aten.subtract}
TIMES = {aten.mul, aten.div, aten.multiply, aten.divide, aten.true_divide}


def combined(parts: Sequence[tuple[Made, Sequence[int]]], shape: Sequence[int], *, times: bool) -> Made:
    """The sum, or the product, of tensors that are made of parameters."""
    roots: dict[str, Root] = {}
    for made, before in parts:
        for name, root in made.roots.items():
            new = root.moved(lambda axes, before=before: aligned(axes, before, shape))
            others = any(name not in other.roots for other, _ in parts)
            if times and others and len(parts) > 1:
                new = replace(new, product=True)
            if name in roots:
                new = _of_both(roots[name], new, times)
            roots[name] = new
    return Made(roots)


def _of_both(a: Root, b: Root, times: bool) -> Root:
    """A parameter that stands in two tensors which are added, or multiplied."""
    function = a.function or b.function or times
    flags = dict(product=a.product or b.product, factor=a.factor or b.factor, looked_up=a.looked_up or b.looked_up)
    if a.axes is None or b.axes is None:
        return replace(a, axes=None, function=True, lost=a.lost or b.lost, **flags)
    mine, its = ([_real(axis) for axis in axes] for axes in (a.axes, b.axes))
    if mine == its:
        return replace(a, function=function, **flags)
    # Its mean, its norm, or the like, beside it.
    for one, other, root in ((mine, its, a), (its, mine, b)):
        if all(not y or x == y for x, y in zip(one, other, strict=True)):
            return replace(root, function=True, **flags)
    return replace(a, axes=None, function=True, lost="what it is added to lies across", **flags)


def _real(axis: Any) -> list[Any]:
    return [piece for piece in ax.leaves(axis) if not piece.blank]


def function_of(made: Made, operation: str, shape: Sequence[int], out: Any) -> Made:
    """What an operation of which nothing is known makes of one tensor: of the same shape, some function of it."""
    if isinstance(out, Tensor) and tuple(out.shape) == tuple(shape):
        return made.map(lambda root: replace(root, function=True))
    if isinstance(out, Tensor) and (out.numel() == 1 or len(out.shape) == len(shape)):  # a norm, a deviation, a maximum

        def change(axes: Axes) -> Axes:
            if out.numel() == 1:
                return ((),) * out.ndim
            return tuple(axis if n == m else () for axis, n, m in zip(axes, shape, out.shape, strict=True))

        if out.numel() == 1 or all(m in (1, n) for n, m in zip(shape, out.shape, strict=True)):
            return made.map(lambda root: replace(root.moved(change), function=True))
    return made.map(lambda root: replace(root.without(operation), function=True))


def reduced(made: Made, shape: Sequence[int], out: Tensor, dims: Any, keepdim: bool) -> Made:
    """Sums and means of a tensor without data: what is left of its axes."""
    gone = {dim % len(shape) for dim in (range(len(shape)) if dims is None or dims == [] else dims)}

    def change(axes: Axes) -> Axes:
        left = [() if i in gone else axis for i, axis in enumerate(axes)]
        return tuple(axis for i, axis in enumerate(left) if keepdim or i not in gone)

    return made.map(lambda root: replace(root.moved(change), function=True))

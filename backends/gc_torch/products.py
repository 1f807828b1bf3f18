"""Products, in which parameters meet the data, or each other: matrices and convolutions."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from gc_core import axes as ax
from gc_core.uses import Kind
from gc_torch.operations import Made, Root, aten
from gc_torch.trace import Trace

# Operation -> places of the two that are multiplied, and of what is added.
MATRIX = {
    aten.mm: (0, 1, None), aten.bmm: (0, 1, None), aten.addmm: (1, 2, 0), aten.baddbmm: (1, 2, 0),
    aten.mv: (0, 1, None), aten.addmv: (1, 2, 0), aten.dot: (0, 1, None), aten.vdot: (0, 1, None),
    aten.matmul: (0, 1, None), aten._grouped_mm: (0, 1, None), aten.addbmm: (1, 2, 0),
}  # fmt: skip
CONVOLUTIONS = {aten.convolution, aten._convolution, aten.convolution_overrideable}


def matrix(trace: Trace, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
    i, j, k = MATRIX[packet]
    left, right = args[i], args[j]
    trace.consume(args)
    if k is not None and (added := trace.weight(args[k])) is not None:
        trace.note(added, Kind.ADDED, packet.__name__)
    a, b = trace.weight(left), trace.weight(right)
    at_left, at_right = left.ndim - 1, max(right.ndim - 2, 0)
    if a is not None and b is not None:
        layer = _which(trace, a, at_left, b, at_right, left, right, k is not None)
        if layer is None:
            return trace.mark(out, _product(trace, a, at_left, b, at_right, left, right, out))
        trace.as_layer(Made({}, layer=layer))
    elif a is not None and a.layer is not None:
        trace.as_layer(a)
    elif a is not None or b is not None:
        made, axis, data = (b, at_right, left) if a is None else (a, at_left, right)
        assert made is not None
        trace.sum_over(made, [axis], packet.__name__, data)
        trace.mark(out, None)
        if not any(is_layer(trace, name) for name in made.roots) and left.ndim == right.ndim == out.ndim > 1:
            last = (None, out.ndim - 1) if a is None else (out.ndim - 2, None)
            trace.twice.output(out, made.roots, [*[None] * (out.ndim - 2), *last])
        return None
    return trace.mark(out, None)


def of_data(trace: Trace, packet: Any, args: Any) -> None:
    """A product in which no parameter is: one may have made its weight."""
    if packet in MATRIX:
        left, right = (args[i] for i in MATRIX[packet][:2])
        if left.ndim == right.ndim and right.ndim > 1 and right.shape[-1] > 1:
            trace.made_weights(left, [left.ndim - 1], [left.ndim - 2])
        if left.ndim == right.ndim and left.ndim > 1 and left.shape[-2] > 1:
            trace.made_weights(right, [right.ndim - 2], [right.ndim - 1])
    elif packet in CONVOLUTIONS:
        axes = list(range(args[1].ndim))
        out, *over = [1, 0, *axes[2:]] if args[6] else axes
        trace.made_weights(args[1], over, [out])


def _which(
    trace: Trace, a: Made, i: int, b: Made, j: int, left: Tensor, right: Tensor, added: bool
) -> tuple[Made, Made, int] | None:
    """(input, weight, axis) if one of two tensors made of parameters is the input of a layer; None: a product."""
    if a.layer is not None:
        trace.as_layer(a)
    if b.layer is not None:
        trace.as_layer(b)
    if any(root.looked_up for root in a.roots.values()):
        return a, b, j
    for one, axis, other in ((b, j, a), (a, i, b)):
        if _is_fan_in(trace, one, axis) and (one is b or not any(is_layer(trace, name) for name in other.roots)):
            return other, one, axis
    return (a, b, j) if added else None


def is_layer(trace: Trace, name: str) -> bool:
    return trace.known[name].axes is not None


def _is_fan_in(trace: Trace, made: Made, axis: int) -> bool:
    """Whether a layer's weight is summed over along what its class says is its fan-in."""
    for name, root in made.roots.items():
        known = trace.known[name]
        if known.axes is None or root.axes is None or root.factor:
            return False
        summed = {leaf for leaf in ax.leaves(root.axes[axis]) if not leaf.blank}
        if not ax.same_vectors(ax.view(trace.shapes[name], trace.axes[name], summed), (known.shape, known.axes)):
            return False
    return True


def _product(trace: Trace, a: Made, i: int, b: Made, j: int, left: Tensor, right: Tensor, out: Tensor) -> Made:
    """Of two parameters; a bias that is added to it, or a function of it, shows it as a layer and its input."""
    roots: dict[str, Root] = {}
    for made, x, gone, at in ((a, left, i, out.ndim - 2), (b, right, j, out.ndim - 1)):
        for name, root in made.roots.items():
            if name in roots:
                roots[name] = replace(root, function=True).without("a product with itself")
                continue

            def change(axes: Any, x: Tensor = x, gone: int = gone, at: int = at) -> Any:
                kept = [axis for dim, axis in enumerate(axes) if dim != gone]
                new = [ax.blank(n) for n in out.shape]
                if kept and out.ndim >= 2:
                    new[at] = kept[-1]
                    new[: len(kept) - 1] = kept[:-1]
                return tuple(new)

            roots[name] = replace(root.moved(change), factor=True)
    transposed = right.ndim > 1 and right.stride(-1) != 1 and right.stride(-2) == 1
    return Made(roots, layer=(a, b, j) if transposed else None)


def convolution(trace: Trace, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
    x, weight, bias, transposed, groups = args[0], args[1], args[2], args[6], args[8]
    trace.consume(args)
    if (made := trace.weight(x)) is not None:
        trace.note(made, Kind.INPUT, packet.__name__)
    if (made := trace.weight(bias)) is not None:
        trace.note(made, Kind.ADDED, packet.__name__)
    if (made := trace.weight(weight)) is not None:
        shape = weight.shape
        if transposed and groups > 1:  # (in, …) as (groups, in/groups, …)
            seen = (groups, shape[0] // groups, *shape[1:])
            made = made.map(lambda root: root.moved(lambda axes: ax.reshaped(axes, shape, seen)))
            dims = [1, *range(3, len(seen))]
        else:
            dims = [0, *range(2, len(shape))] if transposed else list(range(1, len(shape)))
        trace.sum_over(made, dims, packet.__name__)
    trace.mark(out, None)


def trilinear(trace: Trace, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Of nn.Bilinear: (out, in, in)."""
    trace.consume(args)
    for i in (0, 2):
        if (made := trace.weight(args[i])) is not None:
            trace.note(made, Kind.INPUT, packet.__name__)
    if (made := trace.weight(args[1])) is not None:
        trace.sum_over(made, [1, 2], packet.__name__)
    trace.mark(out, None)

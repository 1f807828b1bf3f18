"""Reads a program as it runs: what each of its operations does with the parameters that it takes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from gc_core import axes as ax
from gc_core.uses import Kind, Use
from gc_torch import compat, products
from gc_torch import operations as ops
from gc_torch.compat import TorchDispatchMode, pytree
from gc_torch.operations import Made, aten
from gc_torch.products import is_layer
from gc_torch.trace import Trace
from gc_torch.unchanged import Saved

_NORMS = {
    aten.native_layer_norm, aten.native_group_norm, aten.native_batch_norm, aten.cudnn_batch_norm,
    aten._native_batch_norm_legit, aten._native_batch_norm_legit_no_training, aten._batch_norm_no_update,
    aten._batch_norm_with_update, aten.miopen_batch_norm, aten._fused_rms_norm, aten.rms_norm, aten.layer_norm,
}  # fmt: skip
_TABLES = {aten.embedding, aten._embedding_bag, aten._embedding_bag_forward_only, aten.embedding_renorm}
_SUMS = {aten.sum, aten.mean}
_NOTHING = {aten.empty_like, aten.zeros_like, aten.ones_like, aten.new_zeros, aten.new_empty, aten.new_ones,
            aten.new_full, aten.full_like, aten.rand_like, aten.randn_like, aten.sym_size, aten.is_same_size,
            aten._local_scalar_dense, aten.item, aten.equal}  # fmt: skip


class Reader(TorchDispatchMode):
    """Takes down in a `Trace` what the operations of a program do with its parameters."""

    def __init__(self, trace: Trace, fake: FakeTensorMode | None, saved: Saved | None):
        super().__init__()
        self.trace, self.fake, self.saved = trace, fake, saved

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = self._run(func, args, kwargs)
        packet = _packet(func)
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if any(id(x) in self.trace.made for x in tensors):
            _RULES.get(packet, _unknown)(self.trace, packet, args, kwargs, out)
            return out
        data = any(map(self.trace.is_data, tensors)) and func is not aten.lift_fresh.default
        self.trace.mark(out, None, quiet=not data)
        if data:
            self.trace.twice.follow(packet, args, out)
            products.of_data(self.trace, packet, args)
        if data and compat.is_mutable(func) and isinstance(args[0], Tensor):
            self.trace.quiet.pop(id(args[0]), None)
        return out

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if self.fake is not None:
            # Otherwise an operation on parameters and buffers alone would be computed, and may write to them.
            args, kwargs = pytree.tree_map_only(Tensor, self._as_fake, (args, kwargs))
            if func.overloadpacket is aten._grouped_mm:  # on fake tensors it wants bfloat16
                a, b = args[:2]
                rows = a.shape[:-1] if a.ndim == 2 else (*b.shape[:-2], a.shape[-2])
                return a.new_empty((*rows, b.shape[-1]))
        elif self.saved is not None and compat.is_mutable(func):
            self.saved.before(func, args)
        return func(*args, **kwargs)

    def _as_fake(self, x: Tensor) -> Tensor:
        assert self.fake is not None
        return x if isinstance(x, FakeTensor) else self.fake.from_tensor(x)


def _packet(func: Any) -> Any:
    """The operation that gives a new tensor, of one that writes into its first."""
    packet = func.overloadpacket
    name = packet.__name__
    if name.endswith("_") and not name.startswith("_") and packet not in (aten.copy_, aten.index_put_):
        return getattr(aten, name[:-1], packet)
    return packet


# ---- What an operation does. `out` is its result, and `packet` its kind


def _nothing(trace: Trace, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Only the shape is read."""
    trace.mark(out, None, quiet=True)


def _structure(trace: Trace, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
    x = args[0]
    made = trace.of(x)
    if made is None:
        return _unknown(trace, packet, args, kwargs, out)
    made.consumed = True
    change = ops.STRUCTURE[packet]
    rest = [*args[1:], *(kwargs[key] for key in ("dim", "dims", "index") if key in kwargs)]
    rest = rest if change not in (ops._same, ops._reshaped, ops._expanded) else []
    new = made.map(lambda root: root.moved(lambda axes: change(axes, x, out, *rest)))
    return trace.mark(out, new)


def _in_parts(trace: Trace, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
    made = trace.of(args[0])
    assert made is not None
    made.consumed = True
    rest = list(args[1:]) + [kwargs[key] for key in ("dim",) if key in kwargs]
    for i, part in enumerate(out):
        at = made.map(lambda root, i=i: root.moved(lambda axes: ops.in_parts(packet, axes, args[0], out, rest)[i]))
        trace.mark(part, at)


def _look_up(trace: Trace, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
    x = args[0]
    made = trace.weight(x)
    if made is None:
        return _unknown(trace, packet, args, kwargs, out)
    change = ops.LOOK_UPS[packet]
    rest = [*args[1:], *kwargs.values()]
    return trace.mark(
        out, made.map(lambda root: replace(root.moved(lambda axes: change(axes, x, out, *rest)), looked_up=True))
    )


def _table(trace: Trace, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
    for x in args:
        if (made := trace.weight(x)) is not None:
            trace.note(made, Kind.TABLE, packet.__name__)
    trace.mark(out, None)


def _norm(trace: Trace, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
    first, *rest = args
    of_input = trace.weight(first)
    scales = [made for x in rest if isinstance(x, Tensor) and (made := trace.weight(x)) is not None]
    prepares = of_input is not None and (not scales or any(is_layer(trace, name) for name in of_input.roots))
    for made in scales:
        trace.note(made, Kind.SCALED if prepares else Kind.NORM, packet.__name__)
    trace.consume(args)
    if prepares:  # a weight is standardized
        assert of_input is not None
        main = out[0] if isinstance(out, (tuple, list)) else out
        trace.mark(out, None, quiet=True)
        return trace.mark(main, of_input.map(lambda root: replace(root, function=True)))
    if of_input is not None:
        trace.note(of_input, Kind.INPUT, packet.__name__)
    return trace.mark(out, None)


def _elements(trace: Trace, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
    tensors = [x for x in [*args, *kwargs.values()] if isinstance(x, Tensor)]
    if packet is aten.where:
        tensors = tensors[1:]
    times = packet in ops.TIMES
    weights = [(made, x.shape) for x in tensors if (made := trace.weight(x)) is not None]
    data = [x for x in tensors if trace.is_data(x)]
    # A parameter with one long axis is added to one with more as a bias is to what a layer gives.
    for made, _ in weights:
        if made.layer is not None and (data or len(weights) > 1):
            trace.as_layer(made)
            data.append(out)
    weights = [(made, shape) for made, shape in weights if made.layer is None or not data]
    if not data:
        divisor = packet in (aten.div, aten.true_divide, aten.divide) and len(args) > 1
        new = ops.combined(weights, out.shape, times=times)
        if divisor and trace.weight(args[1]) is not None:
            new = new.map(lambda root: replace(root, function=True))
        if len(weights) == 1:
            new.layer = weights[0][0].layer
        return trace.mark(out, new)
    before = [made for x in data if (made := trace.of(x)) is not None]
    if times and packet in (aten.mul, aten.multiply) and len(weights) + len(before) == 1:
        if before:  # times data already
            made = before[0]
            made.consumed = True
            shape = next(x.shape for x in data if trace.of(x) is made)
            new = made.map(lambda root: root.moved(lambda axes: ops.aligned(axes, shape, out.shape)))
            return trace.mark(out, new)
        new = ops.combined(weights, out.shape, times=True)
        return trace.mark(out, replace(new, times_data=True))
    trace.consume(args)
    for made, _ in weights:
        trace.note(made, Kind.SCALED if times else Kind.ADDED, packet.__name__)
    return trace.mark(out, None)


def _reduce(trace: Trace, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
    x = args[0]
    made = trace.of(x)
    if made is None:
        return _unknown(trace, packet, args, kwargs, out)
    dims = args[1] if len(args) > 1 else kwargs.get("dim")
    keepdim = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
    if not made.times_data:
        return trace.mark(out, ops.reduced(made, x.shape, out, dims, keepdim))
    made.consumed = True
    gone = {dim % x.ndim for dim in (range(x.ndim) if dims is None or dims == [] else dims)}
    along = {
        name: tuple(piece for dim in gone for piece in root.axes[dim]) if root.axes is not None else ()
        for name, root in made.roots.items()
    }
    if not any(not piece.blank for axis in along.values() for piece in ax.leaves(axis)):
        left = ops.reduced(made, x.shape, out, dims, keepdim)
        roots = {name: replace(root, function=made.roots[name].function) for name, root in left.roots.items()}
        return trace.mark(out, Made(roots, times_data=True))
    for name, root in made.roots.items():
        trace.sum(name, root, along[name], packet.__name__)
    return trace.mark(out, None)


def _join(trace: Trace, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
    tensors = args[0]
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    weights = [(x, made) for x in tensors if (made := trace.weight(x)) is not None]
    if any(map(trace.is_data, tensors)):
        trace.consume(tensors)
        for _, made in weights:
            trace.note(made, Kind.INPUT, packet.__name__)
        return trace.mark(out, None)
    parts = [
        (made.map(lambda root: root.moved(lambda axes: ops.joined(packet, axes, out, dim))), out.shape)
        for _, made in weights
    ]
    return trace.mark(out, ops.combined(parts, out.shape, times=False))


def _weight_norm(trace: Trace, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
    direction, magnitude = trace.weight(args[0]), trace.weight(args[1])
    main = out[0] if isinstance(out, (tuple, list)) else out
    trace.mark(out, None, quiet=True)
    parts = [(made, x.shape) for made, x in ((direction, args[0]), (magnitude, args[1])) if made is not None]
    made = ops.combined(parts, main.shape, times=True)
    names = direction.roots if direction is not None else {}
    roots = {name: replace(root, function=name in names) for name, root in made.roots.items()}
    trace.mark(main, Made(roots))


def _write(trace: Trace, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Into a part of another tensor."""
    trace.consume(args)
    for x in pytree.tree_leaves(args[1:]):
        if (made := trace.weight(x)) is not None:
            whole = isinstance(args[0], Tensor) and args[0].shape == x.shape and not args[0]._is_view()
            if packet is aten.copy_ and whole and id(args[0]) in trace.quiet:
                return trace.mark(args[0], made)
            for name in made.roots:
                trace.use(name, Use(Kind.UNCLEAR, "it is written into a part of another tensor"))
    return trace.mark(out, None)


def _unknown(trace: Trace, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
    """An operation of which nothing is known: with data, that is a use; without, some function."""
    leaves = pytree.tree_leaves((args, kwargs))
    weights = [(x, made) for x in leaves if (made := trace.weight(x)) is not None]
    trace.consume(leaves)
    if any(map(trace.is_data, leaves)) or len(weights) > 1:
        for _, made in weights:
            kind = Kind.INPUT if "attention" in packet.__name__ else Kind.OTHER
            trace.note(made, kind, packet.__name__)
        return trace.mark(out, None)
    if not weights:
        return trace.mark(out, None)
    x, made = weights[0]
    if made.layer is not None:
        trace.as_layer(made)
        return trace.mark(out, None)
    for one in pytree.tree_leaves(out):
        trace.mark(one, ops.function_of(made, packet.__name__, x.shape, one))
    return None


Rule = Callable[[Trace, Any, Any, Any, Any], None]
_RULES: dict[Any, Rule] = {
    **dict.fromkeys(ops.STRUCTURE, _structure),
    **dict.fromkeys(ops.IN_PARTS, _in_parts),
    **dict.fromkeys(ops.LOOK_UPS, _look_up),
    **dict.fromkeys(_TABLES, _table),
    **dict.fromkeys(_NORMS, _norm),
    **dict.fromkeys(ops.SUMS | ops.TIMES, _elements),
    **dict.fromkeys(_SUMS, _reduce),
    **dict.fromkeys(_NOTHING, _nothing),
    **dict.fromkeys([aten.cat, aten.stack, aten.concat], _join),
    **dict.fromkeys([aten._weight_norm_interface, aten._weight_norm], _weight_norm),
    **dict.fromkeys([aten.copy_, aten.index_put_, aten.index_put, aten.slice_scatter, aten.select_scatter], _write),
    **dict.fromkeys(products.MATRIX, products.matrix),
    **dict.fromkeys(products.CONVOLUTIONS, products.convolution),
    aten._trilinear: products.trilinear,
}

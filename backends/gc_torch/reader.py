"""Reads a program as it runs: the operations in which each parameter meets the data, and the axes they sum over."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gc_core import axes as ax
from gc_core.axes import Axis, Piece
from gc_core.layouts import View
from gc_core.uses import Kind, Use
from gc_torch import operations as ops
from gc_torch.operations import Made, Root, aten

# Operation -> places of the two that are multiplied, and of what is added.
_MATRIX = {
    aten.mm: (0, 1, None), aten.bmm: (0, 1, None), aten.addmm: (1, 2, 0), aten.baddbmm: (1, 2, 0),
    aten.mv: (0, 1, None), aten.addmv: (1, 2, 0), aten.dot: (0, 1, None), aten.vdot: (0, 1, None),
    aten.matmul: (0, 1, None), aten._grouped_mm: (0, 1, None), aten.addbmm: (1, 2, 0),
}  # fmt: skip
_CONVOLUTIONS = {aten.convolution, aten._convolution, aten.convolution_overrideable}
_NORMS = {
    aten.native_layer_norm, aten.native_group_norm, aten.native_batch_norm, aten.cudnn_batch_norm,
    aten._native_batch_norm_legit, aten._native_batch_norm_legit_no_training, aten._batch_norm_no_update,
    aten._batch_norm_with_update, aten.miopen_batch_norm, aten._fused_rms_norm, aten.rms_norm, aten.layer_norm,
}  # fmt: skip
_TABLES = {aten.embedding, aten._embedding_bag, aten._embedding_bag_forward_only, aten.embedding_renorm}
_SUMS = {aten.sum, aten.mean}
_WRITES = {aten.copy_, aten.index_put_, aten.index_put, aten.slice_scatter, aten.select_scatter}
_NOTHING = {aten.empty_like, aten.zeros_like, aten.ones_like, aten.new_zeros, aten.new_empty, aten.new_ones,
            aten.new_full, aten.full_like, aten.rand_like, aten.randn_like, aten.sym_size, aten.is_same_size,
            aten._local_scalar_dense, aten.item, aten.equal}  # fmt: skip


class Reader(TorchDispatchMode):
    """Takes down in which operations some parameters meet the data.

    Args:
        parameters: by name.
        known: what is known of them by their layers.
        quiet: tensors that are neither parameters nor data: buffers and other constants of the model.
    """

    def __init__(self, parameters: Mapping[str, Tensor], known: Mapping[str, View], quiet: Iterable[Tensor]):
        super().__init__()
        self.uses: dict[str, list[Use]] = {name: [] for name in parameters}
        self.axes = {name: ax.of_parameter(parameter.shape) for name, parameter in parameters.items()}
        self.shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        self.known = known
        # By id; the tensors are kept, and so their ids their own.
        self.made: dict[int, tuple[Tensor, Made]] = {}
        self.quiet: dict[int, Tensor] = {id(x): x for x in quiet}
        for name, parameter in parameters.items():
            self.made[id(parameter)] = (parameter, Made({name: Root(self.axes[name])}))

    def stand_in(self, name: str, x: Tensor) -> None:
        """From here on a tensor that was computed from a parameter is what the layer reads in its place."""
        self.uses[name].clear()
        made = self._weight(x)
        others = made.roots if made is not None else {}
        self._mark(x, Made({**others, name: Root(self.axes[name], function=True)}))

    def finish(self) -> None:
        """When the program has run: what was multiplied with data and went nowhere was multiplied."""
        for _, made in self.made.values():
            if made.times_data and not made.consumed:
                self._note(made, Kind.SCALED, "mul")
        self.made.clear()
        self.quiet.clear()

    # -- what is known of a tensor

    def _of(self, x: Any) -> Made | None:
        found = self.made.get(id(x)) if isinstance(x, Tensor) else None
        return found[1] if found else None

    def _weight(self, x: Any) -> Made | None:
        """What a tensor is made of, if it is of parameters alone."""
        made = self._of(x)
        return None if made is None or made.times_data else made

    def _is_data(self, x: Any) -> bool:
        return isinstance(x, Tensor) and self._weight(x) is None and id(x) not in self.quiet

    def _mark(self, out: Any, made: Made | None, *, quiet: bool = False) -> None:
        """Say what the results of an operation are; without `made` and `quiet`, data."""
        for x in pytree.tree_leaves(out):
            if isinstance(x, Tensor):
                self.made.pop(id(x), None)
                self.quiet.pop(id(x), None)
                if made is not None:
                    self.made[id(x)] = (x, made)
                elif quiet:
                    self.quiet[id(x)] = x

    def _note(self, made: Made, kind: Kind, operation: str) -> None:
        if made.layer is not None and kind is not Kind.FACTOR:
            self._as_layer(made)
            return
        for name, root in made.roots.items():
            its = Kind.TABLE if root.looked_up and kind in (Kind.ADDED, Kind.INPUT, Kind.NORM) else kind
            self._use(name, Use(its, operation))

    def _use(self, name: str, use: Use) -> None:
        if use not in self.uses[name]:
            self.uses[name].append(use)

    # -- operations

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = self._run(func, args, kwargs)
        packet = _packet(func)
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if not any(id(x) in self.made for x in tensors):
            if func is not aten.lift_fresh.default or not any(map(self._is_data, tensors)):
                quiet = all(id(x) in self.quiet for x in tensors)
                written = func._schema.is_mutable and not quiet
                self._mark(out, None, quiet=quiet)
                if written and args and isinstance(args[0], Tensor):
                    self.quiet.pop(id(args[0]), None)
            else:
                self._mark(out, None, quiet=True)
            return out
        if packet not in _NOTHING:
            _rule(packet)(self, packet, args, kwargs, out)
        else:
            self._mark(out, None, quiet=True)
        return out

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func.overloadpacket is aten._grouped_mm:  # on fake tensors it wants bfloat16
            a, b = args[:2]
            shape = (*a.shape[:-1], b.shape[-1]) if a.ndim == 2 else (*b.shape[:-2], a.shape[-2], b.shape[-1])
            if isinstance(a, torch._subclasses.FakeTensor):
                return a.new_empty(shape)
        return func(*args, **kwargs)

    def structure(self, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
        x = args[0]
        made = self._of(x)
        if made is None:
            return self.unknown(packet, args, kwargs, out)
        made.consumed = True
        change = ops.STRUCTURE[packet]
        rest = [*args[1:], *(kwargs[key] for key in ("dim", "dims", "index") if key in kwargs)]
        rest = rest if change not in (ops._same, ops._reshaped, ops._expanded) else []
        new = made.map(lambda root: root.moved(lambda axes: change(axes, x, out, *rest)))
        return self._mark(out, new)

    def in_parts(self, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
        made = self._of(args[0])
        assert made is not None
        made.consumed = True
        rest = list(args[1:]) + [kwargs[key] for key in ("dim",) if key in kwargs]
        for i, part in enumerate(out):
            at = made.map(lambda root, i=i: root.moved(lambda axes: ops.in_parts(packet, axes, args[0], out, rest)[i]))
            self._mark(part, at)

    def look_up(self, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
        x = args[0]
        made = self._weight(x)
        if made is None:
            return self.unknown(packet, args, kwargs, out)
        change = ops.LOOK_UPS[packet]
        rest = [*args[1:], *kwargs.values()]
        return self._mark(
            out, made.map(lambda root: replace(root.moved(lambda axes: change(axes, x, out, *rest)), looked_up=True))
        )

    def table(self, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
        for x in args:
            if (made := self._weight(x)) is not None:
                self._note(made, Kind.TABLE, _name(packet))
        self._mark(out, None)

    def norm(self, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
        first, *rest = args
        of_input = self._weight(first)
        scales = [made for x in rest if isinstance(x, Tensor) and (made := self._weight(x)) is not None]
        prepares = of_input is not None and (not scales or any(self._is_layer(name) for name in of_input.roots))
        for made in scales:
            self._note(made, Kind.SCALED if prepares else Kind.NORM, _name(packet))
        self._consume(args)
        if prepares:  # a weight is standardized
            assert of_input is not None
            main = out[0] if isinstance(out, (tuple, list)) else out
            self._mark(out, None, quiet=True)
            return self._mark(main, of_input.map(lambda root: replace(root, function=True)))
        if of_input is not None:
            self._note(of_input, Kind.INPUT, _name(packet))
        return self._mark(out, None)

    def elements(self, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
        tensors = [x for x in [*args, *kwargs.values()] if isinstance(x, Tensor)]
        if packet is aten.where:
            tensors = tensors[1:]
        times = packet in ops.TIMES
        weights = [(made, x.shape) for x in tensors if (made := self._weight(x)) is not None]
        data = [x for x in tensors if self._is_data(x)]
        # A parameter with one long axis is added to one with more as a bias is to what a layer gives.
        for made, _ in weights:
            if made.layer is not None and (data or len(weights) > 1):
                self._as_layer(made)
                data.append(out)
        weights = [(made, shape) for made, shape in weights if made.layer is None or not data]
        if not data:
            divisor = packet in (aten.div, aten.true_divide, aten.divide) and len(args) > 1
            new = ops.combined(weights, out.shape, times=times)
            if divisor and self._weight(args[1]) is not None:
                new = new.map(lambda root: replace(root, function=True))
            if len(weights) == 1:
                new.layer = weights[0][0].layer
            return self._mark(out, new)
        before = [made for x in data if (made := self._of(x)) is not None]
        if times and packet in (aten.mul, aten.multiply) and len(weights) + len(before) == 1:
            if before:  # times data already
                made = before[0]
                made.consumed = True
                shape = next(x.shape for x in data if self._of(x) is made)
                new = made.map(lambda root: root.moved(lambda axes: ops.aligned(axes, shape, out.shape)))
                return self._mark(out, new)
            new = ops.combined(weights, out.shape, times=True)
            return self._mark(out, replace(new, times_data=True))
        self._consume(args)
        for made, _ in weights:
            self._note(made, Kind.SCALED if times else Kind.ADDED, _name(packet))
        return self._mark(out, None)

    def reduce(self, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
        x = args[0]
        made = self._of(x)
        if made is None:
            return self.unknown(packet, args, kwargs, out)
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        keepdim = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
        if not made.times_data:
            return self._mark(out, ops.reduced(made, x.shape, out, dims, keepdim))
        made.consumed = True
        gone = {dim % x.ndim for dim in (range(x.ndim) if dims is None or dims == [] else dims)}
        along = {
            name: tuple(piece for dim in gone for piece in root.axes[dim]) if root.axes is not None else ()
            for name, root in made.roots.items()
        }
        if not any(not piece.blank for axis in along.values() for piece in ax.leaves(axis)):
            left = ops.reduced(made, x.shape, out, dims, keepdim)
            roots = {name: replace(root, function=made.roots[name].function) for name, root in left.roots.items()}
            return self._mark(out, Made(roots, times_data=True))
        for name, root in made.roots.items():
            self._sum(name, root, along[name], _name(packet))
        return self._mark(out, None)

    def join(self, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
        tensors = args[0]
        dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        weights = [(x, made) for x in tensors if (made := self._weight(x)) is not None]
        if any(map(self._is_data, tensors)):
            self._consume(tensors)
            for _, made in weights:
                self._note(made, Kind.INPUT, _name(packet))
            return self._mark(out, None)
        parts = [
            (made.map(lambda root: root.moved(lambda axes: ops.joined(packet, axes, out, dim))), out.shape)
            for _, made in weights
        ]
        return self._mark(out, ops.combined(parts, out.shape, times=False))

    def weight_norm(self, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
        direction, magnitude = self._weight(args[0]), self._weight(args[1])
        main = out[0] if isinstance(out, (tuple, list)) else out
        self._mark(out, None, quiet=True)
        parts = [(made, x.shape) for made, x in ((direction, args[0]), (magnitude, args[1])) if made is not None]
        made = ops.combined(parts, main.shape, times=True)
        names = direction.roots if direction is not None else {}
        roots = {name: replace(root, function=name in names) for name, root in made.roots.items()}
        self._mark(main, Made(roots))

    def write(self, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Into a part of another tensor."""
        self._consume(args)
        for x in pytree.tree_leaves(args[1:]):
            if (made := self._weight(x)) is not None:
                whole = isinstance(args[0], Tensor) and args[0].shape == x.shape and not args[0]._is_view()
                if packet is aten.copy_ and whole and id(args[0]) in self.quiet:
                    return self._mark(args[0], made)
                for name in made.roots:
                    self._use(name, Use(Kind.UNCLEAR, "it is written into a part of another tensor"))
        return self._mark(out, None)

    def unknown(self, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
        """An operation of which nothing is known: with data, that is a use; without, some function."""
        leaves = pytree.tree_leaves((args, kwargs))
        weights = [(x, made) for x in leaves if (made := self._weight(x)) is not None]
        self._consume(leaves)
        if any(map(self._is_data, leaves)) or len(weights) > 1:
            for _, made in weights:
                kind = Kind.INPUT if "attention" in _name(packet) else Kind.OTHER
                self._note(made, kind, _name(packet))
            return self._mark(out, None)
        if not weights:
            return self._mark(out, None)
        x, made = weights[0]
        if made.layer is not None:
            self._as_layer(made)
            return self._mark(out, None)
        for one in pytree.tree_leaves(out):
            self._mark(one, ops.function_of(made, _name(packet), x.shape, one))
        return None

    # -- products

    def matrix(self, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
        i, j, k = _MATRIX[packet]
        left, right = args[i], args[j]
        self._consume(args)
        if k is not None and (added := self._weight(args[k])) is not None:
            self._note(added, Kind.ADDED, _name(packet))
        a, b = self._weight(left), self._weight(right)
        at_left, at_right = left.ndim - 1, max(right.ndim - 2, 0)
        if a is not None and b is not None:
            layer = self._which(a, at_left, b, at_right, left, right, k is not None)
            if layer is None:
                return self._mark(out, self._product(a, at_left, b, at_right, left, right, out))
            self._as_layer(Made({}, layer=layer))
        elif a is not None and a.layer is not None:
            self._as_layer(a)
        elif a is not None:
            self._sum_over(a, [at_left], _name(packet))
        elif b is not None:
            self._sum_over(b, [at_right], _name(packet))
        return self._mark(out, None)

    def _which(
        self, a: Made, i: int, b: Made, j: int, left: Tensor, right: Tensor, added: bool
    ) -> tuple[Made, Made, int] | None:
        """(input, weight, axis) if one of two tensors made of parameters is the input of a layer; None: a product."""
        if a.layer is not None:
            self._as_layer(a)
        if b.layer is not None:
            self._as_layer(b)
        if any(root.looked_up for root in a.roots.values()):
            return a, b, j
        for one, axis, other in ((b, j, a), (a, i, b)):
            if self._is_fan_in(one, axis) and (one is b or not any(map(self._is_layer, other.roots))):
                return other, one, axis
        return (a, b, j) if added else None

    def _is_layer(self, name: str) -> bool:
        return self.known[name].axes is not None

    def _is_fan_in(self, made: Made, axis: int) -> bool:
        """Whether a layer's weight is summed over along what its class says is its fan-in."""
        for name, root in made.roots.items():
            known = self.known[name]
            if known.axes is None or root.axes is None or root.factor:
                return False
            summed = {leaf for leaf in ax.leaves(root.axes[axis]) if not leaf.blank}
            if not ax.same_vectors(ax.view(self.shapes[name], self.axes[name], summed), (known.shape, known.axes)):
                return False
        return True

    def _product(self, a: Made, i: int, b: Made, j: int, left: Tensor, right: Tensor, out: Tensor) -> Made:
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

    def _as_layer(self, made: Made) -> None:
        assert made.layer is not None
        given, weight, axis = made.layer
        self._note(replace(given, layer=None), Kind.INPUT, "the input of a layer")
        self._sum_over(weight, [axis], "mm")

    def _sum_over(self, made: Made, dims: list[int], operation: str) -> None:
        for name, root in made.roots.items():
            along = () if root.axes is None else tuple(piece for dim in dims for piece in root.axes[dim])
            self._sum(name, root, along, operation)

    def _sum(self, name: str, root: Root, along: Axis, operation: str) -> None:
        """Take down that an operation with data sums over these pieces of a parameter."""
        if root.axes is None:
            return self._use(name, Use(Kind.UNCLEAR, root.lost))
        summed: list[Piece] = []
        for piece in ax.leaves(along):
            if piece.loose and not piece.whole:
                return self._use(name, Use(Kind.UNCLEAR, "it sums over parts of weight vectors"))
            summed += piece.of if piece.loose else () if piece.blank else (piece,)
        left = [axis for axis in root.axes if not any(piece in along for piece in axis)]
        if root.looked_up and not any(not piece.blank for axis in left for piece in ax.leaves(axis)):
            return self._use(name, Use(Kind.TABLE, operation))
        if not summed and (root.factor or root.product):
            return self._use(name, Use(Kind.FACTOR if root.factor else Kind.SCALED, operation))
        flags = (root.function, root.product, root.factor)
        return self._use(name, Use(Kind.SUMMED, operation, tuple(summed), *flags))

    def convolution(self, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
        x, weight, bias, transposed, groups = args[0], args[1], args[2], args[6], args[8]
        self._consume(args)
        if (made := self._weight(x)) is not None:
            self._note(made, Kind.INPUT, _name(packet))
        if (made := self._weight(bias)) is not None:
            self._note(made, Kind.ADDED, _name(packet))
        if (made := self._weight(weight)) is not None:
            shape = weight.shape
            if transposed and groups > 1:  # (in, …) as (groups, in/groups, …)
                seen = (groups, shape[0] // groups, *shape[1:])
                made = made.map(lambda root: root.moved(lambda axes: ax.reshaped(axes, shape, seen)))
                dims = [1, *range(3, len(seen))]
            else:
                dims = [0, *range(2, len(shape))] if transposed else list(range(1, len(shape)))
            self._sum_over(made, dims, _name(packet))
        self._mark(out, None)

    def trilinear(self, packet: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Of nn.Bilinear: (out, in, in)."""
        self._consume(args)
        for i in (0, 2):
            if (made := self._weight(args[i])) is not None:
                self._note(made, Kind.INPUT, _name(packet))
        if (made := self._weight(args[1])) is not None:
            self._sum_over(made, [1, 2], _name(packet))
        self._mark(out, None)

    def _consume(self, args: Any) -> None:
        """What was multiplied with data goes into an operation that is no sum."""
        for x in pytree.tree_leaves(args):
            made = self._of(x)
            if made is not None and made.times_data:
                made.consumed = True
                self._note(made, Kind.SCALED, "mul")


def _packet(func: Any) -> Any:
    """The operation that gives a new tensor, of one that writes into its first."""
    packet = func.overloadpacket
    name = packet.__name__
    if name.endswith("_") and not name.startswith("_") and packet not in (aten.copy_, aten.index_put_):
        return getattr(aten, name[:-1], packet)
    return packet


def _name(packet: Any) -> str:
    return packet.__name__


Rule = Callable[[Reader, Any, Any, Any, Any], None]
_RULES: dict[Any, Rule] = {
    **dict.fromkeys(ops.STRUCTURE, Reader.structure),
    **dict.fromkeys(ops.IN_PARTS, Reader.in_parts),
    **dict.fromkeys(ops.LOOK_UPS, Reader.look_up),
    **dict.fromkeys(_TABLES, Reader.table),
    **dict.fromkeys(_NORMS, Reader.norm),
    **dict.fromkeys(ops.SUMS | ops.TIMES, Reader.elements),
    **dict.fromkeys(_SUMS, Reader.reduce),
    **dict.fromkeys([aten.cat, aten.stack, aten.concat], Reader.join),
    **dict.fromkeys([aten._weight_norm_interface, aten._weight_norm], Reader.weight_norm),
    **dict.fromkeys(
        [aten.copy_, aten.index_put_, aten.index_put, aten.slice_scatter, aten.select_scatter], Reader.write
    ),
    **dict.fromkeys(_MATRIX, Reader.matrix),
    **dict.fromkeys(_CONVOLUTIONS, Reader.convolution),
    aten._trilinear: Reader.trilinear,
}


def _rule(packet: Any) -> Rule:
    return _RULES.get(packet, Reader.unknown)

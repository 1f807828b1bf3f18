"""What a run of the model shows of some parameters: every operation that they go into, to be run again by itself.

Views, casts and sums of parameters only prepare a weight; what counts is the operation in which it meets the data.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from gc_torch import compat
from gc_torch.compat import TorchDispatchMode, pytree
from gc_torch.layers import standing_in
from gc_torch.program import Batch, caller
from gc_torch.unchanged import Saved, as_it_was


def watched(model: nn.Module, parameters: Mapping[str, Tensor], batch: Batch, factors: Collection[str] = ()) -> "Watch":
    """Run the model in eval mode, and take down what it does with these parameters; it is left as it was.

    Products of `factors` with each other are weights, and not what a layer gives.
    """
    call = caller(batch, "verify")
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(as_it_was(model))
        watch = stack.enter_context(Watch(dict(parameters), model, factors))
        stack.enter_context(standing_in(model, parameters, watch.root))
        call(model)
    return watch


@dataclass(eq=False)
class Node:
    """A tensor that is computed from parameters alone."""

    roots: frozenset[str]
    key: int  # equal for equal computations
    compute: Callable[[dict[str, Tensor]], Tensor]  # from values of the parameters
    like: Tensor
    looked_up: bool = False  # by integers of the data


@dataclass(frozen=True)
class Data:
    """In place of data: some positive numbers, the same ones for equal `Data`."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def numbers(self) -> Tensor:
        return positive(self.shape, self.dtype, self.device)


def is_float(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def positive(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Sums of products of such numbers are never zero, whatever the rounding."""
    return (0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(0))).to(device, dtype)


class Watch(TorchDispatchMode):
    """Takes down what happens to some parameters until they meet data."""

    def __init__(self, roots: dict[str, Tensor], model: nn.Module, factors: Collection[str] = ()):
        super().__init__()
        self.roots = roots
        self.factors = frozenset(factors)
        self.uses: dict[str, dict[Any, Call]] = {}
        self.inputs: set[str] = set()  # what is looked up, and then goes into layers as data does
        self.nodes: dict[int, Node] = {}  # by id; `like` keeps the tensor alive, and so its id its own
        self.quiet = WeakTensorKeyDictionary()  # tensors without data: parameters, buffers, and what is made of them
        self.keys: dict[Any, int] = {}
        self.parameters = list(model.parameters())
        self.saved = Saved(self.parameters)
        attributes = (x for module in model.modules() for x in vars(module).values())
        for x in [*self.parameters, *model.buffers(), *(x for x in attributes if isinstance(x, Tensor))]:
            self.quiet[x] = True
        for name, x in roots.items():
            self.root(name, x)

    def root(self, name: str, x: Tensor) -> None:
        self.roots[name] = x
        self.nodes[id(x)] = Node(frozenset([name]), self.key(name), lambda values: values[name], x)

    def key(self, what: Any) -> int:
        return self.keys.setdefault(what, len(self.keys))

    def __exit__(self, *exception):
        super().__exit__(*exception)
        self.saved.restore()
        for node in self.nodes.values():  # tensors were kept for their ids
            del node.like
        self.nodes.clear()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        nodes = [self.nodes[id(x)] for x in tensors if id(x) in self.nodes]
        others = [x for x in tensors if id(x) not in self.nodes]
        if compat.is_mutable(func):
            self.saved.before(func, args)
        call = Call(func, args, kwargs).map(lambda x: self.nodes.get(id(x), x)) if nodes else None
        out = func(*args, **kwargs)

        data = [x for x in others if x not in self.quiet and func is not _aten.lift_fresh.default]
        if call is None:
            self._mark(out, quiet=not data)
            return out
        meets_data = any(is_float(x) for x in data)
        # A product of two parameters, or with a constant, is what a layer does to data: to queries that are learned,
        # to a table of positions. Other operations on them only prepare a weight.
        is_product = func.overloadpacket in _PRODUCTS and (
            any(is_float(x) for x in others) or len({node.roots for node in nodes}) > 1
        )
        if meets_data or is_product:
            self._mark(out, quiet=not meets_data and call.roots <= self.factors)
            for name in call.roots:
                if not meets_data and all(node.looked_up for node in nodes if name in node.roots):
                    self.inputs.add(name)
                    continue
                use = _simplified(call.map(lambda x, name=name: _without_data(x, name)))
                self.uses.setdefault(name, {}).setdefault(use.key(), use)
        else:
            call = call.map(lambda x: x.clone() if any(x is y for y in data) else x)
            looked_up = bool(data) or any(node.looked_up for node in nodes)
            for i, x in enumerate(pytree.tree_leaves(out)):
                if isinstance(x, Tensor):
                    key = self.key((call.key(), i))
                    self.nodes[id(x)] = Node(call.roots, key, call.output(i), x, looked_up)
        return out

    def _mark(self, out: Any, quiet: bool) -> None:
        for x in pytree.tree_leaves(out):
            if isinstance(x, Tensor):
                self.nodes.pop(id(x), None)
                if quiet:
                    self.quiet[x] = True
                else:
                    self.quiet.pop(x, None)


_aten = compat.aten
_PRODUCTS = {
    _aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm, _aten.mv, _aten.addmv, _aten.dot, _aten.linear, _aten.matmul,
    _aten.convolution, _aten._trilinear, _aten._grouped_mm,
}  # fmt: skip


class Call:
    """An operation that was run, to run it again with other values of the parameters."""

    def __init__(self, func: Any, args: tuple, kwargs: dict[str, Any]):
        self.func, self.args, self.kwargs = func, args, kwargs

    @property
    def roots(self) -> frozenset[str]:
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return frozenset().union(*(leaf.roots for leaf in leaves if isinstance(leaf, Node)))

    def map(self, change: Callable[[Any], Any]) -> "Call":
        return Call(self.func, *pytree.tree_map(change, (self.args, self.kwargs)))

    def key(self) -> Any:
        """Equal for calls that give equal results, numbers in place of data being equal too."""
        leaves, spec = pytree.tree_flatten((self.args, self.kwargs))
        return self.func, str(spec), tuple(map(_leaf_key, leaves))

    def run(self, values: dict[str, Tensor]) -> list[Any]:
        def value(leaf: Any) -> Any:
            if isinstance(leaf, Node):
                leaf = leaf.compute(values)
            elif isinstance(leaf, Data):
                return leaf.numbers()
            return leaf.clone() if isinstance(leaf, Tensor) and compat.is_mutable(self.func) else leaf

        args, kwargs = pytree.tree_map(value, (self.args, self.kwargs))
        return pytree.tree_leaves(self.func(*args, **kwargs))

    def output(self, i: int) -> Callable[[dict[str, Tensor]], Tensor]:
        return lambda values: self.run(values)[i]


def _leaf_key(leaf: Any) -> Any:
    if isinstance(leaf, Node):
        return "node", leaf.key
    return (type(leaf), id(leaf)) if isinstance(leaf, Tensor) else (type(leaf), repr(leaf))


def _without_data(leaf: Any, name: str) -> Any:
    """What is kept of an argument, when one parameter is asked about: of floating-point data the shape alone."""
    x = leaf.like if isinstance(leaf, Node) and name not in leaf.roots else leaf
    if isinstance(x, Tensor) and is_float(x) and x.layout is torch.strided:
        return Data(tuple(x.shape), x.dtype, x.device)
    return x.clone() if isinstance(x, Tensor) else x


def _simplified(use: Call) -> Call:
    """The same operation in fewer places: which weights feed an output unit is the same in all of them.

    A convolution gets stride 1 and no padding, on data of the size of its kernel. Otherwise the numbers of a transposed
    kernel that is no larger than its stride would never meet in an output.
    """
    args = list(use.args)
    packet = use.func.overloadpacket
    if packet is _aten.convolution and isinstance(args[0], Data) and isinstance(args[1], Node):
        kernel = list(args[1].like.shape[2:])
        ones, zeros = [1] * len(kernel), [0] * len(kernel)
        args[0] = replace(args[0], shape=(1, args[0].shape[1], *kernel))
        args[3:6], args[7] = [ones, zeros, ones], zeros
    elif packet in (_aten.mm, _aten.bmm, _aten.addmm):
        left, right = args[-2:]
        if packet is _aten.addmm and len(getattr(args[0], "like", args[0]).shape) > 1:
            return use  # the first one has as many places
        if isinstance(left, Data):
            args[-2] = replace(left, shape=(*left.shape[:-2], min(left.shape[-2], 2), left.shape[-1]))
        elif isinstance(right, Data) and packet is not _aten.addmm:
            args[-1] = replace(right, shape=(*right.shape[:-1], min(right.shape[-1], 2)))
    return Call(use.func, tuple(args), use.kwargs)

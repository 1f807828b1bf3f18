"""The proof of a plan: what each weight really does in the model, found by running it on a batch.

What is a weight vector can be seen in the operation where a parameter meets the data, whatever layer it stands in: the
weights that share an output there are one weight vector. For y = x Wᵀ these are the rows of W; for x W its columns.

The model runs once, and every operation that a parameter goes into is taken down: views, casts and sums of parameters
first, then the one that meets data. That one is run again by itself, on other numbers. For a weight a:

1. With all weights 0, and then with a alone 1: the outputs that differ are those that a feeds. In both runs the others
   are sums of exact zeros, the same in any precision and order of summation.
2. The gradient of a positive combination of these outputs, with positive data: it is zero, exactly, but for the weights
   that feed one of them. These must be the weight vector of a, all of it and nothing else.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils.weak import WeakTensorKeyDictionary

from gc_core import layouts
from gc_core.layouts import View
from gc_core.plan import Row
from gc_torch import compat
from gc_torch.compat import TorchDispatchMode, pytree

Batch = Tensor | tuple | Mapping[str, Any] | Callable[[nn.Module], Any]

SAMPLES = 4  # weights tried of each parameter: the first and the last that the batch reaches, and some between

PROVEN = "proven"
NOT_REACHED = "not reached by the batch"
ALONE = "not a weight: the batch shows no sum over it"
LOOKED_UP = "not a weight: looked up, and the input of other layers"
UNCLEAR = "the batch cannot show it"


def prove(model: nn.Module, rows: tuple[Row, ...], parameters: Mapping[str, Tensor], batch: Batch) -> tuple[Row, ...]:
    """The rows, each with what the batch has shown about it.

    Args:
        model: the model of the plan. It runs once, in eval mode and without gradients; training flags, buffers,
            parameters and the states of random number generators are afterwards what they were, after an error too.
        rows: those of the plan. Proved are the centralized ones; of unknown parameters, candidates are looked for.
        parameters: by the names of the rows.
        batch: a tensor, a tuple of arguments, a mapping of keyword arguments, or a function that runs the model it is
            given.

    Raises:
        ValueError: a row is wrong: it says which, what was seen, and the override that is right; or parameters are
            sharded, quantized or without values.
        TypeError: the batch is none of these.
    """
    asked = [row for row in rows if row.axes is not None or row.why.startswith(_LOOKED_AT)]
    for name, parameter in parameters.items():
        if parameter.is_meta or compat.is_wrapper_subclass(parameter):
            kind = "on the meta device" if parameter.is_meta else f"a {type(parameter).__name__}"
            raise ValueError(f"verify needs whole parameters with values; {name} is {kind}: verify a plain model first")
    watch = _run(model, {row.name: parameters[row.name] for row in asked}, batch)
    shown = {row.name: _shown(row, watch) for row in asked}
    wrong = [f"\n- {name}: {proof}" for name, (right, proof) in shown.items() if not right]
    if wrong:
        raise ValueError(f"the plan is not what the model does with this batch:{''.join(wrong)}")
    return tuple(row._replace(proof=shown[row.name][1]) if row.name in shown else row for row in rows)


_LOOKED_AT = (layouts.UNKNOWN, layouts.PARAMETRIZED)


# ---- Running the model


def _run(model: nn.Module, watched: dict[str, Tensor], batch: Batch) -> "_Watch":
    """Run the model, and take down what it does with the parameters that are watched."""
    call = _caller(batch)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_as_it_was(model))
        stack.enter_context(parametrize.cached())
        watch = stack.enter_context(_Watch(dict(watched), model))
        names = {parameter: name for name, parameter in watched.items()}
        for module in model.modules():
            for parameter, tensor_name, ready in _computed(module):
                if parameter not in names:
                    continue
                if ready:
                    watch.root(names[parameter], getattr(module, tensor_name))
                else:
                    stack.callback(
                        module.register_forward_pre_hook(watch.rooting(names[parameter], tensor_name)).remove
                    )
        call(model)
    return watch


def _caller(batch: Batch) -> Callable[[nn.Module], Any]:
    if isinstance(batch, Tensor):
        return lambda model: model(batch)
    if isinstance(batch, tuple):
        return lambda model: model(*batch)
    if isinstance(batch, Mapping):
        return lambda model: model(**batch)
    if callable(batch):
        return batch
    raise TypeError(
        "verify must be a tensor, a tuple of the model's arguments, a mapping of its keyword arguments, or a function "
        f"that runs the model it is given; got {type(batch).__qualname__}"
    )


def _computed(module: nn.Module) -> Iterator[tuple[Tensor, str, bool]]:
    """Parameters in whose place the layer reads a tensor computed from them, its name, and whether it has it already.

    What is proved is what the layer does with that tensor: the norm that it is divided by depends on more weights.
    """
    if parametrize.is_parametrized(module):
        for tensor_name, chain in module.parametrizations.items():  # type: ignore[union-attr]
            kinds = [type(one) for one in chain.children()]
            if kinds in ([compat.WEIGHT_NORM], [compat.SPECTRAL_NORM]):
                learned = "original1" if kinds == [compat.WEIGHT_NORM] else "original"
                yield getattr(chain, learned), tensor_name, True
    for hook in compat.forward_pre_hooks(module):
        if isinstance(hook, (WeightNorm, SpectralNorm)):
            learned = "_v" if isinstance(hook, WeightNorm) else "_orig"
            yield getattr(module, hook.name + learned), hook.name, False


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Eval mode, and kernels that do one thing at a time; afterwards all is as it was."""
    training = {module: module.training for module in model.modules()}
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
    ]
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  what a model may draw from
    backends: Any = torch.backends
    kernels = backends.cudnn.enabled, backends.mkldnn.enabled, backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count())))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            # Otherwise a recurrent network, or an attention layer, is a single operation.
            _set_kernels(False, False, False)
            model.eval()
            yield
        finally:
            _set_kernels(*kernels)
            for module, flag in training.items():
                module.training = flag
            for module, name, buffer, before in buffers:
                setattr(module, name, buffer)
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _set_kernels(cudnn: bool, mkldnn: bool, attention: bool) -> None:
    torch.backends.cudnn.enabled, torch.backends.mkldnn.enabled = cudnn, mkldnn  # type: ignore[assignment]
    torch.backends.mha.set_fastpath_enabled(attention)


@dataclass(eq=False)
class _Node:
    """A tensor that is computed from parameters alone."""

    roots: frozenset[str]
    key: int  # equal for equal computations
    compute: Callable[[dict[str, Tensor]], Tensor]  # from values of the parameters
    like: Tensor
    looked_up: bool = False  # by integers of the data


@dataclass(frozen=True)
class _Data:
    """In place of data: some positive numbers, the same ones for equal `_Data`."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def numbers(self) -> Tensor:
        return _positive(self.shape, self.dtype, self.device)


def _is_float(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _positive(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Sums of products of such numbers are never zero, whatever the rounding."""
    return (0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(0))).to(device, dtype)


class _Watch(TorchDispatchMode):
    """Takes down what happens to some parameters until they meet data."""

    def __init__(self, roots: dict[str, Tensor], model: nn.Module):
        super().__init__()
        self.roots = roots
        self.uses: dict[str, dict[Any, _Call]] = {}
        self.inputs: set[str] = set()  # what is looked up, and then goes into layers as data does
        self.nodes: dict[int, _Node] = {}  # by id; `like` keeps the tensor alive, and so its id its own
        self.quiet = WeakTensorKeyDictionary()  # tensors without data: parameters, buffers, and what is made of them
        self.keys: dict[Any, int] = {}
        self.parameters = list(model.parameters())
        self.saved: dict[int, Tensor] = {}
        attributes = (x for module in model.modules() for x in vars(module).values())
        for x in [*self.parameters, *model.buffers(), *(x for x in attributes if isinstance(x, Tensor))]:
            self.quiet[x] = True
        for name, x in roots.items():
            self.root(name, x)

    def root(self, name: str, x: Tensor) -> None:
        self.roots[name] = x
        self.nodes[id(x)] = _Node(frozenset([name]), self.key(name), lambda values: values[name], x)

    def rooting(self, name: str, tensor_name: str) -> Callable[[nn.Module, Any], None]:
        """A hook that comes after the one which computes the layer's tensor."""
        return lambda module, args: self.root(name, getattr(module, tensor_name))

    def key(self, what: Any) -> int:
        return self.keys.setdefault(what, len(self.keys))

    def __exit__(self, *exception):
        super().__exit__(*exception)
        for i, before in self.saved.items():
            self.parameters[i].copy_(before)
        for node in self.nodes.values():  # tensors were kept for their ids
            del node.like
        self.nodes.clear()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        nodes = [self.nodes[id(x)] for x in tensors if id(x) in self.nodes]
        others = [x for x in tensors if id(x) not in self.nodes]
        if compat.is_mutable(func):
            self._save_parameters(func, args)
        call = _Call(func, args, kwargs).map(lambda x: self.nodes.get(id(x), x)) if nodes else None
        out = func(*args, **kwargs)

        data = [x for x in others if x not in self.quiet and func is not _aten.lift_fresh.default]
        if call is None:
            self._mark(out, quiet=not data)
            return out
        meets_data = any(_is_float(x) for x in data)
        # A product of two parameters, or with a constant, is what a layer does to data: to queries that are learned,
        # to a table of positions. Other operations on them only prepare a weight.
        is_product = func.overloadpacket in _PRODUCTS and (
            any(_is_float(x) for x in others) or len({node.roots for node in nodes}) > 1
        )
        if meets_data or is_product:
            self._mark(out, quiet=False)
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
                    self.nodes[id(x)] = _Node(call.roots, key, call.output(i), x, looked_up)
        return out

    def _mark(self, out: Any, quiet: bool) -> None:
        for x in pytree.tree_leaves(out):
            if isinstance(x, Tensor):
                self.nodes.pop(id(x), None)
                if quiet:
                    self.quiet[x] = True
                else:
                    self.quiet.pop(x, None)

    def _save_parameters(self, func: Any, args: tuple) -> None:
        """Keep copies of the parameters that are about to be written to."""
        written = [x.untyped_storage().data_ptr() for x in compat.written(func, args) if isinstance(x, Tensor)]
        for i, parameter in enumerate(self.parameters):
            if i not in self.saved and parameter.untyped_storage().data_ptr() in written:
                self.saved[i] = parameter.clone()


_aten = torch.ops.aten
_PRODUCTS = compat.operations(
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "mv",
    "addmv",
    "dot",
    "linear",
    "matmul",
    "convolution",
    "_trilinear",
    "_grouped_mm",
)


class _Call:
    """An operation that was run, to run it again with other values of the parameters."""

    def __init__(self, func: Any, args: tuple, kwargs: dict[str, Any]):
        self.func, self.args, self.kwargs = func, args, kwargs

    @property
    def roots(self) -> frozenset[str]:
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return frozenset().union(*(leaf.roots for leaf in leaves if isinstance(leaf, _Node)))

    def map(self, change: Callable[[Any], Any]) -> "_Call":
        return _Call(self.func, *pytree.tree_map(change, (self.args, self.kwargs)))

    def key(self) -> Any:
        """Equal for calls that give equal results, numbers in place of data being equal too."""
        leaves, spec = pytree.tree_flatten((self.args, self.kwargs))
        return self.func, str(spec), tuple(map(_leaf_key, leaves))

    def run(self, values: dict[str, Tensor]) -> list[Any]:
        def value(leaf: Any) -> Any:
            if isinstance(leaf, _Node):
                leaf = leaf.compute(values)
            elif isinstance(leaf, _Data):
                return leaf.numbers()
            return leaf.clone() if isinstance(leaf, Tensor) and compat.is_mutable(self.func) else leaf

        args, kwargs = pytree.tree_map(value, (self.args, self.kwargs))
        return pytree.tree_leaves(self.func(*args, **kwargs))

    def output(self, i: int) -> Callable[[dict[str, Tensor]], Tensor]:
        return lambda values: self.run(values)[i]


def _leaf_key(leaf: Any) -> Any:
    if isinstance(leaf, _Node):
        return "node", leaf.key
    return (type(leaf), id(leaf)) if isinstance(leaf, Tensor) else (type(leaf), repr(leaf))


def _without_data(leaf: Any, name: str) -> Any:
    """What is kept of an argument, when one parameter is asked about: of floating-point data the shape alone."""
    x = leaf.like if isinstance(leaf, _Node) and name not in leaf.roots else leaf
    if isinstance(x, Tensor) and _is_float(x) and x.layout is torch.strided:
        return _Data(tuple(x.shape), x.dtype, x.device)
    return x.clone() if isinstance(x, Tensor) else x


def _simplified(use: _Call) -> _Call:
    """The same operation in fewer places: which weights feed an output unit is the same in all of them.

    A convolution gets stride 1 and no padding, on data of the size of its kernel. Otherwise the numbers of a transposed
    kernel that is no larger than its stride would never meet in an output.
    """
    args = list(use.args)
    packet = use.func.overloadpacket
    if packet is _aten.convolution and isinstance(args[0], _Data) and isinstance(args[1], _Node):
        kernel = list(args[1].like.shape[2:])
        ones, zeros = [1] * len(kernel), [0] * len(kernel)
        args[0] = replace(args[0], shape=(1, args[0].shape[1], *kernel))
        args[3:6], args[7] = [ones, zeros, ones], zeros
    elif packet in (_aten.mm, _aten.bmm, _aten.addmm):
        left, right = args[-2:]
        if packet is _aten.addmm and len(getattr(args[0], "like", args[0]).shape) > 1:
            return use  # the first one has as many places
        if isinstance(left, _Data):
            args[-2] = replace(left, shape=(*left.shape[:-2], min(left.shape[-2], 2), left.shape[-1]))
        elif isinstance(right, _Data) and packet is not _aten.addmm:
            args[-1] = replace(right, shape=(*right.shape[:-1], min(right.shape[-1], 2)))
    return _Call(use.func, tuple(args), use.kwargs)


# ---- Trying weights


class _Layer:
    """All uses of one parameter as a function of it."""

    def __init__(self, name: str, roots: dict[str, Tensor], uses: list[_Call]):
        self.name, self.roots, self.uses = name, roots, uses
        self.weight = roots[name].detach()
        self.base = torch.zeros_like(self.weight)
        if not self._is_finite():
            self.base = self.weight.clone()  # it may be divided by its own size
        self.at_base = self.outputs(self.base)

    def _is_finite(self) -> bool:
        return all(bool(x.isfinite().all()) for x in [*self.outputs(self.base), self.gradient(self.base)])

    def outputs(self, weight: Tensor) -> list[Tensor]:
        values = {**self.roots, self.name: weight}
        outputs = [x for use in self.uses for x in use.run(values)]
        return [x for x in outputs if isinstance(x, Tensor) and _is_float(x)]

    def gradient(self, weight: Tensor, of: list[Tensor] | None = None) -> Tensor:
        """That of a positive combination of the outputs where the masks `of` are true (None: everywhere)."""
        with torch.enable_grad():
            weight = weight.detach().requires_grad_()
            outputs = self.outputs(weight)
            total = [_positive(x.shape, x.dtype, x.device) for x in outputs]
            if of is not None:
                total = [x * mask for x, mask in zip(total, of, strict=True)]
            pairs = [(x, t) for x, t in zip(outputs, total, strict=True) if x.requires_grad]
            (gradient,) = torch.autograd.grad([x for x, _ in pairs], weight, [t for _, t in pairs], allow_unused=True)
        return torch.zeros_like(weight) if gradient is None else gradient

    def together(self, index: int) -> np.ndarray:
        """The weights that share an output with a weight, by their places in the flattened parameter."""
        place = tuple(map(int, np.unravel_index(index, self.base.shape)))
        before = self.base[place].item()
        self.base[place] += 1
        fed = [x != y for x, y in zip(self.outputs(self.base), self.at_base, strict=True)]
        self.base[place] = before
        return self.gradient(self.base, fed).reshape(-1).nonzero().reshape(-1).numpy(force=True)

    def is_linear(self) -> bool:
        """Whether the outputs change in proportion to the weights: the gradient is the same wherever it is taken."""
        here = self.gradient(self.base)
        there = self.gradient(_positive(here.shape, here.dtype, here.device))
        # Sums of at most n positive terms, each of them with a relative error of at most n roundings.
        n = sum(x.numel() for x in self.at_base)
        return bool(((here - there).abs() <= 2 * n * torch.finfo(here.dtype).eps * here.abs()).all())


def _shown(row: Row, watch: _Watch) -> tuple[bool, str]:
    """Whether the batch agrees with a row, and what it has shown."""
    uses = list(watch.uses.get(row.name, {}).values())
    if row.name in watch.inputs:
        return row.axes is None, LOOKED_UP if row.axes is None else f"{LOOKED_UP}: overrides={{{row.name!r}: None}}"
    if not uses:
        return True, NOT_REACHED
    try:
        layer = _Layer(row.name, watch.roots, uses)
        reached = (layer.gradient(layer.base) != 0).reshape(-1)
        places = range(len(reached)) if reached.all() else reached.nonzero().reshape(-1)
        if not len(places):
            return True, NOT_REACHED
        some = torch.randint(len(places), (SAMPLES - 2,), generator=torch.Generator().manual_seed(0)).tolist()
        samples = [int(places[i]) for i in [0, len(places) - 1, *some]]
        seen = [layer.together(index) for index in samples]
        linear = row.axes is not None or layer.is_linear()
    except RuntimeError as error:
        return True, f"{UNCLEAR}: {str(error).splitlines()[0]}"
    found = _axes_of(seen, row.shape)
    if row.axes is None:
        if found is not None and found.axes is None:
            return True, ALONE
        if found is None or not linear:
            return True, UNCLEAR
        return True, f"candidate: the batch sums over {_over(row, found)}, override with {_value(row, found)}"
    for index, weights in zip(samples, seen, strict=True):
        differ = np.setxor1d(weights, _vector(row, index))
        if reached[torch.from_numpy(differ)].any():
            return False, f"the plan says {row.mean_over}, but {_otherwise(row, found, seen)}"
    if len(places) == len(reached):
        return True, PROVEN
    counts = reached.reshape(row.view).sum(row.axes)
    whole = int((counts == row.fan_in).sum())
    if whole != int((counts > 0).sum()):
        return True, f"{UNCLEAR}: it reaches parts of weight vectors"
    return True, f"{PROVEN} for {whole:,} of {counts.numel():,} outputs, the others were not reached"


def _vector(row: Row, index: int) -> np.ndarray:
    """The weight vector that a weight belongs to by the plan, by places in the flattened parameter."""
    place = np.unravel_index(index, row.view)
    along = [range(n) if axis in (row.axes or ()) else [int(place[axis])] for axis, n in enumerate(row.view)]
    return np.ravel_multi_index(np.ix_(*along), row.view).reshape(-1)


def _axes_of(sets: list[np.ndarray], shape: tuple[int, ...]) -> View | None:
    """The axes along which all these sets of weights lie, of a view where those of the stored shape cannot say it.

    Its axes are None if each set is one weight. None is returned if the sets are no boxes, or not of one kind.
    """
    if all(len(weights) == 1 for weights in sets):
        return View(shape, None)
    splits = {_split(weights, shape) for weights in sets}
    if len(splits) != 1 or (split := splits.pop()) is None:
        return None
    parts = [part for along in split for part in along]
    return View(tuple(size for size, _ in parts), tuple(axis for axis, (_, summed) in enumerate(parts) if summed))


def _split(weights: np.ndarray, shape: tuple[int, ...]) -> tuple[tuple[tuple[int, bool], ...], ...] | None:
    """For each axis the parts it falls into, with their sizes and whether the set runs along them; None if no box."""
    split, size = [], 1
    for n, places in zip(shape, map(np.unique, np.unravel_index(weights, shape)), strict=True):
        m, first = len(places), int(places[0])
        size *= m
        if m in (1, n):
            split.append(((n, m == n > 1),))
        elif n % m == 0 and first % m == 0 and (places == np.arange(first, first + m)).all():
            split.append(((n // m, False), (m, True)))  # a block, as of a group
        elif n % m == 0 and first < n // m and (places == np.arange(first, n, n // m)).all():
            split.append(((m, True), (n // m, False)))
        else:
            return None
    return tuple(split) if size == len(weights) else None


def _otherwise(row: Row, found: View | None, seen: list[np.ndarray]) -> str:
    if found is None:
        return f"an output sums over {len(seen[0]):,} weights, and no axes say which"
    override = f"overrides={{{row.name!r}: {_value(row, found)}}}"
    if found.axes is None:
        return f"each weight has outputs of its own: {override}"
    return f"an output sums over {_over(row, found)}: {override}"


def _over(row: Row, found: View) -> str:
    return row._replace(view=found.shape, axes=found.axes).mean_over


def _value(row: Row, found: View) -> str:
    if found.shape != row.shape:
        return f"gct.View({found.shape}, {found.axes})"
    return str(found.axes[0] if found.axes is not None and len(found.axes) == 1 else found.axes)

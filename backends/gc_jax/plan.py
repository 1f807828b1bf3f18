"""The plan of a JAX model: for each parameter, whether GC acts on it, along which axes, and why."""

import math
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import DictKey, GetAttrKey, SequenceKey, tree_flatten_with_path

from gc_core import checks, layouts
from gc_core.plan import Overrides, Plan, Row
from gc_jax import compat
from gc_jax.layers import Weight, by_name, known, library

Stacked = Mapping[str, int | tuple[int, ...]]

_LAYOUTS = {"linen": "out_last", "nnx": "out_last", "equinox": "out_first", "keras": "out_last"}
_UNDECLARED = "more axes than one such layer has: declare how layers are stacked"


def plan(
    params_or_module: Any,
    layout: str | None = None,
    overrides: Overrides | None = None,
    *,
    stacked: Stacked | None = None,
    modules: Mapping[str, Any] | None = None,
) -> Plan:
    """What GC will do to each parameter, to be read before training.

    An NNX module, an Equinox module and a Keras model know their layers, and so their layout. A plain tree of
    parameters (Linen's, Haiku's, your own) has names alone: `kernel`, `w` or `weight` is a weight stored as `layout`
    says, unless the bias beside it or Flax's names for attention say more; `bias`, `scale`, `embedding` and their like
    are left alone, and so is every name that is not known. Shapes alone decide nothing.

    Formula: each row says along which axes Φ of `gc_jax.centralize` acts.

    Args:
        params_or_module: the module, or a tree of arrays (or of `jax.ShapeDtypeStruct`).
        layout: "out_first" or "out_last"; needed for a plain tree.
        overrides: name pattern -> axes of the stored shape, a `View`, or None; see `gc_core.Plan.override`.
        stacked: name pattern -> the axis or axes along which copies of a layer lie (`nn.scan`, `vmap`, experts), for
            instance {"blocks.*": 0}: each copy is treated as the single layer. A plain tree cannot show it.
        modules: for the parameters of a Linen model, what `model.module_paths(rng, x)` returns: it knows what names do
            not say (`transpose_kernel`, `DenseGeneral`, `Einsum`, modules of your own).

    Returns:
        A `gc_core.Plan`; the name of a row is its path in the tree, "a.b.c".

    Raises:
        TypeError: there is nothing to plan, or an argument is of the wrong kind.
        ValueError: a plain tree without a layout, an unknown layout or one that is not the module's, a pattern that
            matches nothing, or axes that do not fit.

    >>> import jax.numpy as jnp
    >>> params = {"embed": {"embedding": jnp.ones((9, 4))}, "head": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}}
    >>> {name: row.axes for name, row in plan(params, "out_last").items()}
    {'embed.embedding': None, 'head.bias': None, 'head.kernel': (0,)}

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), section 3.1.
    """
    params = _parameters(params_or_module, modules)
    kind = library(params_or_module)
    if layout is not None:
        layouts.rule_of(layout)
    wanted = _LAYOUTS[kind] if kind else "out_last" if modules is not None else None
    if wanted is None and layout is None:
        raise ValueError('layout must be "out_first" or "out_last" for a plain tree, which does not show it; got None')
    if wanted is not None and layout not in (None, wanted):
        raise ValueError(f"layout must be {wanted!r}, as the layers of this module are stored; got {layout!r}")
    if not params:
        raise TypeError(f"there are no floating-point arrays in this {type(params_or_module).__qualname__}")

    stacks = _stacks(stacked, [param.name for param in params])
    shapes = {param.name: param.shape for param in params}
    tied = _tied_to_an_embedding(params_or_module) if kind in ("equinox", None) else set()
    rows = []
    for name, shape, layer, leaf in params:
        stack = stacks.get(name, ())
        found = known(layer)
        what = found[1](layer, leaf) if found else _by_name(name, shapes, stack, layout or wanted or "")
        if found is None and layer is not None and isinstance(what, Weight):
            what = layouts.UNKNOWN
        if name in tied:
            what = layouts.SHARED_TABLE
        view = _view(name, what, shape, stack, found[0] if found else "")
        rows.append(Row(name, shape, view.shape, view.axes, view.why))
    return Plan(rows).override(overrides)


def named_leaves(tree: Any) -> list[tuple[str, Any, Any]]:
    """(name, path, leaf) of each leaf of a tree, in the tree's order. The name is the path, "a.b.c"."""
    found = []
    for path, leaf in tree_flatten_with_path(tree)[0]:
        # Flax's boxes (nnx.Variable, nn.Partitioned) are part of some trees of a model, and not of others.
        unboxed = path[:-1] if path and path[-1] == GetAttrKey("value") else path
        found.append((compat.keystr(unboxed, ".").replace("/", "."), unboxed, leaf))
    return found


# ---- What the parameters are


class _Param(NamedTuple):
    name: str
    shape: tuple[int, ...]
    layer: Any  # the module that it belongs to; None: nobody knows, go by its name
    leaf: str  # its own name in that module


def _parameters(root: Any, modules: Mapping[str, Any] | None) -> list[_Param]:
    kind = library(root)
    if kind == "keras":
        return list(_keras(root))
    if kind == "linen":
        if root.scope is None:
            raise TypeError(
                "a Linen module has no parameters: give those of init, plan(variables['params'], 'out_last'), "
                "and modules=module.module_paths(rng, x)"
            )
        return list(_tree(root.variables["params"], modules if modules is not None else {"": root}))
    if kind == "nnx":
        from flax import nnx

        return [
            _Param(name, tuple(leaf.shape), *_layer_of(root, path))
            for name, path, leaf in named_leaves(nnx.state(root, nnx.Param))
            if _is_float(leaf)
        ]
    return list(_tree(root, modules))


def _tree(root: Any, modules: Mapping[str, Any] | None) -> Iterator[_Param]:
    for name, path, leaf in named_leaves(root):
        if _is_float(leaf):
            layer, own = _layer_of(root, path)
            if modules is not None:
                # Keys may hold slashes of their own: WeightNorm's are "Dense_0/kernel/scale".
                own = str(getattr(path[-1], "key", "")) if path else ""
                above = compat.keystr(path[:-1], "/")
                layer = modules.get(above)
            yield _Param(name, tuple(leaf.shape), layer, own)


def _keras(model: Any) -> Iterator[_Param]:
    layers = {}
    for layer in compat.keras_layers(model):
        for variable in layer.trainable_variables:
            layers[id(variable)] = layer  # an inner layer comes after the one that holds it
    for variable in model.trainable_variables:
        leaf = variable.path.rpartition("/")[2]
        yield _Param(variable.path.replace("/", "."), tuple(variable.shape), layers[id(variable)], leaf)


def _is_float(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _layer_of(root: Any, path: tuple) -> tuple[Any, str]:
    """The innermost module on the way to a leaf, and the name of the leaf in it."""
    layer, own, here = None, path, root
    for index, key in enumerate(path):
        if library(here):
            layer, own = here, path[index:]
        try:
            match key:
                case GetAttrKey(name=name):
                    here = getattr(here, name)
                case DictKey(key=str(name)) if library(here):  # the state of an NNX module calls attributes keys
                    here = getattr(here, name)
                case SequenceKey(idx=item) | DictKey(key=item):
                    here = here[item]
                case _:
                    break
        except (AttributeError, LookupError, TypeError):  # a node that does not open with its own keys
            break
    return layer, compat.keystr(own, ".")


def _tied_to_an_embedding(model: Any) -> set[str]:
    """Names of what `equinox.nn.Shared` also uses as the table of an embedding."""

    def is_a(*names):
        return lambda node: library(node) == "equinox" and any(c.__name__ in names for c in type(node).__mro__)

    tied = set()
    leaves = named_leaves(model)
    for node in jax.tree.leaves(model, is_leaf=is_a("Shared")):
        if is_a("Shared")(node):
            inside = {id(leaf) for leaf in jax.tree.leaves(node)}
            embeddings = filter(is_a("Embedding"), jax.tree.leaves(node(), is_leaf=is_a("Embedding")))
            tables = [one.weight for one in embeddings]
            # A table that is in the tree belongs to its Embedding, or is tied by identity; one that is not was
            # computed (transposed) from a leaf with as many elements.
            sizes = {math.prod(table.shape) for table in tables if id(table) not in inside}
            same = {id(table) for table in tables}
            tied |= {
                name
                for name, _, leaf in leaves
                if id(leaf) in same or (id(leaf) in inside and _is_float(leaf) and math.prod(leaf.shape) in sizes)
            }
    return tied


# ---- What is done to them


def _stacks(stacked: Stacked | None, names: list[str]) -> dict[str, tuple[int, ...]]:
    """The axes of the stack by the names of the parameters; the last pattern that matches wins."""
    if stacked is not None and not isinstance(stacked, Mapping):
        raise TypeError(f"stacked must map name patterns to axes; got {type(stacked).__qualname__}")
    found = {}
    for pattern, value in (stacked or {}).items():
        axes = value if isinstance(value, tuple) else (value,)
        axes = tuple(checks.count(f"stacked[{pattern!r}]", axis) for axis in axes)
        matches = [name for name in names if fnmatchcase(name, pattern)]
        if not matches:
            raise ValueError(f"stacked: the pattern {pattern!r} matches no parameter; one name is {names[0]!r}")
        found.update(dict.fromkeys(matches, axes))
    return found


def _inside(shape: tuple[int, ...], stack: tuple[int, ...]) -> list[int]:
    """The axes of one layer: all but those along which copies lie."""
    return [axis for axis in range(len(shape)) if axis not in stack]


def _by_name(name: str, shapes: dict[str, tuple[int, ...]], stack: tuple[int, ...], layout: str) -> Weight | str:
    above, _, leaf = name.rpartition(".")
    one = {
        own: [shape[axis] for axis in _inside(shape, stack)]
        for own in (leaf, "bias", "b")
        if (shape := shapes.get(f"{above}.{own}".removeprefix("."))) is not None
    }
    query = f"{above.rpartition('.')[0]}.query.{leaf}".removeprefix(".")
    return by_name(name.split("."), one[leaf], one.get("bias", one.get("b")), query in shapes, layout)


def _view(name: str, what: Weight | str, shape: tuple[int, ...], stack: tuple[int, ...], kind: str) -> layouts.View:
    """How GC sees one parameter: by the rule of its layer, on each copy where layers are stacked."""
    if isinstance(what, str):
        return layouts.left_alone(shape, what)
    extra = len(shape) - len(what.shape)
    if stack:
        stack = checks.axis(stack, shape, f"stacked axes of {name!r}:") or ()
        if len(stack) != extra:
            raise ValueError(f"stacked: one layer has {len(what.shape)} axes, and {name} of shape {shape} {extra} more")
    elif extra:
        if extra < 0 or shape[extra:] != what.shape:
            return layouts.left_alone(shape, _UNDECLARED)
        stack = tuple(range(extra))  # the layer says its own shape, and these axes lie in front of it
    inside = _inside(shape, stack)
    one = what.rule([shape[axis] for axis in inside])
    if one.axes is None:
        return layouts.left_alone(shape, one.why)
    label = f"stacked {kind or 'layers'}, " if stack else kind and f"{kind}, "
    return layouts.View(shape, tuple(inside[axis] for axis in one.axes), label + one.why)

"""The leaves of a tree of parameters: their names, which are parameters, and the layers they belong to."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import DictKey, GetAttrKey, SequenceKey, tree_flatten_with_path

from gc_jax import compat
from gc_jax.layers import is_a, library


class Param(NamedTuple):
    """One floating-point array of a model."""

    name: str
    shape: tuple[int, ...]
    layer: Any  # the module that it belongs to; None: nobody knows, go by its name
    leaf: str  # its own name in that module


def named_leaves(tree: Any) -> list[tuple[str, Any, Any]]:
    """(name, path, leaf) of each leaf of a tree, in the tree's order. The name is the path, "a.b.c"."""
    found = []
    for path, leaf in tree_flatten_with_path(tree)[0]:
        # Flax's boxes (nnx.Variable, nn.Partitioned) are part of some trees of a model, and not of others.
        unboxed = path[:-1] if path and path[-1] == GetAttrKey("value") else path
        found.append((compat.keystr(unboxed, ".").replace("/", "."), unboxed, leaf))
    return found


def is_float(leaf: Any) -> bool:
    """Whether a leaf is a floating-point array, or stands for one."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def parameters(root: Any, modules: Mapping[str, Any] | None, wrt: Any = None) -> list[Param]:
    """The parameters of a module or of a tree, each with the layer that it belongs to."""
    kind = library(root)
    if wrt is not None and kind != "nnx":
        raise TypeError(f"wrt is a filter of an NNX module; got a {type(root).__qualname__}")
    if kind == "keras":
        return list(_keras(root))
    if kind == "linen":
        if root.scope is None:
            raise TypeError(
                "a Linen module has no parameters: give those of init, plan(variables['params'], 'out_last'), "
                "and modules=module.module_paths(rng, x)"
            )
        return list(_plain(root.variables["params"], modules if modules is not None else {"": root}))
    if kind == "nnx":
        from flax import nnx

        return [
            Param(name, tuple(leaf.shape), *_layer_of(root, path))
            for name, path, leaf in named_leaves(nnx.state(root, nnx.Param if wrt is None else wrt))
            if is_float(leaf)
        ]
    return list(_plain(root, modules))


def _plain(root: Any, modules: Mapping[str, Any] | None) -> Iterator[Param]:
    matched = False
    for name, path, leaf in named_leaves(root):
        if is_float(leaf):
            layer, own = _layer_of(root, path)
            if modules is not None:
                # Keys may hold slashes of their own: WeightNorm's are "Dense_0/kernel/scale".
                own = str(getattr(path[-1], "key", "")) if path else ""
                above = compat.keystr(path[:-1], "/")
                layer = modules.get(above)
                matched |= layer is not None
            yield Param(name, tuple(leaf.shape), layer, own)
    if modules is not None and not matched:
        whole = isinstance(root, Mapping) and "params" in root
        remedy = ": give variables['params'], not all variables" if whole else ""
        path = next(iter(modules), "")
        raise ValueError(f"modules: no parameter belongs to any of them; one path is {path!r}{remedy}")


def _keras(model: Any) -> Iterator[Param]:
    layers = {}
    # Private to Keras, but the one way to reach the layers inside of a layer (an RNN's cell, attention's projections).
    for layer in compat.keras_layers(model):
        for variable in layer.trainable_variables:
            layers[id(variable)] = layer  # an inner layer comes after the one that holds it
    for variable in model.trainable_variables:
        leaf = variable.path.rpartition("/")[2]
        yield Param(variable.path.replace("/", "."), tuple(variable.shape), layers[id(variable)], leaf)


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


def tied_to_a_table(model: Any) -> set[str]:
    """Names of what `equinox.nn.Shared` also uses as the table of an embedding."""

    def of(*names):
        return lambda node: is_a(node, "equinox", *names)

    tied = set()
    leaves = named_leaves(model)
    for node in jax.tree.leaves(model, is_leaf=of("Shared")):
        if of("Shared")(node):
            inside = {id(leaf) for leaf in jax.tree.leaves(node)}
            embeddings = filter(of("Embedding"), jax.tree.leaves(node(), is_leaf=of("Embedding")))
            tables = [one.weight for one in embeddings]
            # A table that is in the tree belongs to its Embedding, or is tied by identity; one that is not was
            # computed (transposed) from a leaf with as many elements.
            sizes = {math.prod(table.shape) for table in tables if id(table) not in inside}
            same = {id(table) for table in tables}
            tied |= {
                name
                for name, _, leaf in leaves
                if id(leaf) in same or (id(leaf) in inside and is_float(leaf) and math.prod(leaf.shape) in sizes)
            }
    return tied

"""A plan that is read from the program: what its operations do with each parameter decides, whatever it is called.

A model is traced to a jaxpr, which computes nothing, and every parameter is followed through what moves its numbers
(reshape, transpose, slices, scan over stacked layers …) into the operation that uses it. The fan-in axes are those that
a product sums over; a table is looked up, a bias added, a scale multiplied. `program_rules` has the operations,
`program_uses` what follows from them.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gc_core.plan import Plan, Row
from gc_jax.layers import library
from gc_jax.program_uses import Kind, Uses, verdict
from gc_jax.program_values import Source, State, Value, parameter
from gc_jax.program_walk import walk
from gc_jax.tree import is_float, named_leaves


def by_program(root: Any, apply: Callable[..., Any] | None, batch: Any, wrt: Any = None) -> Plan:
    """The plan of a model that is run on a batch, without computing anything."""
    if apply is not None and not callable(apply):
        raise TypeError(f"apply must be a function, apply(params, *batch); got {type(apply).__qualname__}")
    arguments = () if batch is None else batch if isinstance(batch, tuple) else (batch,)
    params, call = function_of(root, apply, wrt)
    leaves = named_leaves(params)
    trained = [i for i, (_, _, leaf) in enumerate(leaves) if is_float(leaf)]
    if not trained:
        raise TypeError(f"there are no floating-point arrays in this {type(root).__qualname__}")
    names = [leaves[i][0] for i in trained]
    shapes = [tuple(leaves[i][2].shape) for i in trained]
    uses = _read(call, params, arguments, trained, shapes)
    rows = []
    for i, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        view = verdict(uses[i], shape, names)
        rows.append(Row(name, shape, view.shape, view.axes, view.why))
    return Plan(rows)


def function_of(root: Any, apply: Callable[..., Any] | None, wrt: Any = None) -> tuple[Any, Callable[..., Any]]:
    """The tree of parameters of a model, and how it is called with it."""
    kind = library(root)
    if wrt is not None and kind != "nnx":
        raise TypeError(f"wrt is a filter of an NNX module; got a {type(root).__qualname__}")
    if kind == "nnx":
        from flax import nnx

        graph, state, rest = nnx.split(root, nnx.Param if wrt is None else wrt, ...)

        def of_nnx(state, *batch):
            model = nnx.merge(graph, state, rest, copy=True)
            return model(*batch) if apply is None else apply(model, *batch)

        return state, of_nnx
    if kind == "keras":
        params = OrderedDict(  # unlike a dict, JAX leaves it in its order
            (v.path.replace("/", "."), jax.ShapeDtypeStruct(tuple(v.shape), v.dtype)) for v in root.trainable_variables
        )
        others = [v.value for v in root.non_trainable_variables]

        def of_keras(params, *batch):
            values = list(params.values())
            return root.stateless_call(values, others, *batch)[0] if apply is None else apply(values, *batch)

        return params, of_keras
    if kind == "linen" and root.scope is not None:
        variables = root.variables
        rest = {name: value for name, value in variables.items() if name != "params"}
        module = root.clone(parent=None)
        if apply is None:
            return variables["params"], lambda params, *batch: module.apply({"params": params, **rest}, *batch)
        return variables["params"], apply
    if apply is None:
        if kind != "equinox":
            raise TypeError(f"apply must be given for a {type(root).__qualname__}: apply(params, *batch)")
        return root, lambda model, *batch: model(*batch)
    return root, apply


def _read(
    call: Callable[..., Any],
    params: Any,
    batch: Sequence[Any],
    trained: Sequence[int],
    shapes: Sequence[tuple[int, ...]],
) -> Uses:
    """The uses of the parameters, from the program of one call.

    Args:
        trained: which of the leaves are parameters, of these shapes.
    """
    leaves, treedef = jax.tree.flatten((params, tuple(batch)))
    first = len(jax.tree.leaves(params))
    places = {leaf: index for index, leaf in enumerate(trained)}
    arrays = [
        i for i, leaf in enumerate(leaves) if i in places or (_is_array(leaf) and (i >= first or _abstract(leaf)))
    ]
    closed = _traced(call, leaves, treedef, arrays)

    def source(i: int) -> Value:
        if i in places:
            return parameter(places[i], shapes[places[i]])
        return Value(_source(leaves[i]) if i >= first else Source.CONSTANT)

    # Without a batch the data are among the constants of the function.
    given = any(i >= first for i in arrays)
    constants = [Value(_source(const) if not given and np.ndim(const) else Source.CONSTANT) for const in closed.consts]
    uses = Uses(len(trained))
    results = walk(closed.jaxpr, map(source, arrays), [True] * len(closed.jaxpr.outvars), uses, constants)
    for value in results:
        for image in value.images:
            if image.state is not State.ALONE:  # a parameter that is handed back as it is, is not used
                uses.settle(Value(value.source, (image,)), Kind.ADDED, "output")
    return uses


def _traced(call: Callable[..., Any], leaves: Sequence[Any], treedef: Any, arrays: Sequence[int]) -> Any:
    """The program that takes these of the leaves."""

    def function(*values):
        filled = list(leaves)
        for i, value in zip(arrays, values, strict=True):
            filled[i] = value
        params, batch = treedef.unflatten(filled)
        return [leaf for leaf in jax.tree.leaves(call(params, *batch)) if _is_array(leaf)]

    try:
        return jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(leaves[i].shape, leaves[i].dtype) for i in arrays))
    except Exception as error:
        error.add_note(
            "This came from planning: gc_jax.plan(…, apply=, batch=) traced apply(params, *batch), as jax.jit would."
        )
        raise


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _abstract(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _source(leaf: Any) -> Source:
    """Keys make noise, everything else in a batch is data."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) or (leaf.dtype == jnp.uint32 and leaf.shape == (2,))
    return Source.RANDOM if is_key else Source.DATA

"""A plan, and the tree that it is for: which row is each leaf's, and what does not fit."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gc_core import checks
from gc_core.layouts import rule_of
from gc_core.left_out import OPEN, warn_if_left_out
from gc_core.plan import Plan, Row
from gc_core.reasons import reason_of
from gc_jax import compat
from gc_jax.arrays import JAX, widen
from gc_jax.layers import library
from gc_jax.operator import center
from gc_jax.plan import by_classes_and_names
from gc_jax.tree import is_float, named_leaves


def check(plan: Any) -> None:
    """Refuse what is neither a plan nor a layout."""
    if isinstance(plan, str):
        rule_of(plan)
    elif not isinstance(plan, Plan):
        raise TypeError(
            f'plan must be a plan, gc_jax.plan(params, layout), or a layout, "out_first" or "out_last"; got {plan!r}'
        )


def check_tree(plan: Plan | str, params: Any) -> None:
    """Refuse a tree that the plan does not fit; warn where a layout alone leaves much of it out."""
    rows = [row for row in rows_of(plan, params) if row is not None]
    if isinstance(plan, str) and rows:
        warn_if_left_out(Plan(rows), f"plan=gc_jax.plan(params, apply=…, batch=…) instead of {plan!r}", stacklevel=4)


def centralized(updates: Any, plan: Plan | str) -> Any:
    """Φ of every leaf that the plan is for."""
    leaves, treedef = jax.tree.flatten(updates)
    return treedef.unflatten([_phi(leaf, row) for leaf, row in zip(leaves, rows_of(plan, updates), strict=True)])


def _phi(leaf: Any, row: Row | None) -> Any:
    if row is None or row.axes is None:
        return leaf
    grad = jnp.asarray(leaf)
    checks.array(JAX, f"the gradient of {row.name!r}", grad)
    return center(widen(grad).reshape(row.view), row.axes).reshape(row.shape).astype(grad.dtype)


def rows_of(plan: Plan | str, tree: Any) -> list[Row | None]:
    """The row of each leaf of a tree; None for a leaf that is not a floating-point array."""
    for node in jax.tree.leaves(tree, is_leaf=_is_sparse):
        if _is_sparse(node):
            raise TypeError(f"GC needs dense gradients; got {type(node).__qualname__}: call its todense() first")
    leaves = [(name, leaf) for name, _, leaf in named_leaves(tree)]
    by_name = _planned(plan, tree) if isinstance(plan, str) else plan
    places = [str(i) for i in range(len(by_name))]
    if [name for name, _ in leaves] == places and by_name.keys().isdisjoint(places):
        by_name = dict(zip(places, by_name.values(), strict=True))  # Keras gives its variables as a list
    return [_row(by_name, name, leaf) for name, leaf in leaves]


def _row(by_name: Mapping[str, Row], name: str, leaf: Any) -> Row | None:
    row = by_name.get(name)
    if row is None:
        if not is_float(leaf):
            return None
        if name == "" and len(leaf.shape) == 1:
            raise ValueError(_FLAT)
        raise ValueError(f"the plan has no row for {name!r}: make it for this tree; its rows are {_some(by_name)}")
    if row.shape != tuple(jnp.shape(leaf)):
        raise ValueError(
            f"the plan is for {name!r} of shape {row.shape}; got shape {jnp.shape(leaf)}. If the parameter "
            "has changed, make the plan again; if that is a shard of it (in a shard_map), take the step outside, on "
            "unsharded arrays: XLA adds the sum that a split fan-in needs"
        )
    return row


_FLAT = (
    "the tree is one array with one axis, which has no weight vectors: optax.flatten hides them. Put GC in front of "
    "it: optax.chain(gc_jax.centralize_gradients(plan), optax.flatten(optimizer))"
)


def _planned(layout: str, tree: Any) -> Mapping[str, Row]:
    leaves = named_leaves(tree)
    if not any(is_float(leaf) for _, _, leaf in leaves):
        return {}
    if any(isinstance(node, optax.MaskedNode) for node in jax.tree.leaves(tree, is_leaf=_is_masked)):
        raise ValueError(
            f"a layout, {layout!r}, cannot judge a part of a tree (optax.masked, multi_transform): the leaves that "
            "would say what the others are may be hidden. Give a plan of the whole: "
            f"plan=gc_jax.plan(params, {layout!r})"
        )
    if len(leaves) == 1 and leaves[0][0] == "" and len(leaves[0][2].shape) == 1:
        raise ValueError(_FLAT)
    plan = by_classes_and_names(tree, None if library(tree) else layout)
    unknown = [row for row in plan.rows if reason_of(row.why) in OPEN and len(row.shape) > 1]
    if unknown and all(row.axes is None for row in plan.rows):
        # Otherwise GC would be off without a word.
        raise ValueError(
            f"a layout is not enough: nothing in this tree says that it is a weight stored so ({_some(plan)}); "
            f"give a plan, gc_jax.plan(params, {layout!r}, overrides={{{unknown[0].name!r}: axes}}), or one that is "
            "read from the program, gc_jax.plan(params, apply=…, batch=…)"
        )
    return plan


def _some(names: Iterable[str]) -> str:
    return textwrap.shorten(", ".join(map(repr, names)), 200, placeholder=" …")


def _is_sparse(node: Any) -> bool:
    return type(node).__module__.startswith("jax.experimental.sparse")


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


# ---- Trees that hold more than arrays


def arrays_of(params: Any) -> Any:
    """The parameters that an optimizer keeps state for: in an Equinox model, and beside functions, float arrays alone.

    That is what `equinox.filter_grad` has gradients for, so state and updates have the same leaves.
    """
    nodes = jax.tree.leaves(params, is_leaf=lambda node: library(node) == "equinox")
    if all(isinstance(node, (int, float, complex)) or hasattr(node, "dtype") for node in nodes):
        return params
    return jax.tree.map(lambda leaf: leaf if is_float(leaf) else None, params)


def like_updates(updates: Any, params: Any) -> Any:
    """The parameters that have an update, None in place of all else."""
    if params is None:
        return None

    def own(path, update, param):
        if update is not None and hasattr(update, "shape") and jnp.shape(update) != jnp.shape(param):
            raise ValueError(
                f"the update of {_name(path)!r} has shape {jnp.shape(update)}; its parameter has {jnp.shape(param)}"
            )
        return None if update is None else param

    try:
        return jax.tree_util.tree_map_with_path(own, updates, params, is_leaf=lambda node: node is None)
    except ValueError as error:
        error.add_note("params must be the tree that the updates are for")
        raise


def of_the_same_shapes(updates: Any, state: Any) -> None:
    """Refuse a state that was made for other parameters: broadcasting could hide it."""
    treedef = jax.tree.structure(updates)
    for tree in jax.tree.leaves(state, is_leaf=lambda node: jax.tree.structure(node) == treedef):
        if jax.tree.structure(tree) != treedef:
            continue
        for (name, _, update), kept in zip(named_leaves(updates), jax.tree.leaves(tree), strict=True):
            if is_float(kept) and jnp.shape(kept) != jnp.shape(update):
                raise ValueError(
                    f"the state was made for {name!r} of shape {jnp.shape(kept)}; its update has {jnp.shape(update)}: "
                    "call init for the new parameters"
                )


def _name(path: tuple) -> str:
    return compat.keystr(path, ".")

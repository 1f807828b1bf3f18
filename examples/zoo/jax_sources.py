"""Three sources about each parameter of a JAX model: its class or name, the program, and the numerical check."""

import math
import time
import warnings
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp

import gc_jax as gct
from examples.zoo import jax_numbers
from examples.zoo.jax_models import Model
from examples.zoo.model import Found
from gc_core.left_out import OPEN
from gc_core.plan import Row
from gc_core.reasons import name_of, reason_of
from gc_jax.program import function_of
from gc_jax.tree import is_float, named_leaves

LARGEST = 4000  # elements of a parameter that is checked by numbers: all pairs of them are compared


def found(one: Model) -> Found:
    """What is found about one model, or the problem that it has."""
    empty = Found(one.family, one.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gct.GCWarning)
        try:
            start = time.perf_counter()
            program = gct.plan(one.params, apply=one.apply, batch=one.batch)
            seconds = time.perf_counter() - start
            declared = gct.plan(one.params, one.layout, modules=one.modules)
        except Exception as error:
            return empty._replace(problem=f"is not read: {type(error).__name__}: {error}"[:120])
    contradictions = [
        f"{name} {row.shape}: its class or name says {declared[name].axes} ({declared[name].why}), "
        f"the program {row.axes} ({row.why})"
        for name, row in program.items()
        if not _unsure(row) and not _unsure(declared[name]) and _vectors(row) != _vectors(declared[name])
    ]
    on = [row for row in program.rows if row.axes is not None]
    left = Counter(name_of(row.why) or str(row.why) for row in program.rows if row.axes is None)
    return empty._replace(
        parameters=len(program.rows),
        elements=sum(math.prod(row.shape) for row in program.rows),
        centralized=len(on),
        by_layers=sum(row.axes is not None for row in declared.values()),
        left=dict(left),
        reached=sum(name_of(row.why) != "NOT_REACHED" for row in program.rows),
        contradictions=tuple(contradictions),
        seconds=seconds,
    )


def checked(one: Model, result: Found) -> Found:
    """The same, with what the numbers say of the plan that was read from the program."""
    if result.problem:
        return result
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gct.GCWarning)
        program = gct.plan(one.params, apply=one.apply, batch=one.batch)
    seen = _seen(one)
    verified, wrong = 0, []
    for i, row in enumerate(program.rows):
        if row.axes is not None and math.prod(row.shape) <= LARGEST:
            answers = list(jax_numbers.agrees(row, seen[i]))
            verified += bool(answers) and all(answers)
            wrong += [] if all(answers) else [f"{row.name} {row.shape}: by numbers not {row.mean_over} ({row.why})"]
    return result._replace(checked=True, verified=verified, contradictions=(*result.contradictions, *wrong))


def _seen(one: Model) -> dict[int, list[jax_numbers.Together]]:
    """What the numbers say, for numbers drawn in place of those that the model starts with."""
    params, call = function_of(one.root if one.root is not None else one.params, one.apply)
    leaves, treedef = jax.tree.flatten(params)
    trained = [i for i, (_, _, leaf) in enumerate(named_leaves(params)) if is_float(leaf)]
    keys = iter(jax.random.split(jax.random.key(0), len(leaves) + len(one.batch)))
    drawn = [0.1 + jax.random.uniform(next(keys), leaves[i].shape, leaves[i].dtype) for i in trained]
    batch = [
        jax.random.uniform(next(keys), x.shape)
        if jnp.issubdtype(x.dtype, jnp.floating)
        else jnp.zeros(x.shape, x.dtype)
        for x in one.batch
    ]

    def function(*values: Any) -> Any:
        filled = list(leaves)
        for i, value in zip(trained, values, strict=False):
            filled[i] = value
        out = call(treedef.unflatten(filled), *values[len(trained) :])
        return [x for x in jax.tree.leaves(out) if hasattr(x, "dtype")]

    return jax_numbers.together(function, drawn, batch)


def _unsure(row: Row) -> bool:
    return row.axes is None and reason_of(row.why) in OPEN


def _vectors(row: Row) -> tuple[int, ...] | None:
    """The axes of more than one element along which means are taken; None: it is left alone."""
    return None if row.axes is None else tuple(axis for axis in row.axes if row.view[axis] > 1)

"""Small models of every library: what classes or names say of them, and what their programs do, must agree."""

import warnings

import jax
import jax.numpy as jnp
import pytest

import gc_jax as gct
from examples.zoo import jax_numbers
from examples.zoo.jax_models import families, models
from gc_core import Row
from gc_core.left_out import OPEN

MODELS = list(models())


def vectors(row):
    """The axes of more than one element along which means are taken; None: it is left alone."""
    return None if row.axes is None else tuple(axis for axis in row.axes if row.view[axis] > 1)


def unsure(plan):
    return [row for row in plan.rows if row.axes is None and row.why.reason in OPEN]


def sources(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gct.GCWarning)
        program = gct.plan(model.params, apply=model.apply, batch=model.batch)
        declared = gct.plan(model.params, model.layout, modules=model.modules)
    return program, declared


def test_there_are_thirty_of_all_kinds():
    assert len(MODELS) >= 30 and families()["flax"] and families()["equinox"]


@pytest.mark.parametrize("model", MODELS, ids=[f"{model.family}: {model.name}" for model in MODELS])
def test_classes_or_names_and_the_program_agree(model):
    program, declared = sources(model)
    assert unsure(program) == []
    asked = {row.name for row in unsure(declared)}
    for name, row in declared.items():
        if name in asked:  # left alone, and said; where the program sums over it, that is what was missing
            continue
        assert vectors(row) == vectors(program[name]), (row, program[name])
    if model.modules is not None:  # and names without classes: less is known, nothing is known otherwise
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", gct.GCWarning)
            named = gct.plan(model.params, model.layout)
        asked = {row.name for row in unsure(named)}
        wrong = {n: r for n, r in named.items() if n not in asked and vectors(r) not in (None, vectors(program[n]))}
        assert wrong.keys() <= KNOWN_LIMITS.get(model.name, set()), wrong


# What only a class or the program can say.
KNOWN_LIMITS = {}


def test_numbers_tell_right_axes_from_wrong_ones():
    """The zoo's third source, on a scanned stack of layers and a convolution with a stride."""

    def run(w, k, x):
        x = jax.lax.conv_general_dilated(x[:, None], k, (2,), "VALID")[:, :, 0]
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    shapes = {"w": (2, 3, 3), "k": (3, 1, 4)}
    params = [1 + jax.random.uniform(jax.random.key(i), shape) for i, shape in enumerate(shapes.values())]
    seen = jax_numbers.together(run, params, [jnp.ones((1, 4))])
    for i, (name, right, wrong) in enumerate([("w", (1,), (2,)), ("k", (1, 2), (0, 2))]):
        for axes, ok in ((right, True), (wrong, False)):
            row = Row(name, shapes[name], shapes[name], axes, "")
            answers = list(jax_numbers.agrees(row, seen[i]))
            assert answers and all(answers) is ok

"""The packages of this project are ports like any other, errors included; gc_jax and gc_cupy in their own folders."""

from types import SimpleNamespace

import pytest

import gc_core
from gc_conformance import PROPERTIES, run


def optimizer(kind, params, axes, **hyper):
    made = {"sgd": gc_core.SGD, "adam": gc_core.Adam, "adamw": gc_core.AdamW}[kind](dict(params), axes, **hyper)
    return SimpleNamespace(step=made.step, params=lambda: made.params)


def failures(result):
    return [(one.id, one.message) for one in result.failed]


def test_gc_core():
    functions = {name: getattr(gc_core, name) for name in gc_core.__all__}
    dtypes = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
    port = SimpleNamespace(**functions, optimizer=optimizer, dtypes=dtypes, rounding=gc_core.checks.WAYS)
    result = run(port, level="contract", profile="quick")
    assert failures(result) == []
    absent = {one.id for one in result.not_provided if not one.id.startswith("layers.")}
    switch = {id for id in PROPERTIES if id.startswith("switch.")}  # for optimizers of others
    assert absent == {"errors.complex_refused_by_name"} | switch  # complex numbers are taken


# What its functions do is judged above: here, that the module is a port as it is.
SOME = (
    "operator.definition",
    "numerics.large_mean",
    "sgdm.rule",
    "adam.rule",
    "theory.matrix_form",
    "errors.axis_repeated",
)


@pytest.mark.parametrize(("package", "only"), [("gc_core", SOME), ("gc_torch", None)])
def test_the_modules_as_they_are(package, only):
    result = run(package, level="contract", profile="quick", only=only)
    assert failures(result) == []
    assert {one.chapter for one in result.passed} >= {"operator", "numerics", "sgdm", "adam", "theory", "errors"}

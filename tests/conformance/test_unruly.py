"""Whatever a port returns, raises or prints is a verdict on it: never a fault of the suite, never a pass."""

import json
from dataclasses import replace

import numpy as np
import pytest

from gc_conformance import run
from gc_conformance.honest import Stateful, Straight
from gc_conformance.registry import PROPERTIES


class Odd(BaseException):
    pass


def raises(error):
    def returned(_):
        raise error

    return returned


RETURNS = {
    "None": lambda x: None,
    "NaN": lambda x: x * x.dtype.type(np.nan),
    "infinity": lambda x: np.full_like(x, np.inf),
    "another shape": lambda x: x[None],
    "a scalar": lambda x: np.zeros((), x.dtype),
    "text": lambda x: "text",
    "objects": lambda x: x.astype(object),
    "integers": lambda x: np.zeros(x.shape, int),
    "complex numbers": lambda x: x + 0j,
    "an odd exception": raises(Odd("odd")),
    "an exit": raises(SystemExit(0)),
}


class Unruly(Straight):
    def __init__(self, returned):
        self.returned = returned

    def centralize(self, grad, axis):
        return self.returned(super().centralize(grad, axis))

    def centralize_layer(self, kind, grad, **words):
        return self.returned(grad.copy())

    def fan_in_axes(self, shape, layout):
        return self.returned(np.ones((2, 2)))

    def projection_matrix(self, n):
        return self.returned(np.eye(n))

    def sgdm_update(self, w, grad, state, **options):
        done, after = super().sgdm_update(w, grad, state, **options)
        return self.returned(done), after

    def adam_update(self, w, grad, state, **options):
        done, after = super().adam_update(w, grad, state, **options)
        return done, after._replace(exp_avg=self.returned(after.exp_avg))

    def optimizer(self, *asked, **hyper):
        made = Stateful(Straight(), *asked, hyper)
        made.params = lambda: {name: self.returned(w) for name, w in made.values.items()}
        return made


# One property of each way of judging; all 222 would take minutes.
SOME = (
    *("operator.definition", "operator.idempotent", "operator.deviations_unchanged", "operator.input_unchanged"),
    *("numerics.large_fan_in", "layers.conv2d_out_first", "layers.fan_in_axes_out_first", "sgdm.rule", "adam.rule"),
    *("sgdm.inputs_unchanged", "adam.step_counts", "optimizer.adam", "optimizer.sgd_keeps_means"),
    *("theory.projection_matrix", "theory.matrix_form", "theory.norm_never_grows", "theory.hyperplane"),
    *("errors.axis_repeated", "errors.nothing_partly_applied"),
)


@pytest.mark.parametrize("what", RETURNS)
def test_what_a_port_returns_is_judged(what):
    result = run(Unruly(RETURNS[what]), level="contract", profile="quick", only=SOME)
    assert len(result.results) == len(SOME)
    failed = {one.id for one in result.failed}
    assert failed >= {"operator.definition", "layers.fan_in_axes_out_first", "sgdm.rule", "adam.rule", "optimizer.adam"}
    assert all(one.message and one.reproduce for one in result.failed)


@pytest.mark.parametrize("junk", [None, 3, (), (1, 2), "ab", {"a": 1}])
def test_states_and_optimizers_that_are_none(junk):
    class Junk(Straight):
        def sgdm_init(self, w):
            return junk

        def adam_update(self, *arguments, **options):
            return junk

        def optimizer(self, *arguments, **options):
            return junk

    result = run(Junk(), level="contract", profile="quick", only=SOME)
    assert {one.id for one in result.failed} >= {"sgdm.rule", "adam.rule", "optimizer.adam"}


def test_a_fault_of_the_suite_is_not_a_verdict_on_a_port(monkeypatch):
    def broken(port, case):
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setitem(PROPERTIES, "sgdm.rule", replace(PROPERTIES["sgdm.rule"], check=broken))
    with pytest.raises(ZeroDivisionError):
        run(Straight(), profile="quick", only=["sgdm.rule"])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("import sys; sys.exit(0)", 2),
        ("class Odd(BaseException): pass\nraise Odd('odd')", 2),
        ("import sys\ndef centralize(grad, axis): sys.exit(0)", 1),
        ("def centralize(): return 1", 1),
    ],
)
def test_the_exit_code_is_never_the_ports(gc, ports, text, code):
    (ports / "unruly.py").write_text(text)
    done = gc("run", "unruly.py", "--profile", "quick", "--chapter", "operator")
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_a_port_that_prints_leaves_json_alone(gc, ports):
    (ports / "prints.py").write_text(
        "print('hello')\ndef centralize(grad, axis):\n    print('noise')\n"
        "    return grad.copy() if axis is None else grad - grad.mean(axis, keepdims=True)\n"
    )
    done = gc("run", "prints.py", "--profile", "quick", "--property", "operator.definition", "--json", "-")
    assert json.loads(done.stdout)["exit_code"] == done.returncode == 0
    assert "hello" in done.stderr and "noise" in done.stderr

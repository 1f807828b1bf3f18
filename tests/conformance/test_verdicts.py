"""What a verdict says: what was judged and what not, one cause once, known mistakes in words, and its forms for CI."""

import json
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from itertools import count

import numpy as np
import pytest

import gc_conformance
from gc_conformance import PROPERTIES, known
from gc_conformance.honest import Stateful, Straight
from gc_conformance.mutants import MUTANTS
from gc_conformance.registry import VERSION, select
from gc_conformance.report import Screen, show
from gc_conformance.verdict import Verdict, worst

QUICK = ("--profile", "quick")


def quick(port, **options):
    return gc_conformance.run(port, profile="quick", **options)


def right(grad, axis):
    return grad.copy() if axis is None else grad - grad.mean(axis, keepdims=True)


# ---- What was judged


def test_a_chapter_that_was_asked_for_and_not_judged_has_an_exit_code_of_its_own(gc):
    done = gc("run", "right.py", *QUICK, "--chapter", "theory", "--chapter", "sgdm")
    assert done.returncode == 3
    assert "Conforms (theory; sgdm not judged)" in done.stdout and "sgdm asked for and not judged." in done.stdout
    assert gc("run", "right.py", *QUICK, "--chapter", "theory").returncode == 0


def test_of_several_the_worst_decides():
    assert [worst(codes) for codes in ([0, 3], [3, 1], [1, 2], [2, 130], [0])] == [3, 1, 2, 130, 0]


def test_level_axes_given_does_not_ask_for_a_choice_of_axes(gc):
    assert {prop.chapter for prop in select("axes-given")} == {
        *("operator", "numerics", "sgdm", "adam", "optimizer", "theory"),
    }
    assert set(select("axes-given")) < set(select("gc")) < set(select("contract"))
    done = gc("run", "right.py", *QUICK, "--level", "axes-given", "--property", "operator.definition")
    assert "at level axes-given" in done.stdout
    done = gc("run", "right.py", "--level", "axes-given", "--chapter", "layers")
    assert done.returncode == 2 and "judged at level gc" in done.stderr


def test_an_older_version_of_the_suite_has_not_what_came_later(gc):
    later = {prop.id for prop in PROPERTIES.values() if prop.since > 1}
    assert later and not later & {prop.id for prop in select("contract", suite_version=1)}
    done = gc("run", "right.py", *QUICK, "--suite-version", "1", "--property", next(iter(later)))
    assert done.returncode == 2 and "since version 2" in done.stderr
    assert max(prop.since for prop in PROPERTIES.values()) == VERSION


# ---- One cause, once


def test_equal_exceptions_are_one_cause():
    def broken(grad, axis):
        return grad.mean(axis).no_such_method()

    result = quick(broken, chapters=["operator", "numerics"])
    assert len(result.failed) > 30 and len(result.causes) == 1


def test_failures_of_the_operator_are_one_cause_and_another_defect_is_another():
    whole = quick(MUTANTS["WholeTensorMean"].make(), chapters=["operator", "numerics", "sgdm"])
    assert len(whole.failed) > 30 and next(iter(whole.causes)) == "operator.definition" and len(whole.causes) <= 2

    class Two(Straight):
        def centralize(self, grad, axis):
            grad[...] = 2 * grad
            return super().centralize(grad / 2, axis)

        def _lookahead(self, g, m, momentum):
            return g

    both = quick(Two(), only=["operator.definition", "operator.input_unchanged", "sgdm.nesterov", "operator.int_axis"])
    assert {"operator.input_unchanged", "sgdm.nesterov"} == {one.id for one in both.failed} == set(both.causes)


def test_biases_that_are_centralized_are_one_failure():
    class Biases(Stateful):
        def step(self, grads):
            super().step({name: g - g.mean() if g.ndim == 1 else g for name, g in grads.items()})

    class Port:
        sgd_first_step = "damped"

        def optimizer(self, kind, params, axes, **hyper):
            return Biases(Straight(), kind, params, axes, hyper)

    result = quick(Port(), chapters=["optimizer"])
    assert [one.id for one in result.failed] == ["optimizer.biases_left_alone"]
    assert "biases" in result.failed[0].diagnosis


def test_an_optimizer_without_momentum_is_judged():
    class Plain:
        def optimizer(self, kind, params, axes, **hyper):
            if kind != "sgd" or hyper.pop("momentum") or set(hyper) != {"lr"}:
                raise NotImplementedError("plain SGD only")
            return Stateful(Straight(), kind, params, axes, {**hyper, "momentum": 0.0})

    passed = {one.id for one in quick(Plain(), chapters=["optimizer"]).passed}
    assert passed >= {
        f"optimizer.{name}" for name in ("sgd", "gradients_are_centralized", "no_axes_no_gc", "names_decide")
    }


# ---- Known mistakes in words: the mutant, the property, what the words say

SIGNS = {
    ("WholeTensorMean", "operator.definition"): "whole tensor",
    ("NoOp", "operator.definition"): "as it is",
    ("AlwaysOutFirst", "operator.last_axis_is_output"): "first axis is taken for the output",
    ("AlwaysOutLast", "operator.first_axis_is_output"): "last axis is taken for the output",
    ("OtherAxes", "operator.one_axis_of_many"): "not named",
    ("LeavesFanInOne", "operator.fan_in_one_given"): "fan-in is one",
}


@pytest.mark.parametrize(("name", "id"), SIGNS)
def test_a_known_mistake_is_named(name, id):
    (failed,) = quick(MUTANTS[name].make(), only=[id]).failed
    assert SIGNS[name, id] in failed.diagnosis


def test_eps_inside_the_root_is_named_and_so_is_decay_behind_gc():
    class Inside(Straight):
        def _direction(self, m, v, t, betas, eps):
            one, two = (self._bias_correction(beta, t) for beta in betas)
            return (m / one) / np.sqrt(v / two + eps)

    (failed,) = quick(Inside(), only=["adam.eps"]).failed
    assert "inside the root" in failed.diagnosis

    class Behind(Straight):
        def _prepared(self, x, g, axes, weight_decay, decoupled, gc_on):
            g = self._center(g, axes) if gc_on == "gradient" else g
            return g + weight_decay * x if weight_decay and not decoupled else g

    (failed,) = quick(Behind(), only=["sgdm.l2_decay"]).failed
    assert "behind GC" in failed.diagnosis


WORDS = ("whole tensor", "first axis", "last axis", "not named", "inside the root", "z-scoring", "added instead")


@pytest.mark.parametrize(
    "name", ["PartialStrength", "BesselMean", "SubtractsFirst", "KeepsNorm", "DropsTail", "NaNLeaks"]
)
def test_a_mistake_that_is_not_known_is_not_named(name):
    result = quick(MUTANTS[name].make(), only=[MUTANTS[name].kills])
    assert not any(word in one.diagnosis for one in result.failed for word in WORDS)


# ---- Fair


def test_minus_zero_is_zero():
    def flipped(grad, axis):
        return np.where(grad == 0, -grad, grad) if axis is None else right(grad, axis)

    assert quick(flipped, chapters=["operator"]).conforms


@pytest.mark.parametrize("level", ["gc", "contract"])
def test_refusing_nan_or_empty_arrays_is_wrong_only_by_the_contract(level):
    def strict(grad, axis):
        if not grad.size or not np.isfinite(grad).all():
            raise ValueError("finite gradients, please")
        return right(grad, axis)

    result = quick(strict, level=level, only=["operator.empty", "numerics.nan_is_not_hidden", "operator.definition"])
    assert len(result.failed) == (2 if level == "contract" else 0)
    assert len(result.not_provided) == (0 if level == "contract" else 2)


@pytest.mark.parametrize("once", [{3}, range(0, 1000, 2), range(0, 1000, 3)], ids=["once", "every 2nd", "every 3rd"])
def test_a_flaky_port_shows_both_results(once):
    calls = count()

    def flaky(grad, axis):
        return right(grad, axis) + (next(calls) in once)

    (failed,) = quick(flaky, only=["operator.definition"]).failed
    assert failed.how == "flaky" and "; and then: it" in failed.message and "must be" in failed.message


def test_a_counterexample_of_an_optimizer_is_small_and_runs():
    class Behind(Stateful):
        def step(self, grads):
            super().step(grads)
            for name, w in self.values.items():
                self.values[name] = w * w.dtype.type(1.5)

    class Port:
        def optimizer(self, kind, params, axes, **hyper):
            return Behind(Straight(), kind, params, axes, hyper)

    port = Port()
    (failed,) = quick(port, only=["optimizer.adam"]).failed
    assert "conv.weight" not in failed.counterexample and len(failed.reproduce.splitlines()) <= 10
    assert len(failed.reproduce) < 800
    exec(failed.reproduce.replace("port = ...", "pass"), {"port": port})


# ---- For other programs


@pytest.fixture(scope="module")
def verdict():
    def whole(grad, axis):
        return grad.copy() if axis is None else grad - grad.mean()

    whole.__qualname__ = "a | port <b>"
    return Verdict(quick(whole, chapters=["operator", "sgdm"]))


def test_junit_json_markdown_and_the_badge(gc, ports):
    files = ("--junit", "o.xml", "--json", "o.json", "--markdown", "o.md", "--badge", "o.svg")
    for port, code in (("wrong.py", 1), ("right.py", 0)):
        assert gc("run", port, *QUICK, "--chapter", "operator", *files).returncode == code
        (suite,) = ElementTree.parse(ports / "o.xml").getroot()
        (plain,) = json.loads((ports / "o.json").read_text())["ports"]
        cases = suite.findall("testcase")
        assert {case.get("name") for case in cases} == {one["id"] for one in plain["results"]}
        assert (
            int(suite.get("failures"))
            == sum(case.find("failure") is not None for case in cases)
            == len([one for one in plain["results"] if one["status"] == "failed"])
        )
        named = {one.get("name"): one.get("value") for one in suite.find("properties")}
        assert named["suite"] == str(VERSION) == plain["versions"]["suite"] and plain["suite"] == VERSION
        badge = ElementTree.parse(ports / "o.svg").getroot()
        assert badge.get("aria-label") == f"GC conformance {VERSION}: {'operator' if code == 0 else 'does not conform'}"
    markdown = (ports / "o.md").read_text()
    assert markdown.count("## ") == 2 and "| `operator.definition` |" in markdown  # appended, as a CI's page is
    assert plain["causes"] == {}


def test_what_a_port_is_called_does_not_break_a_table(verdict):
    from gc_conformance import formats

    rows = [line for line in formats.markdown([verdict]).splitlines() if line.startswith("|")]
    assert len(rows) > 4 and "&lt;b>" in formats.markdown([verdict])
    ElementTree.fromstring(formats.junit([verdict]))


def test_a_list_written_from_a_run_makes_that_run_conform(gc, ports, suite):
    words = ("run", "wrong.py", *QUICK, "--chapter", "theory")
    assert gc(*words, "--write-known", "known.toml").returncode == 1
    entries = tomllib.loads((ports / "known.toml").read_text())["wrong.py"]
    assert entries and all(entry["cause"] for entry in entries.values())
    done = gc(*words, "--known", "known.toml")
    assert done.returncode == 0 and "but for what is known" in done.stdout


def test_known_failures_alone_exit_alike_in_both_commands(gc, ports, suite):
    (ports / "known.toml").write_text('["wrong.py"]\n"operator.definition" = { cause = "one mean" }\n')
    assert gc("run", "wrong.py", *QUICK, "--property", "operator.definition", "--known", "known.toml").returncode == 0
    ask = ("--pyargs", "gc_conformance", "--gc-port", "wrong.py", "--gc-profile", "quick", "--gc-known", "known.toml")
    done = suite(*ask, "-k", "operator.definition")
    assert done.returncode == 0 and "1 xfailed" in done.stdout


def test_what_is_written_into_a_list_can_be_read(tmp_path):
    class Odd:
        name = 'odd "port" \x7f'

        def centralize(self, grad, axis):
            raise ValueError('\ud800 "quoted" \\ \x01 ✗\nnext line')

    result = quick(Odd(), only=["operator.definition"])
    for file in ("known.toml", "known.json"):
        assert known.write(tmp_path / file, [Verdict(result)]) == 1
        assert known.read(tmp_path / file)[result.target]["operator.definition"].cause == result.failed[0].message


def test_jobs_do_not_change_the_verdict(ports):
    ids = [prop.id for prop in select("gc", ["operator"])][:8]
    one, two = (quick(str(ports / "wrong.py"), only=ids, jobs=jobs) for jobs in (1, 2))
    assert [(r.id, r.status, r.message, r.counterexample) for r in one.results] == [
        (r.id, r.status, r.message, r.counterexample) for r in two.results
    ]


OWN_TESTS = """
import gc_conformance

@gc_conformance.parametrize("{port}", profile="quick", only=["operator.definition", "sgdm.rule"])
def test_conforms(holds):
    holds()
"""


def test_parametrize_in_a_ports_own_tests(suite, ports):
    for port, code, said in (("right.py", 0, "1 passed, 1 skipped"), ("wrong.py", 1, "1 failed, 1 skipped")):
        (ports / "test_own.py").write_text(OWN_TESTS.format(port=port))
        done = suite("test_own.py", "-W", "error")
        assert done.returncode == code and said in done.stdout
    assert "smallest counterexample" in done.stdout and "test_conforms[operator.definition]" in done.stdout


def test_the_terminal_shows_a_cause_once(verdict, capsys):
    show(verdict, Screen())
    out = capsys.readouterr().out
    assert out.count("smallest counterexample") == len(verdict.causes) <= 3
    assert "more for the same reason: " in out and "it looks like this: One mean" in out


def test_vectors_check_tells_all_and_their_version(gc, ports, tmp_path):
    from gc_conformance import vectors

    vectors.write(tmp_path / "v")
    done = gc("vectors", "check", tmp_path / "v", "wrong.py", "--json", "out.json")
    plain = json.loads((ports / "out.json").read_text())
    failed = [one for one in plain["results"] if one["status"] == "failed"]
    assert done.returncode == plain["exit_code"] == 1 and plain["vectors"] == vectors.VERSION
    assert len(failed) > 20 and all(one["id"] in done.stdout and one["message"] in done.stdout for one in failed)


def test_version_and_level_are_said_by_python_too():
    done = subprocess.run(
        [sys.executable, "-m", "gc_conformance", "properties", "--suite-version", "1"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "operator.definition" in done.stdout and "layers.input_unchanged" not in done.stdout

"""pytest --pyargs gc_conformance --gc-port …"""

import xml.etree.ElementTree as ElementTree

from gc_conformance.registry import PROPERTIES

ASK = ("--pyargs", "gc_conformance")
QUICK = ("--gc-profile", "quick")
SEVERAL = "operator.several_axes"


def test_each_property_is_an_item_with_its_id_and_junit_has_them(suite, ports):
    done = suite(*ASK, "--gc-port", "right.py", *QUICK, "--junitxml", "out.xml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gc-conformance: right.py (float32, float64); level gc, profile quick, seed 0" in done.stdout
    cases = {case.get("name"): case for case in ElementTree.parse(ports / "out.xml").iter("testcase")}
    assert set(cases) == {prop.id for prop in PROPERTIES.values() if prop.level != "contract"}
    assert cases["sgdm.rule"].find("skipped").get("message").startswith("not provided: ")
    assert cases["operator.definition"].find("skipped") is None


def test_a_failure_shows_the_counterexample_and_how_to_reproduce_it(suite):
    done = suite(*ASK, "--gc-port", "wrong.py", *QUICK, "-k", SEVERAL, "-p", "xdist", "-n", "2")
    assert done.returncode == 1
    assert "smallest counterexample: centralize(" in done.stdout
    assert "runpy.run_path('wrong.py')" in done.stdout and "Traceback" not in done.stdout


def test_several_ports(suite):
    done = suite(*ASK, "--gc-port", "right.py", "--gc-port", "wrong.py", *QUICK, "-k", SEVERAL, "-v")
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout and f"{SEVERAL}[wrong.py]" in done.stdout


def test_a_chapter_or_a_level_selects_properties(suite):
    def collected(*words):
        done = suite(*words, "--gc-port", "right.py", *QUICK, "--collect-only", "-q")
        assert done.returncode == 0, done.stdout
        return {line.rpartition("::")[2] for line in done.stdout.splitlines() if "::" in line}

    numerics = collected("--pyargs", "gc_conformance.chapters.numerics")
    assert numerics == {prop.id for prop in PROPERTIES.values() if prop.chapter == "numerics"}
    assert collected(*ASK, "--gc-level", "contract") == set(PROPERTIES)


def test_what_cannot_be_run_is_a_usage_error_and_never_a_skip(suite, ports):
    (ports / "known.toml").write_text('["right.py"]\n"operator.nope" = {cause = "c", link = "l"}')
    for words, said in (
        (ASK, "none is named"),
        ((*ASK, "--gc-port", "missing.py"), "no such file"),
        ((*ASK, "--gc-port", "right.py", "--gc-profile", "slow"), "slow"),
        ((*ASK, "--gc-port", "right.py", "--gc-known", "known.toml"), "operator.nope"),
    ):
        done = suite(*words)
        assert done.returncode == 4, done.stdout
        assert said in done.stderr and "Traceback" not in done.stderr and "skipped" not in done.stdout


def test_a_run_in_which_nothing_was_judged_does_not_succeed(suite, ports):
    (ports / "test_other.py").write_text("def test_other():\n    pass\n")
    # Everything is skipped; or the suite was not asked for at all.
    for words in ((*ASK, "--gc-port", "refuses.py", "-k", "operator"), ("--gc-port", "right.py", "test_other.py")):
        done = suite(*words, *QUICK)
        assert done.returncode == 4, done.stdout
        assert "no property was judged" in done.stdout


def test_known_failures_are_expected_and_stale_ones_fail(suite, ports):
    entry = f'"{SEVERAL}" = {{cause = "one mean for all", link = "https://example.org/7"}}'
    (ports / "known.toml").write_text(f'["wrong.py"]\n{entry}\n["right.py"]\n{entry}')
    words = (*ASK, *QUICK, "-k", SEVERAL, "--gc-known", "known.toml", "-rx")
    done = suite(*words, "--gc-port", "wrong.py")
    assert done.returncode == 0, done.stdout
    assert "1 xfailed" in done.stdout and "one mean for all (https://example.org/7)" in done.stdout
    done = suite(*words, "--gc-port", "right.py")
    assert done.returncode == 1 and "listed as a known failure" in done.stdout


PROBE = """
import sys

def test_probe():
    loaded = {name.partition(".")[0] for name in sys.modules}
    assert "gc_conformance" in loaded
    assert not loaded & {"numpy", "hypothesis", "typer", "rich", "jsonschema", "torch", "jax"}
    assert not {name for name in sys.modules if name.startswith("gc_conformance.")} - {"gc_conformance.plugin"}
"""


def test_other_test_runs_are_left_alone(suite, ports):
    (ports / "test_probe.py").write_text(PROBE)
    done = suite("-W", "error", "test_probe.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout and "gc-conformance" not in done.stdout

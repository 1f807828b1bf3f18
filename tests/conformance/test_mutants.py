"""The suite can fail: every property rejects the wrong ports meant for it, and what it prints shows where."""

import contextlib
import io
import re

import numpy as np
import pytest

from gc_conformance import PROPERTIES
from gc_conformance.mutants import MUTANTS, kill


@pytest.fixture(scope="module")
def killed():
    """What the quickest profile says of each mutant."""
    return {name: kill(mutant, profile="quick") for name, mutant in MUTANTS.items()}


def test_each_mutant_is_killed_by_its_own_property_alone(killed):
    assert {name for name, result in killed.items() if result.status != "failed"} == set()
    assert all(result.id == MUTANTS[name].kills for name, result in killed.items())


@pytest.mark.parametrize(("profile", "turn"), [("standard", 0), ("thorough", 1)])
def test_half_of_them_by_each_longer_profile(profile, turn):
    """`gc-conformance mutants --profile ...` tries all of them."""
    some = list(MUTANTS.items())[turn::2]
    assert {name for name, mutant in some if kill(mutant, seed=1, profile=profile).status != "failed"} == set()


def test_there_is_a_mutant_for_each_property():
    assert {mutant.kills for mutant in MUTANTS.values()} == set(PROPERTIES)
    assert len(MUTANTS) >= 60


def printed(lines, port):
    """The numbers that some lines print. The port is an object of these tests, which no line can import."""
    head, *rest = lines.split("\n")
    assert head.endswith("port = ...  # the object that was judged")
    out = io.StringIO()
    with contextlib.redirect_stdout(out), np.errstate(all="ignore"):
        exec("\n".join([head.replace("port = ...", "pass"), *rest]), {"port": port})
    return [float(number) for number in re.findall(r"-?\d[\d.]*(?:e[+-]?\d+)?", out.getvalue())]


# Their numbers hang on every optimizer that there has been.
AFTER_ALL_CASES = {"StateOfTheClass", "BufferOfTheClass"}


def test_the_lines_show_what_the_message_says(killed):
    compared = 0
    for name, mutant in MUTANTS.items():
        result = killed[name]
        lines = len(result.reproduce.split("\n"))
        assert lines == 3 or (mutant.kills.startswith("switch.") and lines <= 10), name
        assert "gc_conformance" not in result.reproduce
        claimed = re.search(r" is (-?\d[\d.e+-]*), and must", result.message)
        if claimed and name not in AFTER_ALL_CASES:
            # Arrays are printed in as many digits as their dtype has, the message in those of a double.
            shown = np.isclose(printed(result.reproduce, mutant.make()), float(claimed[1]), rtol=1e-3, atol=0)
            assert shown.any(), (name, result)
            compared += 1
    assert compared > 100

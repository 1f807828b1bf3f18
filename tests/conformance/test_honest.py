"""The suite is fair: right ports pass, however they compute and however little they offer. Each has its own seed.

Some cases of each property; `python -m benchmarks.trust` tries as many as a profile has, with many seeds.
"""

import pytest

from gc_conformance import load_port
from gc_conformance.honest import HONEST, Straight
from gc_conformance.judging import judge
from gc_conformance.registry import PROPERTIES

CASES = 3


@pytest.mark.parametrize("number", range(len(HONEST)), ids=lambda n: getattr(HONEST[n], "name", "operator only"))
def test_an_honest_port_conforms(number):
    port = load_port(HONEST[number])
    results = [judge(prop, port, seed=number, examples=CASES) for prop in PROPERTIES.values()]
    assert [(one.id, one.message) for one in results if one.status == "failed"] == []
    assert {one.status for one in results} >= {"passed"}
    if type(HONEST[number]) is Straight:  # the contract written down is judged by every property; it refuses complex
        assert [one.id for one in results if one.status == "not provided"] == ["operator.complex"]

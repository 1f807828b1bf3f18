"""The suite is fair: right ports pass, however they compute and however little they offer. Each has its own seed."""

import pytest

from gc_conformance import run
from gc_conformance.honest import HONEST, Straight


@pytest.mark.parametrize("number", range(len(HONEST)), ids=lambda n: getattr(HONEST[n], "name", "operator only"))
def test_an_honest_port_conforms(number):
    result = run(HONEST[number], level="contract", profile="quick", seed=number)
    assert [(one.id, one.message) for one in result.failed] == []
    assert result.conforms
    if type(HONEST[number]) is Straight:  # the contract written down is judged by every property; it refuses complex
        assert [one.id for one in result.not_provided] == ["operator.complex"]

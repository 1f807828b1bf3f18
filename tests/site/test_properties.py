"""Every property of the conformance suite has its page."""

import pytest

from docs.extensions import properties
from gc_conformance.mutants import MUTANTS


def test_each_property_has_a_reason_and_each_reason_a_property():
    some = properties.groups()
    chosen = [properties.group_of(id, some)["why"] for id in properties.properties()]
    assert set(chosen) == {group["why"] for group in some}


@pytest.mark.parametrize("id", ["operator.definition", "layers.embedding", "optimizer.biases_left_alone"])
def test_a_page_says_what_why_and_how(id):
    prop = properties.properties()[id]
    mutants = [mutant for mutant in MUTANTS.values() if mutant.kills == id]
    body = properties.page(prop, properties.group_of(id, properties.groups()), mutants, ["a <port>"])
    assert mutants and all(mutant.name in body for mutant in mutants)
    assert prop.title.split(":")[0] in body and "How to mend it" in body and "a &lt;port&gt;" in body


def test_the_ports_that_fail_a_property_are_found_on_their_page():
    found = properties.found_in()
    assert set(found) <= set(properties.properties())
    assert "optax.centralize" in found["layers.embedding"]

"""API pages say of a field what its comment says, and not what Python says of every field."""

import pytest

from docs.extensions.docstrings import allow


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("gc_core.plan.Row.shape", "as stored"),
        ("gc_core.plan.Row.axes", "fan-in axes of the view; None – the gradient is left alone"),
        ("gc_core.plan.Row.verification", "what running the model has shown of it; empty if nobody asked"),
        ("gc_core.plan.Row.name", ""),
        ("gc_core.sgdm.SGDMState.momentum_buffer", "like the weight"),
    ],
)
def test_a_field_is_said_by_its_comment(field, said):
    lines = ["Alias for field number 3"]
    allow(None, "attribute", field, None, None, lines)
    assert lines == [said]
    lines = ["Something else."]
    allow(None, "attribute", field, None, None, lines)
    assert lines == ["Something else."]

"""The page "GC with the optimizer you use" says what a run of torch.optim says now."""

from pathlib import Path

import pytest

from examples.optimizers import of_torch, page
from examples.optimizers.found import Step, Verdict

PAGE = Path(__file__).parents[2] / "docs/optimizers.md"


@pytest.fixture(scope="module")
def found():
    return [of_torch.look_at(name) for name in of_torch.names()]


def test_the_page_says_what_is_found(found):
    said = page.verdicts(PAGE)
    now = {one.name: tuple(verdict.value for verdict in one.verdicts) for one in found}
    assert said.keys() >= {"SGD", "AdamW", "LBFGS", "SparseAdam", "Adafactor"}
    for name in said.keys() & now.keys():  # another release may have more or fewer
        assert now[name] == said[name], name


def test_means_are_conserved_where_the_step_is_said_to_have_none(found):
    for one in found:
        if one.step in (Step.LINEAR, Step.NEWTON):
            assert one.drift is not None and one.drift < 1e-12, one
        elif one.step in (Step.ELEMENTWISE, Step.FACTORED, Step.SIGN):
            assert one.drift is not None and one.drift > 1e-4, one


def test_an_optimizer_that_leaves_gc_out_is_seen(monkeypatch):
    class Nothing:
        def remove(self):
            pass

    monkeypatch.setattr(of_torch.gct, "attach", lambda *args, **options: Nothing())
    assert of_torch.look_at("SGD").verdicts == (Verdict.DIFFERENT, Verdict.DIFFERENT)

"""What a plan prints can be given back: every pattern stands for exactly the rows that it is shown for."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gc_core import Plan, Reason, Row, Why, layouts, patterns


def plan_of(names, axes):
    return Plan(
        Row(name, (4, 6), (4, 6), one, Why(Reason.STORED, stored=str(one)) if one else layouts.BIAS)
        for name, one in zip(names, axes, strict=True)
    )


def rows_given_back(plan):
    """Of each line that is printed, the names it says it is for, and those that its pattern hits as an override."""
    for pattern, rows in patterns.collapsed(plan.rows):
        hit = [row.name for row in plan.override({pattern: (0, 1)}).rows if row.why == f"override {pattern!r}"]
        yield pattern, [row.name for row in rows], hit


# Names as models have them: several numbers, of several digits, with what surrounds them alike or nearly so.
names = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["", "h.", "block_", "a.h."]),
    st.integers(0, 130),
    st.sampled_from([".w", ".conv", "_l", ".h.", "[x].", "*."]),
    st.one_of(st.just(""), st.integers(0, 12).map(str)),
    st.sampled_from(["", ".weight", ".weight_g"]),
)


@settings(max_examples=300)
@given(st.lists(names, unique=True, max_size=40), st.data())
def test_every_pattern_hits_its_rows_and_no_others(drawn, data):
    axes = data.draw(st.lists(st.sampled_from([None, (0,), (1,)]), min_size=len(drawn), max_size=len(drawn)))
    shown = list(rows_given_back(plan_of(drawn, axes)))
    for _, stands_for, hit in shown:
        assert hit == stands_for
    assert sorted(name for _, stands_for, _ in shown for name in stands_for) == sorted(drawn)
    assert len({pattern for pattern, _, _ in shown}) == len(shown)  # no pattern is printed twice


@given(st.integers(2, 40), st.integers(2, 5))
def test_alternating_layers(depth, period):
    """As in models with several kinds of layers by turns."""
    plan = plan_of([f"h.{i}.mix.w" for i in range(depth)], [(0,) if i % period else (1,) for i in range(depth)])
    shown = list(rows_given_back(plan))
    assert all(stands_for == hit for _, stands_for, hit in shown)
    assert len(shown) <= 2 * (2 + depth // 10)  # for each of two kinds, one line a ten


@pytest.mark.parametrize("mutant", ["a star for all numbers", "one pattern for all lengths"])
def test_a_pattern_that_hits_more_would_be_found(monkeypatch, mutant):
    if mutant == "a star for all numbers":
        monkeypatch.setattr(patterns, "exact", lambda names, every: [("*.weight", set(names))])
        names = ["0.weight", "1.weight", "2.weight"]
    else:
        monkeypatch.setattr(patterns, "exact", lambda names, every: [("h.[0-9]*.w", set(names))])
        names = ["h.0.w", "h.1.w", "h.10.w"]
    shown = list(rows_given_back(plan_of(names, [(0,), (0,), (1,)])))
    assert any(stands_for != hit for _, stands_for, hit in shown)


def test_what_is_printed_is_what_is_given_back():
    plan = plan_of(["0.weight", "1.weight", "2.weight"], [(0,), (0,), (1,)])
    lines = plan.to_text(80).splitlines()[-3:]
    assert [line.split("  ")[0] for line in lines[1:]] == ["[01].weight (2 alike)", "2.weight"]


def test_a_name_stands_for_itself_whatever_is_in_it():
    plan = plan_of(["a[0]", "a0", "b*", "bc"], [(0,)] * 4)
    for name in plan:
        hit = [row.name for row in plan.override({name: None}).rows if row.axes is None]
        assert hit == [name]
    assert fnmatchcase("a0", "a[0]")  # as a pattern it would be the other


def test_patterns_among_more_names_than_are_shown():
    """Those of a warning stand for what it names, in the whole plan."""
    plan = plan_of([f"h.{i}.w" for i in range(4)], [None, None, (0,), (0,)])
    left = [row for row in plan.rows if row.axes is None]
    assert [pattern for pattern, _ in patterns.collapsed(left, plan)] == ["h.[01].w"]
    assert [pattern for pattern, _ in patterns.collapsed(left)] == ["h.*.w"]

"""The heading counts what trains, and what is left out is warned of once, with the line that settles it."""

import json
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gc_core import GCWarning, Plan, Reason, Row, View, Why, layouts
from gc_core.left_out import left_out, warn_if_left_out
from gc_core.reasons import Verification, name_of, reason_of


def row(name, shape, view, frozen=False):
    return Row(name, shape, *view, frozen=frozen)


def weight(name, shape=(8, 4), **more):
    return row(name, shape, layouts.out_first(shape), **more)


def unknown(name, shape=(8, 4), why=layouts.UNKNOWN, **more):
    return row(name, shape, layouts.left_alone(shape, why), **more)


def head(plan):
    return " ".join(plan.to_text(100).split("\n\n")[0].split())


def test_frozen_parameters_are_counted_apart():
    frozen = [weight("a.weight", frozen=True), unknown("a.bias", (8,), layouts.BIAS, frozen=True)]
    plan = Plan([*frozen, *(one._replace(name=f"b{one.name}") for one in frozen), unknown("mix")])
    assert head(plan).startswith("GC applies to 0 of 1 trainable (4 frozen) tensors (0 of 32 elements):")
    assert "(frozen)" in plan.to_text(200)
    assert head(Plan([weight("w"), unknown("mix")])).startswith("GC applies to 1 of 2 tensors (32 of 64 elements):")


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(1, 9)), max_size=12))
def test_the_heading_counts_what_trains(drawn):
    rows = [
        (weight if on else unknown)(f"p{i}", (size, 3), frozen=frozen) for i, (on, frozen, size) in enumerate(drawn)
    ]
    trained = [size for _, frozen, size in drawn if not frozen]
    on = [size for on, frozen, size in drawn if on and not frozen]
    frozen = len(drawn) - len(trained)
    of = f"{len(trained)} trainable ({frozen} frozen)" if frozen else f"{len(trained)}"
    wanted = f"GC applies to {len(on)} of {of} tensors ({3 * sum(on):,} of {3 * sum(trained):,} elements):"
    assert head(Plan(rows)).startswith(wanted)


UNKNOWN = st.sampled_from([Reason.UNKNOWN, Reason.PARAMETRIZED])


@given(st.lists(st.tuples(st.sampled_from("wubo"), st.integers(1, 60), st.booleans()), max_size=10))
def test_a_warning_where_more_than_a_tenth_is_unknown_or_nothing_is_on(drawn):
    made = {
        "w": weight,
        "u": unknown,
        "b": lambda name, shape, **more: unknown(name, shape, layouts.BIAS, **more),
        "o": lambda name, shape, **more: unknown(name, shape, Why(Reason.OVERRIDE, pattern=name), **more),
    }
    plan = Plan(made[kind](f"p.{i}", (size, 2), frozen=frozen) for i, (kind, size, frozen) in enumerate(drawn))
    trained = [(kind, size) for kind, size, frozen in drawn if not frozen]
    size = sum(size for _, size in trained)
    left = sum(size for kind, size in trained if kind == "u")
    on, meant = (any(kind == one for kind, _ in trained) for one in "wo")
    nothing = not on and not meant and bool(trained)
    text = left_out(plan, "ask(…)")
    assert (text is not None) == (nothing or left > size / 10)
    if text is not None and left:
        assert "ask(…)" in text and "overrides=" in text


def test_what_the_warning_says():
    rows = [weight("stem"), *(unknown(f"h.{i}.mix", (8, 8)) for i in range(12)), unknown("gate", (3, 3))]
    with pytest.warns(GCWarning) as caught:
        warn_if_left_out(Plan(rows), "gct.plan(model, batch=…)")
    text = str(caught[0].message)
    assert text.startswith("GC leaves out 96% of what trains") and len(caught) == 1
    assert math.isclose((12 * 64 + 9) / (32 + 12 * 64 + 9), 0.96, abs_tol=0.005)
    assert "h.*.mix (8×8, 12 alike), gate (3×3)" in text
    assert "gct.plan(model, batch=…)" in text and "overrides={'h.*.mix': axes}" in text
    assert caught[0].filename == __file__


def test_what_is_meant_is_not_warned_of():
    plan = Plan([weight("a"), unknown("mix")])
    assert left_out(plan, "") is not None
    assert left_out(plan.override({"mix": None}), "") is None
    assert left_out(plan.override({"*": None}), "") is None
    assert left_out(Plan([]), "") is None
    assert left_out(Plan([weight("a", frozen=True)]), "") is None  # nothing trains at all


def test_a_reason_is_a_value():
    why = Why(Reason.LAYER, " (also b)", layer="Linear", stored="(out, in)")
    assert why == "Linear, stored (out, in) (also b)" and reason_of(why) is Reason.LAYER
    again = pickle.loads(pickle.dumps(why))
    assert again == why and again.details == why.details and again.plus("!") == why + "!"
    assert name_of("my own words") is None
    rows = [Row("a", (8, 4), *layouts.out_first((8, 4)), verification=Why(Verification.VERIFIED))]
    one = json.loads(json.dumps(Plan(rows).to_dicts()))[0]
    assert one["reason"] == "STORED" and one["shown"] == "VERIFIED"
    assert all(type(value) in (str, int, bool, list, type(None)) for value in one.values())
    assert type(Plan(rows).to_dicts()[0]["why"]) is str


def test_an_override_keeps_what_it_is_not_about():
    one = Plan([weight("a", frozen=True)._replace(verification="seen")]).override({"a": View((32,), (0,))})["a"]
    assert one.frozen and one.verification == "" and one.axes == (0,)

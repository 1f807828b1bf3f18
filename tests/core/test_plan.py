"""The plan: its rows, how they are overridden, and the table that a person reads."""

import itertools
import json
import math

import numpy as np
import pytest

from gc_core import Plan, Row, View, layouts


def row(name, rule, shape, *args):
    view = rule(shape, *args)
    return Row(name, tuple(shape), view.shape, view.axes, view.why)


def left_alone(name, shape, why):
    return row(name, layouts.left_alone, shape, why)


def model():
    """Some of everything: an embedding, stacked blocks, a grouped transposed convolution, and a long name."""
    rows = [left_alone("transformer.wte.weight", (50257, 768), layouts.EMBEDDING)]
    for i in range(12):
        rows.append(row(f"transformer.h.{i}.attn.c_attn.weight", layouts.out_last, (768, 2304)))
        rows.append(left_alone(f"transformer.h.{i}.attn.c_attn.bias", (2304,), layouts.BIAS))
    rows.append(row("decoder.up.weight", layouts.in_out, (64, 16, 2, 2), 4))
    rows.append(row("stem.0.weight", layouts.out_first, (64, 3, 7, 7)))
    rows.append(row("stem.1.weight", layouts.out_first, (64, 64, 3, 3)))
    rows.append(left_alone("gamma", (), layouts.UNKNOWN))
    rows.append(
        left_alone(
            "a_parameter_with_an_unusually_long_name_without_any_dots_in_it.weight_g", (64, 1), layouts.MAGNITUDE
        )
    )
    return Plan(rows)


def test_a_plan_is_a_mapping_by_name():
    plan = model()
    assert len(plan) == len(plan.rows) == 30
    assert list(plan) == [row.name for row in plan.rows]
    assert plan["stem.0.weight"].axes == (1, 2, 3) and "nothing" not in plan
    with pytest.raises(KeyError):
        plan["nothing"]


def test_fan_in():
    plan = model()
    for name, fan_in in [("stem.0.weight", 147), ("decoder.up.weight", 16 * 4), ("gamma", None)]:
        assert plan[name].fan_in == fan_in


def test_rows_as_data():
    dicts = model().to_dicts()
    assert json.loads(json.dumps(dicts)) == [
        {key: list(value) if isinstance(value, tuple) else value for key, value in one.items()} for one in dicts
    ]
    assert dicts[-3]["name"] == "stem.1.weight" and dicts[-3]["fan_in"] == 576


# ---- Overrides


def test_no_overrides():
    plan = model()
    assert plan.override(None) is plan
    assert plan.override({}).rows == plan.rows


def test_an_override_replaces_what_it_matches_and_nothing_else():
    plan = model()
    changed = plan.override(
        {"transformer.h.*.c_attn.weight": None, "transformer.wte.weight": 1, "stem.?.weight": (-1, 2)}
    )
    for before, after in zip(plan.rows, changed.rows, strict=True):
        assert after.name == before.name and after.shape == before.shape
        if before.name.endswith("c_attn.weight"):
            assert after.axes is None and after.why == "override 'transformer.h.*.c_attn.weight'"
        elif before.name == "transformer.wte.weight":
            assert after.axes == (1,)
        elif before.name.startswith("stem"):
            assert after.axes == (2, 3)
        else:
            assert after == before
    assert plan.rows == model().rows  # the plan itself stays


def test_the_last_pattern_that_matches_wins():
    plan = model()
    assert plan.override({"*": None, "stem.0.*": 0})["stem.0.weight"].axes == (0,)
    assert plan.override({"stem.0.*": 0, "*": None})["stem.0.weight"].axes is None
    assert plan.override({"stem.0.*": 0}).override({"stem.*": 1})["stem.0.weight"].axes == (1,)


def test_an_override_by_view():
    plan = model()
    view = View((4, 16, 16, 2, 2), (1, 3, -1), "")
    changed = plan.override({"decoder.up.weight": None}).override({"decoder.*": view})["decoder.up.weight"]
    assert (changed.shape, changed.view, changed.axes) == ((64, 16, 2, 2), (4, 16, 16, 2, 2), (1, 3, 4))
    assert plan.override({"decoder.*": View((64, 64), None, "")})["decoder.up.weight"].axes is None


def test_an_override_by_axes_is_about_the_stored_shape():
    changed = model().override({"decoder.*": (0, 2, 3)})["decoder.up.weight"]
    assert changed.view == changed.shape == (64, 16, 2, 2)


def test_patterns_are_case_sensitive():
    with pytest.raises(ValueError, match=r"'STEM\.\*'"):
        model().override({"STEM.*": None})


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        ([("stem", None)], TypeError, ["overrides", "list"]),
        ("stem", TypeError, ["overrides", "str"]),
        ({1: None}, TypeError, ["pattern", "1"]),
        ({"nothing.*": None}, ValueError, ["'nothing.*'", "matches no parameter", "'transformer.wte.weight'"]),
        ({"": None}, ValueError, ["''", "matches no parameter"]),
        ({"stem.0.weight": 4}, ValueError, ["overrides['stem.0.weight']", "'stem.0.weight'", "4", "(64, 3, 7, 7)"]),
        ({"stem.*": (0, 0)}, ValueError, ["overrides['stem.*']", "(0, 0)"]),
        ({"stem.*": ()}, ValueError, ["overrides['stem.*']", "at least one axis"]),
        ({"stem.*": "out_first"}, TypeError, ["overrides['stem.*']", "'out_first'"]),
        ({"stem.*": True}, TypeError, ["overrides['stem.*']", "True"]),
        ({"stem.*": [1]}, TypeError, ["overrides['stem.*']", "[1]"]),
        ({"gamma": 0}, ValueError, ["overrides['gamma']", "0", "()"]),
        ({"stem.0.*": View((3, 3), (1,), "")}, ValueError, ["overrides['stem.0.*']", "(64, 3, 7, 7)", "(3, 3)"]),
        ({"stem.0.*": View((64, 147), (2,), "")}, ValueError, ["overrides['stem.0.*']", "2", "(64, 147)"]),
        ({"stem.0.*": View((-1, 147), (1,), "")}, ValueError, ["overrides['stem.0.*']", "(-1, 147)"]),
        ({"stem.0.*": View((-64, -147), (1,), "")}, ValueError, ["overrides['stem.0.*']", "(-64, -147)"]),
    ],
)
def test_a_bad_override(overrides, error, words):
    plan = model()
    with pytest.raises(error) as caught:
        plan.override(overrides)
    for word in words:
        assert word in str(caught.value)
    assert plan.rows == model().rows


# ---- The table


def cells(text):
    """The lines of the table under the head, cut where its title line begins a column."""
    lines = text.split("\n\n", 1)[1].splitlines()
    edges = [0]
    for title in ("shape", "mean", "why"):
        edges.append(lines[0].index(title))
    edges.append(10_000)
    rows = []
    for line in lines:
        assert all(line[edge - 2 : edge].strip() == "" for edge in edges[1:-1]), f"cells touch: {line!r}"
        rows.append([line[a:b].strip() for a, b in itertools.pairwise(edges)])
    return rows


@pytest.mark.parametrize("width", range(40, 201))
def test_the_table_fits_any_terminal(width):
    text = model().to_text(width)
    assert max(map(len, text.splitlines())) <= width
    squeezed = "".join("".join(column) for column in zip(*cells(text), strict=True)).replace(" ", "")
    for word in ("transformer.h.*.attn.c_attn.weight(12alike)", "50257×768", "axes1,3,4", "4×16×16×2×2", "scalar"):
        assert word in squeezed, f"{word} is lost at a width of {width}"


def test_below_forty_columns_the_table_has_forty():
    assert model().to_text(10) == model().to_text(40)


def test_the_table_takes_the_terminals_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "77")
    assert str(model()) == repr(model()) == model().to_text(77)


def test_rows_that_differ_in_numbers_alone_are_one():
    table = cells(model().to_text(200))
    names = [line[0] for line in table]
    assert names[:4] == [
        "parameter",
        "transformer.wte.weight",
        "transformer.h.*.attn.c_attn.weight (12 alike)",
        "transformer.h.*.attn.c_attn.bias (12 alike)",
    ]
    assert "stem.0.weight" in names and "stem.1.weight" in names  # of different shapes
    assert len(table) == 1 + 8


def test_rows_with_an_override_stand_apart():
    plan = model().override({"transformer.h.3.*weight": None})
    names = [line[0] for line in cells(plan.to_text(200))]
    assert "transformer.h.[0-24-9].attn.c_attn.weight (9 alike)" in names
    assert "transformer.h.1[01].attn.c_attn.weight (2 alike)" in names
    assert "transformer.h.3.attn.c_attn.weight" in names


def test_a_collapsed_name_is_a_pattern_for_its_rows():
    plan = model()
    for shown, *_ in cells(plan.to_text(200))[1:]:
        name, _, alike = shown.partition(" (")
        changed = [row for row in plan.override({name: None}).rows if row.why == f"override {name!r}"]
        assert len(changed) == int(alike.split()[0] if alike else 1)


def test_two_stacks_collapse_to_one_row_each():
    rows = [row(f"stage.{i}.block.{j}.weight", layouts.out_first, (8, 4 + i)) for i in range(2) for j in range(3)]
    names = [line[0] for line in cells(Plan(rows).to_text(120))[1:]]
    assert names == ["stage.0.block.*.weight (3 alike)", "stage.1.block.*.weight (3 alike)"]


def test_the_head_counts_parameters_and_numbers():
    plan = model()
    on = [row for row in plan.rows if row.axes is not None]
    numbers, of = (sum(math.prod(row.shape) for row in rows) for rows in (on, plan.rows))
    head = " ".join(plan.to_text(100).split("\n\n")[0].split())
    assert head.startswith(f"GC applies to {len(on)} of 30 tensors ({numbers:,} of {of:,} elements)")


def test_an_empty_plan_prints():
    assert "GC applies to 0 of 0 tensors" in str(Plan([]))


def test_views_of_a_plan_can_be_centralized():
    for one in model().rows:
        if one.axes is not None and math.prod(one.shape) < 1e5:
            assert np.zeros(one.shape).reshape(one.view).mean(one.axes).size * one.fan_in == math.prod(one.shape)

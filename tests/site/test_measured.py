"""The page of speeds shows what the result files hold, and says so where there is nothing."""

import json
from dataclasses import asdict
from pathlib import Path

from benchmarks import harness
from docs.extensions import measured

ROOT = Path(__file__).parents[2]


def test_no_results(monkeypatch, tmp_path):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    assert "No measurement is kept" in measured.tables()


def test_tables_of_results(monkeypatch, tmp_path):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    seconds = {"base": [0.004, 0.001, 0.002], "ours": [0.001, 0.003, 0.001], harness.AGAIN: [0.002, 0.002, 0.004]}
    case = harness.Case("net, Adam", "base", numbers=1000, tensors=3, floor=28000, seconds=seconds)
    harness.save("cpu_step", {"cpu": "some", "versions": {"numpy": "2"}}, [case])
    text = measured.tables()
    assert "cpu some, numpy 2." in text and "3 tensors, 1,000 elements" in text
    assert "| base | 2.00 | 1 |  | 0.0 |" in text  # the median of 4, 1 and 2 ms
    assert "| ours | 1.00 | 0.50 |" in text
    assert "<svg" in text and "None of these was measured on a GPU" in text
    # A run on a GPU keeps its cases by part, some of which may not have been run.
    speed = {"torch": {"status": "measured", "cases": [asdict(case)]}, "jax": {"status": "not run"}}
    about = {"name": "some GPU", "GiB": 79.2, "also there": ["cupy"], "versions": {}}
    (tmp_path / "gpu-some.json").write_text(json.dumps({"about": about, "speed": speed}))
    text = measured.tables()
    assert "None of these" not in text and text.count("<svg") == 2
    assert "### torch" in text and "### jax" not in text and "name some GPU, GiB 79.2, also there cupy." in text


def test_figures_by_model(monkeypatch, tmp_path):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    (tmp_path / "plan_time.json").write_text(json.dumps({"net": {"parameters": 1234, "plan_seconds": 0.256}}))
    assert "| model | parameters | plan seconds |" in measured.tables()
    assert "| net | 1,234 | 0.26 |" in measured.tables()


def test_every_result_that_is_kept_is_shown():
    text = measured.tables() + measured.computed()
    kept = [file for file in harness.RESULTS.glob("*.json") if file.stem != measured.COMPUTED]
    assert kept and all(f"## {measured.heading(file)}\n" in text for file in kept)


def test_the_page_has_a_place_for_them():
    assert (ROOT / "docs/speed.md").read_text().count(measured.MARK) == 1


def test_figures_of_any_shape_are_shown(monkeypatch, tmp_path):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    nested = {"net": {"parameters": 1234, "seconds": {"plan": 2.5}, "each_time": [1, 2]}}
    (tmp_path / "jax_plan_time.json").write_text(json.dumps(nested))
    found = {
        "machine": {"cpu": "some"},
        "threads": 1,
        "steps": [{"way": "a", "ratio": 0.001}, {"way": "b", "lost": None}],
    }
    (tmp_path / "low_precision.json").write_text(json.dumps(found))
    text = measured.tables()
    assert "| model | parameters | seconds: plan |" in text and "| net | 1,234 | 2.50 |" in text
    assert "machine cpu some." in text and "threads 1." in text
    assert "| way | ratio | lost |" in text and "| a | 1.0e-03 |  |" in text and "| b |  |  |" in text

"""`make gpu` without a GPU: the program runs, a little of each kind, and says what it could not run."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")  # an extra, which the tests always have

from benchmarks import gpu


@pytest.fixture
def run(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    one = gpu.Run("cpu", small=True)
    with one.caches:
        yield one


def test_a_little_of_everything(monkeypatch, capsys, run):
    every = gpu.jobs
    monkeypatch.setattr(gpu, "JOBS", {"triton": 1})
    monkeypatch.setattr(gpu, "jobs", lambda run: (job for job in every(run) if not job[0].startswith("compiled")))
    monkeypatch.setattr(gpu, "PARTS", {"sizes": 200})
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--small"])
    with pytest.raises(SystemExit) as done:
        gpu.main()
    said = capsys.readouterr().out
    assert done.value.code == 0, said
    found = json.loads((run.folder / "gpu-cpu.json").read_text())
    states = {name: one["status"] for name, one in found["judged"].items()}
    assert states == {"kernel tests": "passed", "sanitizer": "not run", "triton 1/1": "passed"}
    assert found["judged"]["triton 1/1"]["passed"] == ["sgdm.rule", "adam.rule", "optimizer.adamw"]
    assert found["speed"]["sizes"]["status"] == "measured"
    names = [case["name"] for case in found["speed"]["sizes"]["cases"]]
    assert names[0] == "parameters 2^10, float32, Adam"
    assert "A trial without a GPU" in said and "gc_torch" in said and " met" not in said and "missed" not in said


def test_what_failed_and_what_was_not_run_are_told_apart(monkeypatch, run):
    monkeypatch.setattr(
        gpu, "jobs",
        lambda run: [
            ("functions 1/1", [sys.executable, "-c", "raise ModuleNotFoundError('No module named cupy')"]),
            ("foreach 1/1", [sys.executable, "-c", "raise ValueError('wrong')"]),
            ("fused 1/1", [sys.executable, "-c", "import time; time.sleep(600)"]),
            ("sanitizer", []),
        ],
    )  # fmt: skip
    monkeypatch.setattr(gpu, "JUDGED", 10)  # seconds, of which the first two need hardly any
    gpu.judge(run)
    states = {name: one["status"] for name, one in run.results["judged"].items()}
    assert states == {
        "functions 1/1": "not run", "foreach 1/1": "failed", "fused 1/1": "not run", "sanitizer": "not run"
    }  # fmt: skip
    assert gpu.failed(run)
    del run.results["judged"]["foreach 1/1"]
    assert not gpu.failed(run)


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit, match="sees no GPU"):
        gpu.main()

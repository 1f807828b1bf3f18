"""`make gpu` without a GPU: the program runs, a little of each, says what it could not run, and survives a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")  # an extra, which the tests always have

from benchmarks import gpu
from benchmarks.gpu_run import Run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(monkeypatch):
    monkeypatch.chdir(ROOT)
    one = Run("cpu", small=True, limit=gpu.LIMIT)
    yield one
    one.close()


def test_a_little_of_everything(monkeypatch, capsys, run):
    every = gpu.jobs
    monkeypatch.setattr(gpu, "JOBS", {"triton": 1})
    monkeypatch.setattr(gpu, "jobs", lambda run: (job for job in every(run) if not job[0].startswith("compiled")))
    monkeypatch.setattr(gpu, "PARTS", {"sizes": 200})
    monkeypatch.setattr(signal, "signal", lambda *rest: None)
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--small"])
    with pytest.raises(SystemExit) as done:
        gpu.main()
    said = capsys.readouterr().out
    assert done.value.code == 0, said
    found = json.loads((run.folder / "gpu-cpu.json").read_text())
    states = {name: one["status"] for name, one in found["judged"].items()}
    assert states == {"kernel tests": "passed", "triton 1/1": "passed", "sanitizer": "not run"}
    assert found["judged"]["kernel tests"]["tests passed"] == 1
    assert found["judged"]["triton 1/1"]["passed"] == ["sgdm.rule", "adam.rule", "optimizer.adamw"]
    assert found["speed"]["sizes"]["status"] == "measured"
    names = [case["name"] for case in found["speed"]["sizes"]["cases"]]
    assert names[0] == "parameters 2^10, float32, Adam"
    assert "A trial without a GPU" in said and "gc_torch" in said and " met" not in said and "missed" not in said


def test_the_order_is_that_of_worth_and_fits_its_time(run):
    names = list(dict.fromkeys(name.split()[0] for name, _ in gpu.jobs(run)))
    assert names[0] == "kernel" and names[-1] == "sanitizer" and set(gpu.JOBS) < set(names)
    assert list(gpu.PARTS) == ["torch", "sizes", "layouts", "start", "training", "jax", "cupy"]
    first = list(gpu.PARTS.values())[:5]
    assert gpu.JUDGED + sum(first) + 10 < gpu.LIMIT < 540


def python(code):
    return [sys.executable, "-c", code]


VERDICT = dict(id="a", status="passed", cases=3, message="", counterexample="", profile="quick", seed=1, dtypes=[])
CUT_OFF = (
    f"import time; print({json.dumps(VERDICT)!r}); print({json.dumps(VERDICT)[:20]!r}, flush=True); time.sleep(600)"
)


def test_what_failed_and_what_was_not_run_are_told_apart(monkeypatch, run):
    jobs = [
        ("functions 1/1", python("raise ModuleNotFoundError('No module named cupy')")),
        ("kernel tests", [sys.executable, "-m", "no_such_pytest"]),
        ("foreach 1/1", python("raise ValueError('wrong')")),
        ("fused 1/1", python("import time; time.sleep(600)")),
        ("graph 1/1", [*python(CUT_OFF), "benchmarks.gpu_ports", "a", "b"]),
        ("sanitizer", "it is not installed"),
    ]  # fmt: skip
    monkeypatch.setattr(gpu, "jobs", lambda run: jobs)
    monkeypatch.setattr(gpu, "JUDGED", 10)  # seconds, of which the first three need hardly any
    gpu.judge(run)
    states = {name: one["status"] for name, one in run.results["judged"].items()}
    assert states == {
        "functions 1/1": "not run", "kernel tests": "not run", "foreach 1/1": "failed", "fused 1/1": "not run",
        "graph 1/1": "in part", "sanitizer": "not run",
    }  # fmt: skip
    assert run.results["judged"]["graph 1/1"]["passed"] == ["a"]
    assert gpu.failed(run)
    del run.results["judged"]["foreach 1/1"]
    assert not gpu.failed(run)


def test_without_the_suite_the_rest_is_run(monkeypatch, run):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    for name in [name for name in sys.modules if name.startswith("gc_conformance")]:
        monkeypatch.delitem(sys.modules, name)
    found = dict(gpu.jobs(run))
    assert "hypothesis" in found["triton"] and isinstance(found["kernel tests"], list)


# In a process of its own: two jobs, of which one ends at once and the other starts a grandchild and waits.
KILLED = """
import sys
from benchmarks import gpu
from benchmarks.gpu_run import Run
run = Run("cpu", True, 500)
child = "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
child += "; open(sys.argv[1], 'w').write(str(p.pid)); time.sleep(600)"
gpu.jobs = lambda run: [
    ("compiled 1/1", [sys.executable, "-c", "print('done')"]),
    ("functions 1/1", [sys.executable, "-c", child, sys.argv[1]]),
]
gpu.judge(run)
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="groups of processes are POSIX's")
def test_a_kill_at_any_moment_keeps_what_was_done_and_leaves_nobody(tmp_path):
    folders = [str(ROOT), str(ROOT / "backends"), str(ROOT / "conformance")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    pid = tmp_path / "pid"
    program = subprocess.Popen([*python(KILLED), str(pid)], cwd=tmp_path, env=environment)
    results = tmp_path / "runs/gpu_trial/gpu-cpu.json"
    wait_for(lambda: pid.exists() and pid.read_text() and results.exists())
    wait_for(lambda: set(json.loads(results.read_text())["judged"]) == {"compiled 1/1", "functions 1/1"})
    program.send_signal(signal.SIGKILL)
    program.wait()
    found = json.loads(results.read_text())["judged"]
    assert found["compiled 1/1"]["status"] == "done" and found["functions 1/1"]["status"] == "not done"
    wait_for(lambda: not alive(int(pid.read_text())))


def wait_for(happened):
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(pid):
    """Whether it runs; one that nobody has waited for yet does not."""
    state = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        return state.exists() and state.read_text().rpartition(")")[2].split()[0] not in "ZX"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit, match="sees no GPU"):
        gpu.main()

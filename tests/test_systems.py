"""What only some systems have: each use is listed here, is guarded, and goes on where it is simulated as absent."""

import ast
import builtins
import ctypes
import importlib
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
# Names and texts that Windows, and often macOS, do not have.
SOME = re.compile(
    r"\b(register_at_fork|fork|forkpty|killpg|getloadavg|sched_getaffinity|setitimer|SIGALRM|SIGKILL|getuid|uname"
    r"|GOMP_parallel|malloc_trim|sched_yield|fcntl|pty|termios|tty|resource|grp|pwd)\b|^/(proc|sys|dev)/"
)
USES = {  # file: what it uses, and what happens without it
    "backends/gc_torch/kernels_cpu/threads.py": {
        "GOMP_parallel": "the kernel is unavailable, the next path is taken",
        "register_at_fork": "nothing forks",
    },
    "backends/gc_torch/kernels_cpu/compiling.py": {"sched_yield": "a thread that waits does not yield"},
    "conformance/gc_conformance/process.py": {
        "killpg": "the worker alone is ended",
        "SIGKILL": "the worker alone is ended",
    },
    "conformance/gc_conformance/runner.py": {
        "SIGALRM": "a call in this process has no limit",
        "setitimer": "a call in this process has no limit",
    },
    "benchmarks/gpu.py": {"sched_getaffinity": "all cores are counted"},
    "benchmarks/gpu_run.py": {"killpg": "the process alone is ended", "SIGKILL": "the process alone is ended"},
    "benchmarks/harness.py": {
        "malloc_trim": "it says that memory is not measured here",
        "/proc/": "it says that memory is not measured here; the processor has the name that Python knows",
    },
    "examples/evidence/cell.py": {"/proc/": "the processor has the name that Python knows"},
    "examples/evidence/runner.py": {
        "fcntl": "nothing keeps two commands apart",
        "getloadavg": "all cores are counted as free",
        "sched_getaffinity": "all cores are counted",
    },
    "examples/zoo/__main__.py": {"SIGALRM": "a model may take any time"},
}


def uses(file):
    """The names, attributes, imports and whole texts of a program that some systems do not have."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Attribute(attr=word) | ast.alias(name=word):
                pass
            case ast.Constant(value=str(word)) if len(word.split()) == 1:
                pass
            case _:
                continue
        if found := SOME.search(word):
            yield "/proc/" if found[0].startswith("/") else found[0]


def test_every_use_is_listed():
    found = {}
    for folder in ("gc_core", "backends", "conformance", "benchmarks", "examples"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            if here := set(uses(file)):
                found[file.relative_to(ROOT).as_posix()] = here
    assert found == {file: set(names) for file, names in USES.items()}


def without(monkeypatch, module, *names):
    for name in names:
        monkeypatch.delattr(module, name, raising=False)


class OtherLibrary:
    """As `ctypes.CDLL` where a symbol is absent, or where there is no library of the process (`None`: Windows)."""

    def __init__(self, name=None, error=None):
        if error is not None:
            raise error


@pytest.mark.parametrize("error", [None, TypeError("bad argument"), OSError("not found")])
def test_no_symbol_to_yield_and_no_openmp(monkeypatch, error):
    pytest.importorskip("torch")
    numba = pytest.importorskip("numba")
    compiling = pytest.importorskip("gc_torch.kernels_cpu.compiling")
    threads = importlib.import_module("gc_torch.kernels_cpu.threads")
    from gc_torch.path import Unavailable

    absent = lambda name=None: OtherLibrary(name, error)  # noqa: E731
    nothing = compiling._yielding(absent)
    assert numba.njit(lambda: nothing())() == 0  # as it is called: by what is compiled
    monkeypatch.setattr(threads, "ctypes", SimpleNamespace(CDLL=absent))
    with pytest.raises(Unavailable):
        threads._find()


def test_no_fork(monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("numba")
    threads = pytest.importorskip("gc_torch.kernels_cpu.threads")
    without(monkeypatch, os, "fork", "register_at_fork")
    spec = importlib.util.spec_from_file_location("gc_torch_threads_without_fork", threads.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)  # the whole page, as it is where nothing forks
    assert fresh.at_most() >= 1


def test_no_memory_to_be_measured(monkeypatch):
    harness = importlib.import_module("benchmarks.harness")
    for error in (None, TypeError(), OSError()):
        monkeypatch.setattr(
            harness, "ctypes", SimpleNamespace(CDLL=lambda name, error=error: OtherLibrary(name, error))
        )
        with pytest.raises(NotImplementedError, match="on Linux with glibc alone"):
            harness.peak_beyond(lambda: pytest.fail("the step was taken"))


def no_proc(monkeypatch):
    exists, read = Path.exists, Path.read_text
    hidden = lambda path: path.as_posix().startswith("/proc/")  # noqa: E731

    def text(path, *words, **more):
        if hidden(path):
            raise FileNotFoundError(path)
        return read(path, *words, **more)

    monkeypatch.setattr(Path, "exists", lambda path, **more: not hidden(path) and exists(path, **more))
    monkeypatch.setattr(Path, "read_text", text)


def test_no_proc(monkeypatch):
    no_proc(monkeypatch)
    machine = importlib.import_module("benchmarks.harness").machine()
    assert machine
    cell = pytest.importorskip("examples.evidence.cell")
    assert cell.processor()


def test_no_locks_and_no_load(monkeypatch, tmp_path):
    runner = pytest.importorskip("examples.evidence.runner")
    without(monkeypatch, os, "getloadavg", "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert runner.free_cores() == 3
    real = builtins.__import__

    def absent(name, *words):
        if name == "fcntl":
            raise ImportError(name)
        return real(name, *words)

    monkeypatch.setattr(builtins, "__import__", absent)
    spec = importlib.util.spec_from_file_location("examples.evidence.runner_without_locks", runner.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    with fresh.alone(tmp_path / "cache"):
        assert (tmp_path / "cache" / "lock").exists()


def test_no_alarm(monkeypatch):
    without(monkeypatch, signal, "SIGALRM", "setitimer", "alarm")
    runner = importlib.import_module("gc_conformance.runner")
    alarm = runner.Alarm(0.001)
    with alarm.ready(), alarm:
        assert not alarm.ours
    zoo = pytest.importorskip("examples.zoo.__main__")
    assert zoo._within(lambda: "done", "late") == "done"


class Process:
    pid, stdin, stdout, stderr, killed = -1, None, None, None, False

    def kill(self):
        self.killed = True

    def wait(self):
        pass


def test_no_group_of_processes(monkeypatch):
    process = pytest.importorskip("gc_conformance.process")
    without(monkeypatch, os, "killpg")
    monkeypatch.setattr(process, "os", SimpleNamespace(name="nt"))
    child, closed = Process(), SimpleNamespace(close=lambda: None)
    child.stdin = child.stdout = child.stderr = closed
    process.Worker._kill(SimpleNamespace(_process=child, _reader=SimpleNamespace(join=lambda seconds: None)))
    assert child.killed


def test_the_library_of_this_process_is_still_asked():
    """Or the tests above would hold where nothing is ever found."""
    if os.name == "posix":
        pytest.importorskip("torch")
        pytest.importorskip("numba")
        compiling = pytest.importorskip("gc_torch.kernels_cpu.compiling")
        assert type(compiling._yielding(ctypes.CDLL)).__name__ == "ExternalFunction"

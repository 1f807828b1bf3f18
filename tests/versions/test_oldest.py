"""A first step with the oldest PyTorch, where it is at hand: `python -m tests.versions --keep "torch 2.6"`."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from gc_core import versions
from tests.versions.installs import TORCH
from tests.versions.page import page

ROOT = Path(__file__).parents[2]
OLDEST = ROOT / ".venv-versions/torch-2-6--the-oldest/bin/python"


def test_a_step_with_the_oldest_torch():
    python = os.environ.get("GC_OLDEST_TORCH") or (str(OLDEST) if OLDEST.exists() else "")
    if not python:
        pytest.skip("no environment with the oldest PyTorch is at hand (GC_OLDEST_TORCH names its Python)")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "backends")])}
    code = TORCH + f"from gc_core import versions as v; assert v.release(torch.__version__)[:2] == {(2, 6)}"
    done = subprocess.run([python, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("framework", ["torch", "jax", "optax", "cupy", "numpy"])
def test_a_release_below_the_range_is_refused_in_one_sentence(monkeypatch, framework):
    old = SimpleNamespace(import_module=lambda name: SimpleNamespace(__version__="0.0.1"))
    monkeypatch.setattr(versions, "importlib", old)
    with pytest.raises(ImportError, match=rf"gc_x needs {framework} [\d.]+ or newer; here is 0\.0\.1, .*: pip install"):
        versions.require("gc_x", framework)


def test_a_framework_that_is_not_there_is_named_with_a_command(monkeypatch):
    monkeypatch.setitem(versions.OLDEST, "no_such_framework", "1.0")
    with pytest.raises(ModuleNotFoundError, match=r"none here: pip install 'no_such_framework>=1\.0'") as error:
        versions.require("gc_x", "no_such_framework")
    assert error.value.name == "no_such_framework"


def test_the_page_says_only_what_was_run():
    table = {
        "environment": [
            {"name": "one", "python": "3.11", "needs": ["torch==2.6.0"]},
            {"name": "two", "python": "3.14", "needs": ["torch"]},
        ],
        "not_tested": {"Windows": "no such machine"},
    }
    result = {
        "passed": 1234,
        "failed": ["tests.a::b"],
        "skipped": 1,
        "not run": ["no GPU"],
        "packages": {"torch": "2.6"},
        "python": "3.11.7",
        "system": "Linux x86_64",
        "date": "2026-01-02",
    }
    text = page(table, {"one": result})
    assert "| one | 3.11.7 | torch 2.6 | 1,234 | 1 | 1 | Linux x86_64 | 2026-01-02 |" in text
    assert "| two | 3.14 | torch | not tested |" in text
    assert "| Windows | | | not tested: no such machine |" in text
    assert "- `tests.a::b`" in text and "- one: no GPU" in text

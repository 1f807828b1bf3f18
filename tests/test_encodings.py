"""Output degrades where an encoding lacks a letter, and files are UTF-8 whatever the machine is set to."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gc_core import output

ROOT = Path(__file__).parents[1]
ENCODINGS = ["cp1252", "cp437", "ascii"]

PRINTED = {
    "a plan": "import torch, gc_torch as gct; print(gct.plan(torch.nn.Conv2d(3, 4, 3)))",
    "a report": (
        "import torch, gc_torch as gct; layer = torch.nn.Linear(3, 4); layer(torch.ones(2, 3)).sum().backward(); "
        "print(gct.report(layer)); print(repr(gct.SGD(layer)))"
    ),
    "the demo": (
        "import runpy, sys; sys.argv[1:] = ['--seeds', '2', '--epochs', '1', '--out', sys.argv[1]]; "
        "runpy.run_module('examples.digits', run_name='__main__')"
    ),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("what", PRINTED)
def test_what_is_printed_degrades(what, encoding, tmp_path):
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    env["PYTHONPATH"] = os.pathsep.join(map(str, [ROOT, ROOT / "backends", ROOT / "conformance"]))
    done = subprocess.run([sys.executable, "-c", PRINTED[what], tmp_path], env=env, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert done.stdout.decode(encoding)  # and nothing that is not of it
    for file in tmp_path.rglob("*.json"):
        file.read_text(encoding="utf-8")


def test_every_letter_that_stands_for_another_is_in_every_encoding():
    assert all(plain.isascii() for plain in output.PLAIN.values())


def _without_encoding(tree):
    """Calls that read or write text in the encoding of the machine."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if any(word.arg in ("encoding", None) for word in call.keywords):
            continue
        if name in ("read_text", "write_text"):
            yield call
        if name == "open" and isinstance(call.func, ast.Name):
            mode = next((word.value for word in call.keywords if word.arg == "mode"), (call.args[1:2] or [None])[0])
            if not (isinstance(mode, ast.Constant) and "b" in str(mode.value)):
                yield call


def test_no_file_is_read_or_written_in_the_encoding_of_the_machine():
    assert list(_without_encoding(ast.parse("Path('x').read_text(); open('x'); open('x', 'w')")))[2:]
    assert not list(_without_encoding(ast.parse("open('x', 'rb'); open('x', encoding='utf-8')")))
    found = []
    for folder in ("gc_core", "backends", "conformance", "examples", "benchmarks", "docs"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            found += [f"{file.relative_to(ROOT)}:{call.lineno}" for call in _without_encoding(tree)]
    assert found == []

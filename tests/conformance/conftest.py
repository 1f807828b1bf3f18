"""What the tests of the command, the plugin and the vectors share: small ports in files, and commands to run."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PORTS = {
    "right.py": """
        import numpy as np

        def centralize(grad, axis):
            return grad.copy() if axis is None else grad - grad.mean(axis, keepdims=True)
    """,
    # One mean for the whole tensor.
    "wrong.py": """
        import numpy as np

        def centralize(grad, axis):
            return grad.copy() if axis is None else grad - grad.mean()
    """,
    "syntax.py": "def centralize(grad, axis) return grad",
    "raises.py": "raise RuntimeError('no licence')",
    "nothing.py": "x = 1",
    "refuses.py": """
        def centralize(grad, axis):
            raise NotImplementedError("not yet")
    """,
}


@pytest.fixture
def ports(tmp_path):
    """A folder with a right port, a wrong one, and files that are no ports."""
    for name, text in PORTS.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    return tmp_path


def _run(*command, cwd):
    # A width, and no colours, whatever the terminal of whoever runs the tests.
    env = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "PYTEST_ADDOPTS")}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=env | {"PYTHONUTF8": "1"}, capture_output=True, text=True)


@pytest.fixture
def run():
    """Run a command: `run(*words, cwd=folder)`."""
    return _run


@pytest.fixture
def gc(ports, monkeypatch, capsys):
    """Run `gc-conformance` in the folder of the ports, without the cost of another interpreter."""
    from gc_conformance import cli

    def call(*words):
        with monkeypatch.context() as patch:
            patch.chdir(ports)
            patch.setattr(sys, "argv", ["gc-conformance", *map(str, words)])
            patch.setattr(sys, "path", list(sys.path))
            with pytest.raises(SystemExit) as stopped:
                cli.main()
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(words, stopped.value.code, out, err)

    return call


@pytest.fixture
def gc_process(ports):
    """Run `python -m gc_conformance` in the folder of the ports."""
    return lambda *words: _run(sys.executable, "-m", "gc_conformance", *words, cwd=ports)


@pytest.fixture
def suite(ports):
    """Run pytest with the plugin in the folder of the ports."""

    def call(*words):
        # Without the other plugins that this environment happens to have, to be quick.
        plugins = ("--disable-plugin-autoload", "-p", "gc_conformance.plugin", "-p", "no:cacheprovider")
        return _run(sys.executable, "-m", "pytest", *plugins, *words, cwd=ports)

    return call

"""A user's file shows nothing to pyright's strictest mode, and what is wrong in it is an error: see `user.py`."""

import subprocess
import sys
from pathlib import Path

import pytest


def test_a_users_file(tmp_path):
    pytest.importorskip("pyright")
    user = tmp_path / "user.py"  # elsewhere: a user has not the settings of this project
    user.write_text(Path(__file__).with_name("user.py").read_text(encoding="utf-8"), encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--warnings", str(user)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert "0 errors, 0 warnings" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0

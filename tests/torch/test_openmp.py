"""Which OpenMP the kernel on the CPU runs on: the one that PyTorch runs on."""

import os
import shutil
import subprocess
import sys

import pytest

from gc_torch import compat

PRELOADED = """
void GOMP_parallel(void (*run)(void *), void *data, unsigned threads, unsigned flags) { run(data); }
"""
ADDRESS = """
import ctypes, sys
from gc_torch import compat
address = lambda function: ctypes.cast(function, ctypes.c_void_p).value
sys.exit(address(compat.gomp_parallel()) != address(ctypes.CDLL(sys.argv[1]).GOMP_parallel))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libraries are preloaded on Linux")
def test_a_preloaded_openmp_is_taken(tmp_path):
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("there is no C compiler")
    library = tmp_path / "preloaded.so"
    (tmp_path / "preloaded.c").write_text(PRELOADED, encoding="utf-8")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "preloaded.c"], check=True)
    # PyTorch's own threads are not asked for: this OpenMP has none.
    env = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", ADDRESS, library], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_where_there_is_no_openmp_there_is_none(monkeypatch):
    class Library:
        def __init__(self, name):
            if name is None:
                raise TypeError("as on Windows")

    monkeypatch.setattr(compat.ctypes, "CDLL", Library)
    assert compat.gomp_parallel() is None

"""Which OpenMP the kernel on the CPU runs on: the one that PyTorch runs on."""

import os
import shutil
import subprocess
import sys

import pytest

PRELOADED = """
void GOMP_parallel(void (*run)(void *), void *data, unsigned threads, unsigned flags) { run(data); }
"""
ADDRESS = """
import ctypes, sys
from gc_torch.kernels_cpu import threads
address = lambda function: ctypes.cast(function, ctypes.c_void_p).value
sys.exit(address(threads._parallel) != address(ctypes.CDLL(sys.argv[1]).GOMP_parallel))
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

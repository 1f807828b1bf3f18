"""Without a GPU the package can be imported, and its first use says what is missing."""

import os
import subprocess
import sys

CODE = """
import numpy as np
import gc_cupy as gct

assert gct.fan_in_axes((2, 3), "out_first") == (1,)
try:
    gct.from_numpy(np.ones(2))
except RuntimeError as error:
    print(error)
try:
    gct.centralize(np.ones((2, 3)), 1)
except TypeError as error:
    print(error)
"""


def test_importing_works_and_using_says_what_is_missing(tmp_path):
    # On a machine that has a GPU, too: this variable hides it.
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    no_gpu, no_array = done.stdout.splitlines()
    assert no_gpu.startswith("gc_cupy needs an NVIDIA GPU and its driver, and CuPy finds none: ")
    assert no_array == "grad must be a CuPy array; got numpy.ndarray"

"""Where there is no GPU, gc_cupy's examples are run by tests/cupy/test_examples.py, with NumPy standing in for CuPy."""

from tests.cupy.gpu import there_is_a_gpu

collect_ignore_glob = [] if there_is_a_gpu() else ["gc_cupy/*"]

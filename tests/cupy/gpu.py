"""Whether there is a GPU, and so whether examples run on CuPy or on its stand-in."""

import contextlib


def there_is_a_gpu():
    try:
        import cupy
    except ImportError:
        return False
    try:
        return cupy.cuda.runtime.getDeviceCount() > 0
    except cupy.cuda.runtime.CUDARuntimeError:
        return False


def cupy_or_stand_in():
    """While it lasts, `import cupy` gives CuPy where there is a GPU, and elsewhere NumPy standing in for it."""
    if there_is_a_gpu():
        return contextlib.nullcontext()
    from tests.cupy.gc_cupy_on_numpy import standing_in

    return standing_in()

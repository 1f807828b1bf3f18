"""gc_cupy with NumPy standing in for CuPy, and its kernels run on the host: what can be tried without a GPU.

It is not CuPy. The package's own files are imported once more, with a `cupy` in front of them whose arrays are NumPy's
and whose RawModule is compiled by g++. Nothing in gc_cupy knows of it. This module is a port:

    gc-conformance run tests.cupy.gc_cupy_on_numpy
"""

import contextlib
import importlib
import sys
import types

import numpy as np

from tests.cupy import host


class Device:
    """The one device there is."""

    def __init__(self, device=0):
        self.id = 0

    def __int__(self):
        return self.id

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


class StandIn(types.ModuleType):
    """NumPy under CuPy's name, with the few things that CuPy has and NumPy has not."""

    def __init__(self):
        super().__init__("cupy", "NumPy standing in for CuPy.")
        self.__version__ = "14.2.0"
        self.RawModule = host.RawModule
        self.RawKernel = types.FunctionType
        self.cuda = types.SimpleNamespace(Device=Device, runtime=types.SimpleNamespace(getDeviceCount=lambda: 1))

    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def array(values, dtype=None):
        """On a GPU every array is in the machine's byte order, and is a copy."""
        array = np.array(values, dtype)
        return array.astype(array.dtype.newbyteorder("="))

    @staticmethod
    def asnumpy(array):
        return np.array(array)


def _is_ours(name):
    return name.partition(".")[0] in ("cupy", "gc_cupy")


@contextlib.contextmanager
def standing_in():
    """While it lasts, `import cupy` and `import gc_cupy` give the stand-in and the package that was loaded on it."""
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_ours(name)}
    sys.modules.update(_modules)
    try:
        yield
    finally:
        _modules.update({name: sys.modules.pop(name) for name in list(sys.modules) if _is_ours(name)})
        sys.modules.update(hidden)


_modules = {"cupy": StandIn()}

with standing_in():
    gct = importlib.import_module("gc_cupy")
    kernels = importlib.import_module("gc_cupy.kernels")
    kernels._address = lambda pointer: 0 if pointer is kernels._NULL else pointer.ctypes.data
    port = importlib.import_module("gc_cupy.port")

globals().update({each: getattr(port, each) for each in port.__all__})
name = "gc_cupy's array code on NumPy, its kernels on the host (not CuPy)"

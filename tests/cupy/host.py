"""kernels.cu compiled by g++ behind `host_shim.h`, and launched on NumPy arrays as CuPy's RawModule would be."""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

SHIM = Path(__file__).with_name("host_shim.h")

# The two instructions that g++ cannot know; the shim computes what they do.
INSTRUCTIONS = {
    'asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));': "wide = widen_half(x.bits);",
    'asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out->bits) : "f"(x));': "out->bits = round_half(x);",
}

OPTIONS = "-std=c++17 -O1 -ffp-contract=off -fPIC -shared -fno-gnu-unique -U_FORTIFY_SOURCE -Wall -Wno-unknown-pragmas"
# Overflow, shifts, misalignment and the bounds of shared memory are looked at while the kernels run.
CHECKED = "-fsanitize=undefined -static-libubsan"

_folder = tempfile.TemporaryDirectory(prefix="gc-cupy-host-")


@functools.cache
def build(code, names, options=""):
    """The shared library of these kernels, and what g++ said."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise RuntimeError("g++ was not found: CuPy's kernels cannot be tested without a GPU; install a C++ compiler")
    for instruction, function in INSTRUCTIONS.items():
        assert code.count(instruction) == 1, f"kernels.cu no longer has the line {instruction}"
        code = code.replace(instruction, function)
    exports = "\n".join(f"EXPORT({number}, {name})" for number, name in enumerate(names))
    stem = Path(_folder.name) / f"kernels{len(list(Path(_folder.name).glob('*.cpp')))}"
    stem.with_suffix(".cpp").write_text(f'#include "{SHIM}"\n{code}\n{exports}\n', encoding="ascii")
    command = [compiler, *OPTIONS.split(), *options.split(), "-o", stem.with_suffix(".so"), stem.with_suffix(".cpp")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"g++ cannot compile kernels.cu behind the shim:\n{done.stderr}")
    return ctypes.CDLL(str(stem.with_suffix(".so"))), done.stderr


class RawModule:
    """CuPy's class of this name, for NumPy arrays: same use, other compiler."""

    order = 0  # whose turn it is among the threads of a block; see host_shim.h

    def __init__(self, *, code, name_expressions, options=""):
        self.names = tuple(name_expressions)
        self.built, self.log = build(code, self.names, options)

    def get_function(self, name):
        return functools.partial(self._launch, self.names.index(name))

    def _launch(self, number, grid, block, arguments, blocks=None):
        """`blocks` are those to run, of a grid too large to run whole."""
        types = getattr(self.built, f"types_{number}")
        types.restype = ctypes.c_char_p
        values = [_value(argument) for argument in arguments]
        got = " ".join(f"{value.dtype.kind}{value.dtype.itemsize}" for value in values)
        assert got == types().decode().strip(), "the arguments are not of the kernel's types"
        assert block[0] * block[1] <= 1024
        assert 0 < grid[0] < 2**31
        launch = getattr(self.built, f"launch_{number}")
        launch.restype = ctypes.c_bool
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        every = blocks or range(grid[0])
        from_to = (ctypes.c_longlong(every.start), ctypes.c_longlong(every.stop))
        met = launch(*from_to, *map(ctypes.c_int, (*block, self.order)), pointers)
        assert met, "some threads of a block ended while others waited at a barrier"


def _value(argument):
    """An argument as an array of the one value that the kernel is given."""
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous, "a kernel is given memory that is not in C order"
        return np.array(argument.ctypes.data, np.uintp)
    assert isinstance(argument, np.generic), "CuPy would choose the C type of a Python number"
    return np.array(argument)

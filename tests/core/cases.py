"""What the tests of gc_core run over: shapes with axes, dtypes, and arrays in every kind of memory."""

import ml_dtypes
import numpy as np

# Shape and fan-in axes, from 0-d to 5-d, stored out first, out last and otherwise; negative axes, in any order.
SHAPES_AND_AXES = [
    ((), None),
    ((6,), None),
    ((6,), 0),
    ((6,), (-1,)),
    ((3, 4), None),
    ((3, 4), 1),
    ((3, 4), 0),
    ((3, 4), -1),
    ((3, 4), (-2,)),
    ((3, 4), (1, 0)),
    ((3, 1), 1),
    ((1, 7), 1),
    ((2, 3, 4), 1),
    ((2, 3, 4), (1, 2)),
    ((2, 3, 4), (0, 1)),
    ((2, 3, 4), (2, 0)),
    ((4, 3, 2, 2), (1, 2, 3)),
    ((2, 2, 3, 4), (0, 1, 2)),
    ((2, 3, 4, 2), (0, 1, -1)),
    ((3, 4, 2, 2), (0, 2, 3)),
    ((2, 3, 2, 3, 2), (1, 2, 3, 4)),
    ((2, 3, 2, 3, 2), (0, 1, 2, 3)),
    ((2, 3, 2, 2, 2), (1, 3, 4)),
    ((2, 3, 2, 2, 2), (-1, 0, -3)),
]
EMPTY = [((0,), 0), ((0, 3), 1), ((3, 0), 1), ((3, 0), 0), ((2, 0, 3), (1, 2)), ((2, 0, 3, 2, 2), (0, 1, 2, 3, 4))]

HALF = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
REAL = [*HALF, np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.longdouble)]
COMPLEX = [np.dtype(np.complex64), np.dtype(np.complex128), np.dtype(np.clongdouble)]


def random(shape, dtype=np.float64, seed=0, loc=0.5, scale=1.0):
    """Normal numbers of the dtype, none so near to zero that a mean could not matter."""
    rng = np.random.default_rng((seed, *shape))
    values = rng.normal(loc, scale, shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.normal(loc, scale, shape)
    return np.asarray(values).astype(dtype)


def fortran(a):
    return np.asfortranarray(a)


def every_second(a):
    wide = np.zeros([2 * n for n in a.shape], a.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def backwards(a):
    flip = tuple(slice(None, None, -1) for _ in a.shape)
    return a[flip].copy()[flip]


def transposed(a):
    """A view whose axes lie in memory in another order."""
    return np.ascontiguousarray(np.moveaxis(a, -1, 0)).transpose(*range(1, a.ndim), 0)


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def unaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:]
    view = raw.view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


MEMORY = [fortran, every_second, backwards, transposed, read_only, unaligned]


def frozen(*arrays):
    """The bytes of each array, to compare with later."""
    return [(a.shape, a.dtype, a.tobytes()) for a in arrays]

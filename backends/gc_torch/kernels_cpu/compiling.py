"""How a function is compiled by Numba, and what it needs that Numba does not have."""

# Numba's decorators change what a function takes.
# pyright: reportCallIssue=false, reportPrivateImportUsage=false

import ctypes
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

# Only sums may be reordered, once and for all when they are compiled. NaN and infinity keep their meaning everywhere.
# Nothing is contracted to a fused multiply-add: where LLVM does that hangs on what is inlined. The process that
# compiles has each function twice, on its own and as it is within its caller, and runs the first; one that loads what
# was cached has the second alone. So their bits would differ.
_options: dict[str, Any] = dict(nogil=True, error_model="numpy")
_inner = dict(_options, no_cpython_wrapper=True, no_cfunc_wrapper=True)
compiled = numba.njit(**_inner)
compiled_sum = numba.njit(**_inner, fastmath={"reassoc"})
# The call itself would be a tenth of a call for every row of some hundred numbers. What is pasted is, to Numba, part of
# its caller, and is not compiled on its own.
pasted = numba.njit(**_inner, inline="always")
inlined = numba.njit(**_inner, forceinline=True)
inlined_sum = numba.njit(**_inner, fastmath={"reassoc"}, forceinline=True)


@intrinsic
def _pointer(typingctx, address, like):
    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(address, like), codegen


@intrinsic
def as_words(typingctx, address):
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.int64)(address), codegen


@intrinsic
def count_up(typingctx, counter):
    """Add 1 to a counter; its number before that, for this thread alone."""

    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.atomic_rmw("add", array.data, context.get_constant(types.int64, 1), "acq_rel")

    return types.int64(counter), codegen


@intrinsic
def read(typingctx, counter):
    def codegen(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.load_atomic(array.data, "acquire", 8)

    return types.int64(counter), codegen


@intrinsic
def prefetch(typingctx, address):
    """Have the memory at an address, where there may be none of ours, brought into the caches."""

    def codegen(context, builder, signature, args):
        pointer, number = builder.inttoptr(args[0], ir.IntType(8).as_pointer()), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, number(0), number(3), number(1)])  # to read, to every level, data
        return context.get_dummy_value()

    return types.void(address), codegen


def _nothing() -> int:
    return 0


def _yielding(library: Any = ctypes.CDLL) -> Any:
    """The system's way to let another thread run; nothing where there is none, as on Windows: it waits all the same."""
    try:
        library(None).sched_yield  # noqa: B018  not there, LLVM would end the process
    except (AttributeError, OSError, TypeError):  # Windows has no library of the process
        return numba.njit(**_inner)(_nothing)
    return types.ExternalFunction("sched_yield", types.int32())


_yield = _yielding()


@compiled
def wait(counter, number):
    """Until the counter has come to the number. What is waited for has been begun by another thread, or it is done."""
    tries = 0
    while read(counter) < number:
        tries += 1
        if tries > 10000:  # there are more threads than cores
            _yield()


@inlined
def elements(address, offset, n, like):
    return carray(_pointer(address + offset * like.itemsize, like), n)


def mean_of(means, i):
    """Of the weight vector of number i: one for all of them, or one for each."""
    return means if np.isscalar(means) else means[i]


@overload(mean_of)
def _compiled_mean(means, i):
    if isinstance(means, types.Array):
        return lambda means, i: means[i]
    return lambda means, i: means

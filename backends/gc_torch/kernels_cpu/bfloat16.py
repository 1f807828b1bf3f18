"""bfloat16: an item is copied to float32, where it goes the same ways, and back. So each result is rounded once."""

# Numba's decorators change what a function takes.
# pyright: reportCallIssue=false, reportPrivateImportUsage=false

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gc_torch.kernels_cpu.compiling import compiled, elements
from gc_torch.kernels_cpu.words import HALF, SINGLE
from gc_torch.table import CENTRALIZE, INNER, R1, R2, WRITTEN


@intrinsic
def _to_single(typingctx, half):
    def codegen(context, builder, signature, args):
        word = builder.zext(args[0], ir.IntType(32))
        return builder.bitcast(builder.shl(word, word.type(16)), ir.FloatType())

    return types.float32(half), codegen


@intrinsic
def _to_half(typingctx, single):
    """To the nearest, ties to even; NaN stays."""

    def codegen(context, builder, signature, args):
        word = builder.bitcast(args[0], ir.IntType(32))
        odd = builder.and_(builder.lshr(word, word.type(16)), word.type(1))
        rounded = builder.lshr(builder.add(word, builder.add(odd, word.type(0x7FFF))), word.type(16))
        nan = builder.fcmp_unordered("uno", args[0], args[0])
        return builder.trunc(builder.select(nan, word.type(0x7FC0), rounded), ir.IntType(16))

    return types.uint16(single), codegen


@compiled
def unpack(wide, row, offset, n, first, last, many, buffers):
    """A row of the table for copies of the n lanes in rows [first, last), without gaps, of so many of its tensors."""
    stride = max(n, row[INNER] * row[R2])
    for column in range(many):
        to = buffers + column * n * (last - first) * 4
        wide[column] = to if row[column] else 0
        if row[column]:
            for i in range(first, last):
                x, y = elements(row[column], offset + i * stride, n, HALF), elements(to, (i - first) * n, n, SINGLE)
                for j in range(n):
                    y[j] = _to_single(x[j])
    wide[R1], wide[INNER], wide[R2], wide[CENTRALIZE] = row[R1], n // row[R2], row[R2], row[CENTRALIZE]


@compiled
def pack(row, wide, offset, n, first, last):
    """What a step has written, back."""
    stride = max(n, row[INNER] * row[R2])
    for column in WRITTEN:
        if row[column]:
            for i in range(first, last):
                x, y = (
                    elements(row[column], offset + i * stride, n, HALF),
                    elements(wide[column], (i - first) * n, n, SINGLE),
                )
                for j in range(n):
                    x[j] = _to_half(y[j])

"""bfloat16: an item is copied to float32, where it goes the same ways, and back. So each result is rounded once.

Weights come with what rounding has cut off before, and go back to the nearest, with what it cuts off now, or to a
neighbour that a random number chooses (`gc_core.low_precision`).
"""

# Numba's decorators change what a function takes.
# pyright: reportCallIssue=false, reportPrivateImportUsage=false

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gc_core.low_precision import GOLDEN
from gc_torch.kernels_cpu.compiling import compiled, elements
from gc_torch.kernels_cpu.words import HALF, SINGLE
from gc_torch.table import CENTRALIZE, COMPENSATION, INNER, KEY, R1, R2, STATE0, W


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


@intrinsic
def _cut_off(typingctx, single, half):
    """What rounding has cut off; 0 where there is infinity or NaN. A branch would keep the loop from being vectorized."""

    def codegen(context, builder, signature, args):
        number = ir.IntType(32)
        rounded = builder.bitcast(builder.shl(builder.zext(args[1], number), number(16)), ir.FloatType())
        left = builder.fsub(args[0], rounded)
        exponent = builder.and_(builder.bitcast(left, number), number(0x7F800000))
        finite = builder.icmp_unsigned("!=", exponent, number(0x7F800000))
        return builder.select(finite, left, ir.FloatType()(0.0))

    return types.float32(single, half), codegen


@intrinsic
def _to_neighbour(typingctx, single, place, low, high):
    """`rounded_stochastically`, with the `random_bits` of this place for the two words of a key."""

    def codegen(context, builder, signature, args):
        number = ir.IntType(32)
        word, x, low, high = builder.bitcast(args[0], number), *(builder.trunc(arg, number) for arg in args[1:])

        def mixed(x, shift):
            return builder.xor(x, builder.lshr(x, number(shift)))

        x = builder.mul(mixed(builder.xor(x, low), 16), number(0x7FEB352D))
        x = builder.mul(mixed(builder.add(mixed(x, 15), high), 14), number(0x846CA68B))
        finite = builder.icmp_unsigned("!=", builder.and_(word, number(0x7F800000)), number(0x7F800000))
        nan = builder.fcmp_unordered("uno", args[0], args[0])
        up = builder.select(finite, builder.add(word, builder.lshr(x, number(16))), word)
        rounded = builder.select(nan, number(0x7FC0), builder.lshr(up, number(16)))
        return builder.trunc(rounded, ir.IntType(16))

    return types.uint16(single, place, low, high), codegen


@compiled
def key_of(stream, step):
    """The key of a parameter's random bits at a step, as `gc_core.low_precision.random_bits` makes it."""
    x = np.uint64(stream) + np.uint64(GOLDEN) * np.uint64(step)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64(x ^ (x >> np.uint64(31)))


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
                if column == W and row[COMPENSATION]:
                    x = elements(row[COMPENSATION], offset + i * stride, n, HALF)
                    for j in range(n):
                        y[j] += _to_single(x[j])
    wide[R1], wide[INNER], wide[R2], wide[CENTRALIZE] = row[R1], n // row[R2], row[R2], row[CENTRALIZE]


@compiled
def pack(row, wide, offset, n, first, last, stochastic):
    """What a step has written, back. `stochastic`: the weights by random bits."""
    stride = max(n, row[INNER] * row[R2])
    for i in range(first, last):
        start, here = offset + i * stride, (i - first) * n
        w, x = elements(row[W], start, n, HALF), elements(wide[W], here, n, SINGLE)
        if stochastic:
            low, high = row[KEY], row[KEY] >> 32
            for j in range(n):
                w[j] = _to_neighbour(x[j], start + j, low, high)
        elif row[COMPENSATION]:
            c = elements(row[COMPENSATION], start, n, HALF)
            for j in range(n):
                w[j] = _to_half(x[j])
            for j in range(n):
                c[j] = _to_half(_cut_off(x[j], w[j]))
        else:
            for j in range(n):
                w[j] = _to_half(x[j])
        for column in range(STATE0, COMPENSATION):
            if row[column]:
                x, y = elements(row[column], start, n, HALF), elements(wide[column], here, n, SINGLE)
                for j in range(n):
                    x[j] = _to_half(y[j])

"""What the Triton kernel does to the elements of a block: SGD and Adam, and how they are read and written.

Nothing is left to the compiler that could change a bit: where a product and a sum are one operation is written out
(`tl.fma`), and the compiler makes no other (`enable_fp_fusion=False` at every launch).
"""

# Triton's language is Python to the eye: an `if` of the compiler and one of the device cannot be joined, types are
# constants, and the types of a kernel's arguments are not those of what it is called with.
# ruff: noqa: SIM102, SIM300
# pyright: reportInvalidTypeForm=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

# What is known when the kernel is compiled: options of the step, as bits of one number.
ADAM = tl.constexpr(1)  # otherwise SGD
ON_UPDATE = tl.constexpr(2)
L2 = tl.constexpr(4)
DECOUPLED = tl.constexpr(8)
MAXIMIZE = tl.constexpr(16)
NESTEROV = tl.constexpr(32)
MOMENTUM = tl.constexpr(64)
FRESH = tl.constexpr(128)  # PyTorch's first step of SGD: the momentum buffer starts as the gradient
AMSGRAD = tl.constexpr(256)
SCALED = tl.constexpr(512)  # the gradients are to be divided by grad_scale, and are left so
GUARDED = tl.constexpr(1024)  # nothing happens where found_inf is not 0
LR_TENSOR = tl.constexpr(2048)
HALF = tl.constexpr(4096)  # the parameters are of half precision
KAHAN = tl.constexpr(8192)  # what rounding cuts off of them is kept
STOCHASTIC = tl.constexpr(16384)  # they are rounded up or down by random bits

# `p` stands for the pointers to parameter, gradient, up to three states, and compensation; `n` for the numbers: 0 lr,
# 1 weight_decay, 2 to 5 what moments are made with, 6 and 7 Adam's corrections, 8 eps, 9 one over the scale, 10 where
# the parameter begins and 11 the key of its random bits; `A` for the precision.


@triton.jit
def number(bits, A: tl.constexpr):
    """A hyperparameter from its bits: Triton would round every number of Python to float32."""
    if A == tl.float64:
        return bits.to(tl.int64).to(tl.float64, bitcast=True)
    else:
        return bits.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def divide(x, y, A: tl.constexpr):
    # In float32 Triton's own division and root are approximate.
    if A == tl.float64:
        return x / y
    else:
        return tl.div_rn(x, y)


@triton.jit
def root(x, A: tl.constexpr):
    if A == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)


@triton.jit
def expm1(x, A: tl.constexpr):
    """exp(x) − 1 for x <= 0, to a few units of roundoff: x = n·log 2 + r, and a series for exp(r) − 1."""
    if A == tl.float64:
        x = tl.maximum(x, -40.0)
        n = tl.floor(x * 1.4426950408889634 + 0.5)
        r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10
        scale = ((n.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
        series = 1.0 + 0.0 * r
        for k in tl.static_range(15):
            series = 1.0 + r * series / (16 - k)
    else:
        x = tl.maximum(x, -20.0)
        n = tl.floor(x * 1.4426950408889634 + 0.5)
        r = (x - n * 0.693359375) - n * -2.12194440e-4
        scale = ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
        series = 1.0 + 0.0 * r
        for k in tl.static_range(9):
            series = 1.0 + r * series * (1.0 / (10 - k))
    return scale * (r * series) + (scale - 1.0)


@triton.jit
def _quotient(m, top, n, OPTIONS: tl.constexpr, A: tl.constexpr):
    """Adam's step. Of half precision 8 or 11 bits are kept of it: there the fast division, off by 2 units in the last
    place of float32, is enough, and the exact one, a branch for each element, would cost more than the memory."""
    below = tl.fma(root(top, A), n[7], n[8])
    if HALF & OPTIONS:
        return m * n[6] / below
    else:
        return divide(m * n[6], below, A)


@triton.jit
def advance(x, w, m, v, top, n, OPTIONS: tl.constexpr, A: tl.constexpr):
    """From the gradient, in x, to the step, in x."""
    if ADAM & OPTIONS:
        m = tl.fma(n[2], m, n[3] * x)
        v = tl.fma(n[4], v, n[5] * x * x)
        if AMSGRAD & OPTIONS:
            top = tl.where((v > top) | (v != v), v, top)  # a maximum that keeps NaN
        else:
            top = v
        x = _quotient(m, top, n, OPTIONS, A)
    elif MOMENTUM & OPTIONS:
        if FRESH & OPTIONS:
            m = x
        else:
            m = tl.fma(n[2], m, n[3] * x)
        if NESTEROV & OPTIONS:
            x = tl.fma(n[2], m, x)
        else:
            x = m
    if DECOUPLED & OPTIONS:
        x = tl.fma(n[1], w, x)
    return x, m, v, top


@triton.jit
def _load(pointers, mask, A: tl.constexpr):
    return tl.load(pointers, mask=mask, other=0.0).to(A)


@triton.jit
def _load_weight(p, at, mask, OPTIONS: tl.constexpr, A: tl.constexpr):
    w = _load(p[0] + at, mask, A)
    if KAHAN & OPTIONS:
        w += _load_state(p[5] + at, mask, A)
    return w


@triton.jit
def _random_bits(places, key):
    """`gc_core.low_precision.random_bits`."""
    x = places.to(tl.uint32) ^ key.to(tl.uint32)
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) + (key.to(tl.uint64, bitcast=True) >> 32).to(tl.uint32)
    x = (x ^ (x >> 14)) * 0x846CA68B
    return x >> 16


@triton.jit
def _to_neighbour(x, bits, DTYPE: tl.constexpr):
    """`gc_core.low_precision.rounded_stochastically`."""
    word = x.to(tl.uint32, bitcast=True)
    power = word & 0x7F800000  # of 2, the largest up to |x|
    if DTYPE == tl.bfloat16:
        up = ((word + bits) & 0xFFFF0000).to(tl.float32, bitcast=True)
    else:
        unit = tl.maximum(power.to(tl.float32, bitcast=True), 6.103515625e-05) * 0.0009765625
        up = tl.floor(tl.div_rn(tl.abs(x), unit) + (bits >> 3).to(tl.float32) * 0.0001220703125) * unit
        up = (up.to(tl.uint32, bitcast=True) | (word & 0x80000000)).to(tl.float32, bitcast=True)
    return tl.where(power == 0x7F800000, x, up).to(DTYPE)


@triton.jit
def _store_weight(p, at, mask, x, n, OPTIONS: tl.constexpr):
    DTYPE: tl.constexpr = p[0].dtype.element_ty
    if STOCHASTIC & OPTIONS:
        places = ((p[0] + at).to(tl.int64) - n[10]) // 2
        tl.store(p[0] + at, _to_neighbour(x, _random_bits(places, n[11]), DTYPE), mask=mask)
    elif KAHAN & OPTIONS:
        w = x.to(DTYPE)
        left = x - w.to(tl.float32)
        tl.store(p[0] + at, w, mask=mask)
        _store_state(p[5], at, mask, tl.where(tl.abs(left) < float("inf"), left, 0.0))
    else:
        tl.store(p[0] + at, x.to(DTYPE), mask=mask)


@triton.jit
def _load_state(pointers, mask, A: tl.constexpr):
    # Nobody reads a state before the next step: it need not push anything else out of the cache.
    return tl.load(pointers, mask=mask, other=0.0, eviction_policy="evict_first").to(A)


@triton.jit
def _store_state(pointer, at, mask, value):
    tl.store(pointer + at, value.to(pointer.dtype.element_ty), mask=mask, eviction_policy="evict_first")


@triton.jit
def _load_states(p, at, mask, w, OPTIONS: tl.constexpr, A: tl.constexpr):
    m, v, top = w, w, w
    if (ADAM | MOMENTUM) & OPTIONS:
        if not (FRESH & OPTIONS):
            m = _load_state(p[2] + at, mask, A)
    if ADAM & OPTIONS:
        v = _load_state(p[3] + at, mask, A)
        if AMSGRAD & OPTIONS:
            top = _load_state(p[4] + at, mask, A)
    return m, v, top


@triton.jit
def _store_states(p, at, mask, m, v, top, OPTIONS: tl.constexpr):
    if (ADAM | MOMENTUM) & OPTIONS:
        _store_state(p[2], at, mask, m)
    if ADAM & OPTIONS:
        _store_state(p[3], at, mask, v)
        if AMSGRAD & OPTIONS:
            _store_state(p[4], at, mask, top)


@triton.jit
def _load_gradient(p, at, mask, n, OPTIONS: tl.constexpr, A: tl.constexpr):
    """The unscaled gradient, and its sign turned if it is to be climbed."""
    g = _load(p[1] + at, mask, A)
    if SCALED & OPTIONS:
        g = g * n[9]
    x = g
    if MAXIMIZE & OPTIONS:
        x = -x
    return g, x


@triton.jit
def read(p, at, mask, n, OPTIONS: tl.constexpr, A: tl.constexpr):
    """A block: x, of which GC takes the mean, the unscaled gradient, and what the step needs beside them.

    What a caller does not use of it, the compiler does not load.
    """
    g, x = _load_gradient(p, at, mask, n, OPTIONS, A)
    w = _load_weight(p, at, mask, OPTIONS, A)
    m, v, top = _load_states(p, at, mask, w, OPTIONS, A)
    if L2 & OPTIONS:
        x = tl.fma(n[1], w, x)
    if ON_UPDATE & OPTIONS:
        x, m, v, top = advance(x, w, m, v, top, n, OPTIONS, A)
    return x, g, w, m, v, top


@triton.jit
def write(p, at, mask, e, x, n, OPTIONS: tl.constexpr, A: tl.constexpr):
    """The results of a block that `read` has given as e, of which x is now centralized."""
    _, g, w, m, v, top = e
    if not (ON_UPDATE & OPTIONS):
        x, m, v, top = advance(x, w, m, v, top, n, OPTIONS, A)
    _store_weight(p, at, mask, tl.fma(-n[0], x, w), n, OPTIONS)
    if SCALED & OPTIONS:
        tl.store(p[1] + at, g.to(p[1].dtype.element_ty), mask=mask)
    _store_states(p, at, mask, m, v, top, OPTIONS)


@triton.jit
def begin(p, at, mask, n, OPTIONS: tl.constexpr, A: tl.constexpr):
    """x of a block of which no more is kept until its mean is known, and w if x needs it; the rest is written."""
    g, x = _load_gradient(p, at, mask, n, OPTIONS, A)
    if SCALED & OPTIONS:
        tl.store(p[1] + at, g.to(p[1].dtype.element_ty), mask=mask)
    w = x
    if L2 & OPTIONS:
        w = _load_weight(p, at, mask, OPTIONS, A)
        x = tl.fma(n[1], w, x)
    if ON_UPDATE & OPTIONS:
        if DECOUPLED & OPTIONS:
            w = _load_weight(p, at, mask, OPTIONS, A)
        m, v, top = _load_states(p, at, mask, w, OPTIONS, A)
        x, m, v, top = advance(x, w, m, v, top, n, OPTIONS, A)
        _store_states(p, at, mask, m, v, top, OPTIONS)
    return x, w


@triton.jit
def end(p, at, mask, x, w, n, OPTIONS: tl.constexpr, A: tl.constexpr, HAS_W: tl.constexpr):
    """The rest of the step of a block that `begin` has begun, of which x is now centralized.

    HAS_W: w is what `begin` has given; otherwise it is read, if need be again.
    """
    if not (HAS_W and ((L2 & OPTIONS) or ((ON_UPDATE & OPTIONS) and (DECOUPLED & OPTIONS)))):
        w = _load_weight(p, at, mask, OPTIONS, A)
    if not (ON_UPDATE & OPTIONS):
        m, v, top = _load_states(p, at, mask, w, OPTIONS, A)
        x, m, v, top = advance(x, w, m, v, top, n, OPTIONS, A)
        _store_states(p, at, mask, m, v, top, OPTIONS)
    _store_weight(p, at, mask, tl.fma(-n[0], x, w), n, OPTIONS)

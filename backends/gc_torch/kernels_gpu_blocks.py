"""How the programs of the Triton kernel walk through their blocks, which `kernels_gpu_work` has listed by kind.

A tensor's memory is seen as (outer, r1, inner, r2): element (a, b) of the weight vector (o, i) lies at
((o·r1 + a)·inner + i)·r2 + b. Every kind of block has a function below. All but four read each element once, 16 bytes
at a time: LONG, COLUMNS, GROUPS and SPLIT, where a weight vector is more than a program can hold or lies in pieces,
walk through it a second time.

The order of a sum follows from the kind of block and from whether it is read 16 bytes at a time. So the bits of a
tensor's step follow from its own shape, dtype and alignment, and never from what else is in the launch.
"""

# As on page `kernels_gpu_rules`.
# ruff: noqa: RUF005
# pyright: reportInvalidTypeForm=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from gc_torch import kernels_gpu_work as list_of_work
from gc_torch.kernels_gpu_rules import begin, divide, end, read, write

TILE = tl.constexpr(list_of_work.TILE)
_HALF_TILE = tl.constexpr(TILE.value // 2)  # where each element has an address of its own: a whole one would be spilled
STRIP = tl.constexpr(list_of_work.STRIP)
_WITH_W = tl.constexpr(3)  # tiles of which the weights are kept as well; of more they would be spilled


@triton.jit
def _from(p, first, ALIGNED: tl.constexpr):
    """The pointers, moved on to a block, which starts at a multiple of 16 bytes if ALIGNED."""
    w, g, m, v, top, c = p[0] + first, p[1] + first, p[2] + first, p[3] + first, p[4] + first, p[5] + first
    if ALIGNED:
        w, g, m = tl.multiple_of(w, 16), tl.multiple_of(g, 16), tl.multiple_of(m, 16)
        v, top, c = tl.multiple_of(v, 16), tl.multiple_of(top, 16), tl.multiple_of(c, 16)
    return w, g, m, v, top, c


@triton.jit
def _whole(size, VECTOR: tl.constexpr, ALIGNED: tl.constexpr):
    """A size that is a multiple of 16 bytes if ALIGNED: the compiler must see it, for the masks."""
    if ALIGNED:
        return size // VECTOR * VECTOR
    else:
        return size


@triton.jit
def _here(size, first, most: tl.constexpr):
    """How many of `most` elements from `first` there are."""
    return tl.minimum(size - first, most).to(tl.int32)


@triton.jit
def flat(p, block, size, n, OPTIONS: tl.constexpr, A: tl.constexpr, ALIGNED: tl.constexpr, VECTOR: tl.constexpr):
    """Without GC: TILE elements."""
    at = tl.arange(0, TILE)
    mask = at < _whole(_here(size, block * TILE, TILE), VECTOR, ALIGNED)
    p = _from(p, block * TILE, ALIGNED)
    e = read(p, at, mask, n, OPTIONS, A)
    write(p, at, mask, e, e[0], n, OPTIONS, A)


@triton.jit
def rows(
    p, block, vectors, length, n, OPTIONS: tl.constexpr, A: tl.constexpr, VECTOR: tl.constexpr, ACROSS: tl.constexpr
):
    """Weight vectors in one piece, of whole 16 bytes: as many as fit into TILE elements."""
    DOWN: tl.constexpr = TILE // ACROSS
    p = _from(p, block * DOWN * length, True)
    length = _whole(length.to(tl.int32), VECTOR, True)
    row = tl.arange(0, DOWN)[:, None]
    column = tl.arange(0, ACROSS)[None, :]
    mask = (row < _here(vectors, block * DOWN, DOWN)) & (column < length)
    at = row * length + column
    e = read(p, at, mask, n, OPTIONS, A)
    mean = divide(tl.sum(tl.where(mask, e[0], 0.0), axis=1, keep_dims=True), length.to(A), A)
    write(p, at, mask, e, e[0] - mean, n, OPTIONS, A)


@triton.jit
def packed(
    p, block, vectors, length, n,
    OPTIONS: tl.constexpr, A: tl.constexpr, ALIGNED: tl.constexpr, VECTOR: tl.constexpr, ACROSS: tl.constexpr,
):  # fmt: skip
    """Weight vectors in one piece, of any length: so many that together they are whole 16 bytes, read as one piece.

    Through the processor's shared memory each vector comes into a row of its own, and the means come back.
    """
    DOWN: tl.constexpr = TILE // ACROSS
    p = _from(p, block * DOWN * length, ALIGNED)
    length = length.to(tl.int32)
    down = _here(vectors, block * DOWN, DOWN)
    at = tl.arange(0, TILE)
    mask = at < _whole(down * length, VECTOR, ALIGNED)
    e = read(p, at, mask, n, OPTIONS, A)
    place = tl.arange(0, TILE)
    row, column = place // ACROSS, place % ACROSS
    inside = (row < down) & (column < length)
    apart = tl.gather(e[0], tl.where(inside, row * length + column, 0), 0)
    apart = tl.reshape(tl.where(inside, apart, 0.0), [DOWN, ACROSS])
    means = divide(tl.sum(apart, axis=1), length.to(A), A)
    # at // length, by a product: exact, for at·length < 2^31.
    magic = (0x7FFFFFFF // length + 1).to(tl.uint32)
    own = tl.umulhi(2 * at.to(tl.uint32), magic).to(tl.int32)
    write(p, at, mask, e, e[0] - tl.gather(means, tl.minimum(own, DOWN - 1), 0), n, OPTIONS, A)


@triton.jit
def _edges(first, length, ALIGNED: tl.constexpr, VECTOR: tl.constexpr):
    """Of a vector that begins and ends anywhere: where the whole 16 bytes begin and how many elements they are; and
    the places of the elements before and behind, and which there are."""
    edge = tl.arange(0, 2 * VECTOR)
    if ALIGNED:
        head = ((VECTOR - first % VECTOR) % VECTOR).to(tl.int32)
        head = tl.minimum(head, length.to(tl.int32))
        whole = (length - head) // VECTOR * VECTOR
    else:
        head = tl.zeros([], tl.int32)
        whole = length
    place = tl.where(edge < VECTOR, edge, head + whole + edge - VECTOR)
    there = tl.where(edge < VECTOR, edge < head, place < length)
    return head, whole, place, there


@triton.jit
def wide(
    p, block, length, n,
    OPTIONS: tl.constexpr, A: tl.constexpr, ALIGNED: tl.constexpr, VECTOR: tl.constexpr,
    TILES: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """One weight vector in one piece, of at most TILES tiles, which are kept until the mean is known."""
    first = block * length
    length = length.to(tl.int32)
    if RAGGED:
        head, whole, place, there = _edges(first, length, ALIGNED, VECTOR)
        q = _from(p, first, False)
        p = _from(p, first + head, ALIGNED)
    else:
        p, whole = _from(p, first, True), _whole(length, VECTOR, True)
    at = tl.arange(0, TILE)
    kept = ()
    total = tl.zeros([TILE], A)
    for k in tl.static_range(TILES):
        mask = at < whole - k * TILE
        x, w = begin(_from(p, k * TILE, ALIGNED), at, mask, n, OPTIONS, A)
        total += tl.where(mask, x, 0.0)
        kept = kept + ((x, w),)
    total = tl.sum(total, axis=0)
    if RAGGED:
        beside, its_w = begin(q, place, there, n, OPTIONS, A)
        total += tl.sum(tl.where(there, beside, 0.0), axis=0)
    mean = divide(total, length.to(A), A)
    for k in tl.static_range(TILES):
        mask = at < whole - k * TILE
        end(_from(p, k * TILE, ALIGNED), at, mask, kept[k][0] - mean, kept[k][1], n, OPTIONS, A, TILES <= _WITH_W)
    if RAGGED:
        end(q, place, there, beside - mean, its_w, n, OPTIONS, A, True)


@triton.jit
def long(p, block, length, n, OPTIONS: tl.constexpr, A: tl.constexpr, ALIGNED: tl.constexpr, VECTOR: tl.constexpr):
    """One weight vector in one piece, longer: read a second time, backwards, for what was read last is still near."""
    PART: tl.constexpr = TILE if ALIGNED else _HALF_TILE
    first = block * length
    head, whole, place, there = _edges(first, length, ALIGNED, VECTOR)
    q = _from(p, first, False)
    p = _from(p, first + head, ALIGNED)
    at = tl.arange(0, PART)
    total = tl.zeros([PART], A)
    for start in range(0, whole, PART):
        mask = at < _whole(_here(whole, start, PART), VECTOR, ALIGNED)
        e = read(_from(p, start, ALIGNED), at, mask, n, OPTIONS, A)
        total += tl.where(mask, e[0], 0.0)
    beside = read(q, place, there, n, OPTIONS, A)
    sum = tl.sum(total, axis=0) + tl.sum(tl.where(there, beside[0], 0.0), axis=0)
    mean = divide(sum, length.to(A), A)
    last = (whole - 1) // PART * PART
    for back in range(0, whole, PART):
        mask = at < _whole(_here(whole, last - back, PART), VECTOR, ALIGNED)
        r = _from(p, last - back, ALIGNED)
        e = read(r, at, mask, n, OPTIONS, A)
        write(r, at, mask, e, e[0] - mean, n, OPTIONS, A)
    write(q, place, there, beside, beside[0] - mean, n, OPTIONS, A)


@triton.jit
def split(p, block, r1, inner, r2, n, OPTIONS: tl.constexpr, A: tl.constexpr):
    """One weight vector in r1 pieces of r2 elements each."""
    PART: tl.constexpr = _HALF_TILE
    length = r1 * r2
    p = _from(p, (block // inner * r1 * inner + block % inner) * r2, False)
    lane = tl.arange(0, PART)
    total = tl.zeros([PART], A)
    for start in range(0, length, PART):
        mask = lane < length - start
        at = (start + lane) // r2 * (inner * r2) + (start + lane) % r2
        e = read(p, at, mask, n, OPTIONS, A)
        total += tl.where(mask, e[0], 0.0)
    mean = divide(tl.sum(total, axis=0), length.to(A), A)
    last = (length - 1) // PART * PART
    for back in range(0, length, PART):
        start = last - back
        mask = lane < length - start
        at = (start + lane) // r2 * (inner * r2) + (start + lane) % r2
        e = read(p, at, mask, n, OPTIONS, A)
        write(p, at, mask, e, e[0] - mean, n, OPTIONS, A)


@triton.jit
def tall(
    p, block, r1, inner, n,
    OPTIONS: tl.constexpr, A: tl.constexpr, VECTOR: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Weight vectors across the rows of a matrix: a strip of columns, kept until its means are known."""
    LINE: tl.constexpr = STRIP // 16 * VECTOR
    # By halves, which takes fewer addresses, where a half is still 16 bytes a thread.
    PARTS: tl.constexpr = 1 if VECTOR == 8 else 2
    DOWN: tl.constexpr = TILE // PARTS // LINE
    inner = _whole(inner, VECTOR, True)
    blocks = (inner + LINE - 1) // LINE
    start = block % blocks * LINE
    row, column = tl.arange(0, DOWN)[:, None], tl.arange(0, LINE)[None, :]
    within = column < _whole(_here(inner, start, LINE), VECTOR, True)
    p = _from(p, block // blocks * r1 * inner + start, True)
    at = row * inner + column
    high = r1.to(tl.int32)
    kept = ()
    total = tl.zeros([DOWN, LINE], A)
    for k in tl.static_range(PARTS * TILES):
        mask = (row < high - k * DOWN) & within
        x, w = begin(_from(p, k * DOWN * inner, True), at, mask, n, OPTIONS, A)
        total += tl.where(mask, x, 0.0)
        kept = kept + ((x, w),)
    mean = divide(tl.sum(total, axis=0, keep_dims=True), r1.to(A), A)
    for k in tl.static_range(PARTS * TILES):
        mask = (row < high - k * DOWN) & within
        end(_from(p, k * DOWN * inner, True), at, mask, kept[k][0] - mean, kept[k][1], n, OPTIONS, A, TILES <= _WITH_W)


@triton.jit
def columns(
    p, block, r1, inner, r2, n,
    OPTIONS: tl.constexpr, A: tl.constexpr, ALIGNED: tl.constexpr, VECTOR: tl.constexpr,
    LINE: tl.constexpr, GROUPED: tl.constexpr,
):  # fmt: skip
    """The same with more rows than can be kept, or with rows that begin anywhere.

    If GROUPED, with pieces of r2 elements in place of columns.
    """
    DOWN: tl.constexpr = (TILE if ALIGNED else _HALF_TILE) // LINE
    row = tl.arange(0, DOWN)[:, None]
    column = tl.arange(0, LINE)[None, :]
    columns = _whole(inner * r2, VECTOR, ALIGNED)
    width = LINE
    if GROUPED:
        width = _whole(LINE // r2 * r2, VECTOR, ALIGNED)
    blocks = (columns + width - 1) // width
    start = block % blocks * width
    within = column < _whole(tl.minimum(columns - start, width), VECTOR, ALIGNED)
    p = _from(p, block // blocks * r1 * columns + start, ALIGNED)
    at = row * columns + column
    total = tl.zeros([DOWN, LINE], A)
    for j in range(0, r1, DOWN):
        mask = (row < r1 - j) & within
        e = read(_from(p, j * columns, ALIGNED), at, mask, n, OPTIONS, A)
        total += tl.where(mask, e[0], 0.0)
    mean = tl.sum(total, axis=0, keep_dims=True)
    if GROUPED:
        other = tl.arange(0, LINE)[:, None]
        same = other // r2.to(tl.int32) == column // r2.to(tl.int32)
        mean = tl.sum(tl.where(same, tl.trans(mean), 0.0), axis=0, keep_dims=True)
    mean = divide(mean, (r1 * r2).to(A), A)
    last = (r1 - 1) // DOWN * DOWN
    for j in range(0, r1, DOWN):  # backwards: what was read last is still in a cache
        mask = (row < r1 - (last - j)) & within
        q = _from(p, (last - j) * columns, ALIGNED)
        e = read(q, at, mask, n, OPTIONS, A)
        write(q, at, mask, e, e[0] - mean, n, OPTIONS, A)

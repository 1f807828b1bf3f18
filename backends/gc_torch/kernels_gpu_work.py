"""The list of work of a step on a GPU, which follows from shapes and alignment alone: blocks, one for each program.

How a block is walked depends on how the memory of its tensor lies, (outer, r1, inner, r2) as in `table`:

    FLAT         without GC: TILE elements
    ROWS + k     r1 = 1, vectors of whole 16 bytes that lie there: as many as fit into a tile, SHORTEST << k each
    PACKED + k   the same of any length: as many, read as one piece
    WIDE + k     r1 = 1, longer: one vector, in k + 1 tiles
    RAGGED + k   the same where vectors begin anywhere
    LONG         r1 = 1, longer than KEPT tiles, or not at 16 bytes: one vector, read twice
    TALL + k     r2 = 1 (fan-in in front), rows of whole 16 bytes: a strip of columns, in k + 1 tiles
    COLUMNS      the same, taller, or where rows begin anywhere: read twice
    GROUPS + k   pieces of r2 elements, r1 of them a vector, as transposed convolutions have: strips of 32 << k bytes
    SPLIT        the same, of longer pieces: one vector

A kind + UNALIGNED is the same, read an element at a time. Of a tensor that lies at 16 bytes that is at most its last
block, where the elements do not come out even.
"""

import numpy as np

from gc_torch import table

TILE = 4096  # elements that a program has in hand
SHORTEST = 16
STRIP = 32  # bytes of a row that a program takes: what memory is read by
KEPT = 7  # tiles of which a program keeps one number an element until the mean is known
KEPT_WITH_L2 = 4  # of columns, where the weights are read for the mean as well: more would be spilled

_SIZES = TILE.bit_length() - SHORTEST.bit_length() + 1  # of ROWS: powers of 2 from SHORTEST to TILE
_STRIPS = 4
FLAT, SPLIT, COLUMNS, LONG, GROUPS = range(5)
ROWS = GROUPS + _STRIPS
PACKED = ROWS + _SIZES
WIDE = PACKED + _SIZES
RAGGED = WIDE + KEPT
TALL = RAGGED + KEPT
KINDS = TALL + KEPT
UNALIGNED = 64

# The longest programs first: what is left at the end is short.
_TURN = np.full(KINDS, 2)
_TURN[[SPLIT, LONG, COLUMNS]], _TURN[GROUPS:ROWS], _TURN[WIDE:], _TURN[FLAT] = 0, 0, 1, 3


def work(rows: np.ndarray, itemsize: int, l2: bool = False) -> np.ndarray:
    """The blocks of all tensors, in one int64 each: kind (8 bits), tensor (24), block (32).

    Args:
        rows: the table.
        itemsize: of an element of the parameters, in bytes.
        l2: whether the step adds weight decay to the gradient.

    Raises:
        ValueError: there are more tensors, or more blocks of one, than an entry has bits for.

    >>> one = np.zeros((1, len(table.COLUMNS)), np.int64)
    >>> one[0, table.OUTER :] = 3, 1, 1, 4096, 1  # three rows that fill a block each
    >>> [hex(entry) for entry in work(one, 4)]
    ['0x1000000000000000', '0x1000000000000001', '0x1000000000000002']
    """
    outer, r1, inner, r2, centralize = rows[:, table.OUTER :].T
    vector = 16 // itemsize
    size = outer * r1 * inner * r2
    lies = (rows[:, table.W : table.STEP] % 16 == 0).all(1)
    even = r2 % vector == 0
    up = np.maximum(r2, 1)
    row = _ceil_log2(np.clip(up, SHORTEST, TILE)) - SHORTEST.bit_length() + 1  # which of ROWS
    line = STRIP // itemsize
    group = _ceil_log2(np.clip(-(-up // line), 1, 1 << 62))  # which of GROUPS
    tiles, deep = -(-up // TILE), -(-r1 // (TILE // line))
    fits, packs = r2 <= TILE, r2 <= TILE // vector

    kind = np.select(
        [
            centralize == 0,
            (r1 == 1) & fits & even & lies,
            (r1 == 1) & packs,
            (r1 == 1) & (tiles <= KEPT) & even & lies,
            (r1 == 1) & (tiles <= KEPT) & lies,
            r1 == 1,
            (r2 == 1) & (deep <= (KEPT_WITH_L2 if l2 else KEPT)) & (inner % vector == 0) & lies,
            r2 == 1,
            group < _STRIPS,
        ],
        [
            FLAT, ROWS + row, PACKED + row, WIDE + tiles - 1, RAGGED + tiles - 1, LONG, TALL + deep - 1, COLUMNS,
            GROUPS + group,
        ],
        SPLIT,
    )  # fmt: skip
    grouped, across = (kind >= GROUPS) & (kind < ROWS), (kind == COLUMNS) | (kind >= TALL)
    width = np.where(grouped, (line << np.minimum(group, _STRIPS)) // up * up, line)
    aligned = lies & np.select(
        [across, grouped, kind == SPLIT],
        [inner % vector == 0, (inner * r2 % vector == 0) & (width % vector == 0), False],
        True,
    )
    blocks = np.select(
        [kind == FLAT, across | grouped, (kind >= ROWS) & (kind < WIDE)],
        [-(-size // TILE), outer * -(-inner * r2 // width), -(-outer * inner // (TILE // SHORTEST >> row))],
        outer * inner,
    )
    blocks[size == 0] = 0
    if blocks.max(initial=0) >> 32 or len(rows) >> 24:
        raise ValueError(
            f"a step on a GPU takes at most 2^24 tensors of 2^32 blocks; got {len(rows)} of {blocks.max()}"
        )

    order = np.argsort(_TURN[kind], kind="stable")
    tensor, blocks = np.repeat(order, blocks[order]), blocks[order]
    ends = np.cumsum(blocks)
    block = np.arange(len(tensor)) - np.repeat(ends - blocks, blocks)
    entries = (kind + UNALIGNED * ~aligned)[tensor] << 56 | tensor << 32 | block
    # Where the elements do not come out even, the last block.
    pieces = (kind == FLAT) | ((kind >= PACKED) & (kind < WIDE))
    odd = (pieces & aligned & (size % vector != 0))[order] & (blocks > 0)
    entries[ends[odd] - 1] += UNALIGNED << 56
    return entries


def _ceil_log2(x: np.ndarray) -> np.ndarray:
    return np.ceil(np.log2(x)).astype(np.int64)  # of powers of 2 exact


def parts(entries: np.ndarray, one_by_one: bool) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """The work in the order of its launches; each launch as where it begins and ends, and the kinds there, as bits.

    Args:
        entries: from `work`.
        one_by_one: a launch for each tensor, since they share memory.

    >>> parts(np.array([0x0, 0x100000000, 0x1000000000000001]), one_by_one=False)[1]
    [(0, 3, 65537)]
    """
    if one_by_one:
        tensor = entries >> 32 & 0xFFFFFF
        order = np.argsort(tensor, kind="stable")
        entries, tensor = entries[order], tensor[order]
        ends = [*(np.flatnonzero(np.diff(tensor)) + 1).tolist(), len(entries)]
    else:
        ends = [len(entries)]
    found = []
    for start, end in zip([0, *ends], ends, strict=False):
        if start < end:
            kinds = np.unique(entries[start:end] >> 56).tolist()
            found.append((start, end, sum(1 << kind for kind in kinds)))
    return entries, found

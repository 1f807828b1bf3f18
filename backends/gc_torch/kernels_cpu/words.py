"""How much goes at once, and the words of what Python hands to compiled code: a job, its items, its numbers."""

import numpy as np

from gc_torch.table import COLUMNS

STRIP = 512  # elements of a buffer; with those of the other tensors of a step, larger ones are slower
KEPT = 1 << 13  # elements whose steps are kept from one pass to the next
ITEM = 1 << 16  # elements of an item
LANES = 1 << 12  # of a panel, at most, unless one weight vector has more
ALONE = 1 << 10  # lanes of a panel in one thread
BLOCK = 1 << 17  # elements of a panel in one thread, so that its cache holds them
PARTS = 8  # of the sums of a panel that threads share
LINES = 4  # of 64 bytes, that are asked for together when sums of columns are formed, so many bytes ahead:
AHEAD = 1 << 12
SMALL = 1 << 14  # elements of a step for which a second thread takes longer to begin than the first to end

PLAIN, MOMENTUM, NESTEROV, ADAM, AMSGRAD = range(5)  # the rules
SIGN, L2, DECOUPLED, LR, MU, UNDAMPED, BETA1, REST1, BETA2, REST2, EPS, N_NUMBERS = range(12)
(
    TABLE, TENSORS, ITEMS, COUNTS, ENDS, COUNTERS, NUMBERS, SCALES, SCRATCH, SCRATCH_BYTES, SHARED, CAPACITY,
    STAGES, THREADS, RULE, ON_UPDATE, COUNT, LOGS, WIDE, STOCHASTIC, N_JOB,
) = range(21)  # words of a job  # fmt: skip
TENSOR, OFFSET, SIZE, FIRST, LAST, PART, N_ITEM = range(7)  # words of an item
STARTED, READY, FINISHED = range(3)  # counters; then those of the stages

WIDTH = len(COLUMNS)
YES, NO, NONE = np.bool_(True), np.bool_(False), np.int64(0)  # for literals, Numba would compile a function once more
WORDS, SINGLE, DOUBLE = np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float64)
HALF = np.zeros(0, np.uint16)  # bfloat16, of which Numba knows nothing

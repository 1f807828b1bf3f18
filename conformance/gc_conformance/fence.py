"""Between the suite and a port: what a call of the port does to the process ends with the call.

The port keeps its own `sys.path`, with its own folder first as under `python file.py`, and may do with it what it
likes. Warning filters, NumPy's error handling, the context of decimals, the limit of recursion and the standard
streams are the suite's again when the call ends.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import localcontext
from typing import Any

import numpy as np


class Fence:
    """`with fence.port(): …` runs the port's code; `path` is its own `sys.path`, None for that of the process."""

    def __init__(self, path: list[str] | None = None):
        self.path = path

    @contextmanager
    def port(self, warn: bool = False) -> Iterator[None]:
        """Run code of the port. With `warn`, its warnings are errors; without, they are dropped."""
        floating: Any = "warn" if warn else "ignore"
        ours = sys.path, sys.stdout, sys.stderr, sys.getrecursionlimit()
        if self.path is not None:
            sys.path = self.path
        try:
            with warnings.catch_warnings(), np.errstate(all=floating, under="ignore"), localcontext():
                warnings.simplefilter("error" if warn else "ignore")
                yield
        finally:
            if self.path is not None:
                self.path = sys.path
            sys.path, sys.stdout, sys.stderr = ours[:3]
            if sys.getrecursionlimit() != ours[3]:
                sys.setrecursionlimit(ours[3])


def of_the_process(error: BaseException) -> bool:
    """Whether an exception that came out of a port's call was meant for the whole process, and not raised by the port.

    pytest and its plugins end a test by raising their own exceptions from a signal's handler.
    """
    from .result import Ended

    return isinstance(error, KeyboardInterrupt | Ended) or type(error).__module__.startswith("_pytest")

"""Why a plan does what it does with a parameter, as a value; the sentence that people read is made of it.

Programs ask for `why.reason` and `why.details`, never for the wording.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any


class GCWarning(UserWarning):
    """GC is left out, or applied by a guess, where the user may not expect it: a category of its own, to filter by.

    >>> import warnings
    >>> warnings.simplefilter("ignore", GCWarning)
    """


class Reason(Enum):
    """Why a parameter is centralized, or left alone; the value is the sentence, with places for details."""

    # Centralized.
    LAYER = "{layer}, stored {stored}"
    STORED = "stored {stored}"
    STACKED = "stacked layers: {inner}"
    BY_SHAPE = "by shape alone: {inner}"
    OVERRIDE = "override {pattern!r}"
    # Left alone.
    FAN_IN_ONE = "one weight per output: GC would freeze it"
    BIAS = "bias"
    NORM = "normalization scale or shift"
    EMBEDDING = "embedding: looked up, not summed over"
    POSITION = "position embedding: added to the input"
    TOKEN = "token: part of the input"
    RELATIVE_POSITION = "relative-position table: looked up"
    BIAS_KV = "extra key or value: part of the input"
    ACTIVATION = "slope of an activation"
    LAYER_SCALE = "layer scale: one number per channel"
    MAGNITUDE = "magnitude of weight normalization"
    ORTHOGONAL = "orthogonal parametrization"
    PARAMETRIZED = "unknown parametrization: override if it is the weight"
    SHARED_TABLE = "shared with an embedding"
    UNKNOWN = "unknown module, left alone: override if it is a weight"


class Why(str):
    """A sentence, and the value it was made of.

    Args:
        reason: a member of `Reason`, or of an enumeration of a backend's own.
        details: what its sentence has places for. `more` is put behind the sentence.

    >>> why = Why(Reason.LAYER, layer="Conv2d", stored="(out, in, k, k)")
    >>> why, why.reason is Reason.LAYER, why.details["layer"]
    ('Conv2d, stored (out, in, k, k)', True, 'Conv2d')
    """

    reason: Enum
    details: Mapping[str, Any]

    def __new__(cls, reason: Enum, more: str = "", **details: Any) -> "Why":
        self = super().__new__(cls, reason.value.format(**details) + more)
        self.reason, self.details, self._more = reason, details, more
        return self

    def __reduce__(self):
        return _again, (self.reason, self._more, dict(self.details))


def _again(reason: Enum, more: str, details: dict[str, Any]) -> Why:
    return Why(reason, more, **details)


def reason_of(why: str) -> Enum | None:
    """The value that a sentence was made of; None for a plain text.

    >>> reason_of(Why(Reason.BIAS)) is Reason.BIAS, reason_of("my own words") is None
    (True, True)
    """
    return why.reason if isinstance(why, Why) else None

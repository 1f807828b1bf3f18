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
    READ = "read from the program: {operation} sums over it"
    FACTOR_IN = "low-rank factor next to the input: centralized as the layer's weight"
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
    LAYER_SCALE = "layer scale: one factor per channel"
    SCALE = "scale or shift: multiplied or added, not summed over"
    MAGNITUDE = "magnitude of weight normalization"
    ORTHOGONAL = "orthogonal parametrization"
    PARAMETRIZED = "unknown parametrization: override if it is the weight"
    SHARED_TABLE = "shared with an embedding: {names}"
    TIED_TABLE = "a table that is looked up, and summed over elsewhere: tied to a layer"
    SHARED = "shared by layers that read it in different ways: {names}"
    FACTOR = "low-rank factor next to the output: it has no weight vectors of its own"
    FOREIGN = "not a parameter of the model that GC was attached to"
    ADDED = "added to the data"
    INPUT = "part of the data: the input of other layers"
    DIFFERENT = "read in different ways: {ways}"
    FUNCTION = "used through a nonlinear function of it: override with {value} if it is the weight"
    NOT_LINEAR = "used by {operation}, which is not a sum over it"
    PRODUCT = "multiplied by another parameter: override with {value} if it is the weight"
    UNCLEAR = "the program does not show what it is: {what}"
    UNKNOWN = "a parameter owned directly by a custom module: skipped, override if it is a weight"

    # From names, and from the classes of JAX's libraries.
    OF_LAYER = "{layer}, {inner}"
    ITS_AXES = "by the axes it sums over"
    STATE = "state of the model, not a parameter"
    EQUATION = "unknown equation: override if it is a linear map's weight"
    ELLIPSIS = "axes not all named in {equation!r}: override"
    BIAS_UNFIT = "bias shape does not match the layout: pass stacked= or overrides="
    NAME_UNCLEAR = "{name!r} with shape {shape} may be stored in several ways: pass stacked=, overrides= or a batch"
    UNDECLARED = "more axes than one such layer has: pass stacked="
    # From a program, in JAX.
    ONE_AXIS = "one axis: skipped, override if it is a weight"
    PARAMETERS = "multiplied by other parameters before the data: {others}"
    NOT_REACHED = "not reached by this batch"


class Verification(Enum):
    """What running a model on a batch has shown of one parameter; the value is the sentence."""

    READ = "read from the program"
    VERIFIED = "verified"
    PARTLY = "verified for {verified:,} of {outputs:,} outputs; the others were not reached"
    NOT_REACHED = "not reached by the batch"
    ALONE = "not a weight: the batch shows no sum over it"
    LOOKED_UP = "not a weight: looked up, and the input of other layers"
    CANDIDATE = "candidate: the batch sums over {over}, override with {value}"
    FACTOR = "multiplied by another parameter before it meets the data: {others}"
    PARTS = "the batch cannot show it: it reaches parts of weight vectors"
    UNCLEAR = "the batch cannot show it"


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
    _more: str

    def __new__(cls, reason: Enum, more: str = "", **details: Any) -> "Why":
        self = super().__new__(cls, reason.value.format(**details) + more)
        self.reason, self.details, self._more = reason, details, more
        return self

    def plus(self, more: str) -> "Why":
        """The same reason, with something put behind the sentence."""
        return Why(self.reason, self._more + more, **self.details)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.reason, self._more, dict(self.details))


def _again(reason: Enum, more: str, details: dict[str, Any]) -> Why:
    return Why(reason, more, **details)


def reason_of(why: str) -> Enum | None:
    """The value that a sentence was made of; None for a plain text.

    >>> reason_of(Why(Reason.BIAS)) is Reason.BIAS, reason_of("my own words") is None
    (True, True)
    """
    return why.reason if isinstance(why, Why) else None


def name_of(why: str) -> str | None:
    """The name of the value that a sentence was made of, as plain data; None for a plain text.

    >>> name_of(Why(Reason.BIAS)), name_of("my own words")
    ('BIAS', None)
    """
    reason = reason_of(why)
    return None if reason is None else reason.name

"""What the reader of a program knows of each value in it: where it comes from, and which parameters it is made of."""

from enum import Enum, IntEnum
from typing import NamedTuple

from gc_jax.program_dims import Dim, Piece, of_shape, own


class Source(IntEnum):
    """Where a value comes from; of two, the larger wins."""

    CONSTANT = 0
    RANDOM = 1
    DATA = 2


class State(Enum):
    """How far a parameter has come on its way to the data."""

    ALONE = "made of parameters and constants"
    MULTIPLIED = "multiplied by data, number by number"
    LOOKED_UP = "rows of it that data has chosen"
    APPLIED = "summed over with data: the output of a linear map"


class Image(NamedTuple):
    """What a value holds of one parameter."""

    param: int
    dims: tuple[Dim, ...]
    state: State = State.ALONE
    by: str = ""  # the operation that brought it into this state
    linear: bool = True
    chosen: frozenset[Piece] = frozenset()  # along these it stays in one place: one layer of a stack
    sliced: frozenset[int] = frozenset()  # axes of which it is a slice
    reduced: bool = False  # along some axis, without data: a mean or a norm of it
    constant_over: frozenset[Piece] = frozenset()  # summed over with a constant, which may stand in place of data
    times: frozenset[int] = frozenset()  # parameters that it was multiplied with, number by number; not their norms
    factors: frozenset[int] = frozenset()  # parameters that it was contracted with
    low_rank: bool = False  # over fewer places than either has beside them
    merged: bool = False  # and then added to a parameter of the product's shape
    fan_in: int = 0  # APPLIED: of the linear map

    @property
    def pieces(self) -> frozenset[Piece]:
        return own(self.dims)


class Value(NamedTuple):
    """One value of a program."""

    source: Source = Source.CONSTANT
    images: tuple[Image, ...] = ()
    one_hot: bool = False  # a comparison of data with places: at most one of them is 1
    places: bool = False  # 0, 1, 2, …
    spread: frozenset[int] = frozenset()  # axes along which data was repeated
    outer: bool = False  # every number of some data times every number of other data

    @property
    def alone(self) -> bool:
        """Whether it is made of parameters and constants only."""
        return bool(self.images) and self.source is not Source.DATA

    @property
    def params(self) -> frozenset[int]:
        return frozenset(image.param for image in self.images)


def parameter(index: int, shape: tuple[int, ...]) -> Value:
    """A parameter itself."""
    return Value(Source.CONSTANT, (Image(index, of_shape(shape)),))


def of(*values: Value) -> Source:
    """The source of what is made of these."""
    return max((value.source for value in values), default=Source.CONSTANT)

"""A model of the zoo: how it is built, and on what it runs."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class Model(NamedTuple):
    """One architecture."""

    family: str
    name: str
    build: Callable[[], Any]
    batches: Callable[[Any], Iterable[Any]]  # of the model, batches that it may take: the first that it does counts

"""A model of the zoo, how it is built and on what it runs; and what was found about it."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class Model(NamedTuple):
    """One architecture.

    >>> Model("timm", "vit", lambda: None, lambda model: []).name
    'vit'
    """

    family: str
    name: str
    build: Callable[[], Any]  # without weights from anywhere
    batches: Callable[[Any], Iterable[Any]]  # of the model, batches that it may take: the first that it does counts


class Found(NamedTuple):
    """What the sources say of one architecture; plain data, so that it goes to a file and back."""

    family: str
    name: str
    parameters: int = 0
    elements: int = 0
    centralized: int = 0  # parameters, by the plan that is read from the program
    by_layers: int = 0  # ... by the plan without a batch
    left: dict[str, int] = {}  # noqa: RUF012  reason -> parameters
    reached: int = 0
    verified: int = 0  # of the centralized ones, by numbers
    contradictions: tuple[str, ...] = ()  # layer and program, or plan and numbers
    really: bool = False  # it had to run once
    checked: bool = False  # by numbers too
    seconds: float = 0.0  # of reading the program
    problem: str = ""  # why nothing was found

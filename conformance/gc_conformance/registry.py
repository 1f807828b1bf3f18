"""The list of all properties, filled by the decorator `property` as the chapters are imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis.strategies import SearchStrategy

from .port import Port

CHAPTERS = ("operator", "numerics", "layers", "sgdm", "adam", "optimizer", "switch", "theory", "errors")
LEVELS = ("gc", "contract")


@dataclass(frozen=True)
class Property:
    """Something that every port must do.

    Attributes:
        id: "chapter.name"; never changes once published.
        title: the first line of the check's docstring.
        needs: the functions of the port that it judges; without one of them it is *not provided*.
        cases: the strategy that draws its cases, for this port.
        check: raises `Violation` when the port fails the case.
        share: how many of the profile's examples it gets (large arrays get fewer).
    """

    id: str
    title: str
    needs: tuple[str, ...]
    cases: Callable[[Port], SearchStrategy]
    check: Callable[[Port, Any], None]
    share: float = 1.0

    @property
    def chapter(self) -> str:
        return self.id.split(".")[0]

    @property
    def level(self) -> str:
        return "contract" if self.chapter == "errors" else "gc"


PROPERTIES: dict[str, Property] = {}


def property(id: str, *, needs: str | tuple[str, ...], cases: Callable[[Port], SearchStrategy], share: float = 1.0):
    """Register the decorated `check(port, case)` as the property `id`; its docstring's first line is the title."""

    def register(check: Callable[[Port, Any], None]) -> Callable[[Port, Any], None]:
        assert id.split(".")[0] in CHAPTERS and id not in PROPERTIES, id
        title = (check.__doc__ or "").strip().split("\n")[0]
        assert title, f"{id} needs a docstring"
        functions = (needs,) if isinstance(needs, str) else needs
        PROPERTIES[id] = Property(id, title, functions, cases, check, share)
        return check

    return register


def select(
    level: str = "gc",
    chapters: tuple[str, ...] | list[str] | None = None,
    only: tuple[str, ...] | list[str] | None = None,
) -> list[Property]:
    """The properties of a run, in the order of the chapters. `only` names ids and overrides level and chapters.

    Raises:
        ValueError: a level, chapter or id that does not exist.
    """
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, and is {level!r}")
    for chapter in chapters or ():
        if chapter not in CHAPTERS:
            raise ValueError(f"chapters must be among {', '.join(CHAPTERS)}, and name {chapter!r}")
    for id in only or ():
        if id not in PROPERTIES:
            raise ValueError(f"there is no property {id!r}")
    ordered = sorted(PROPERTIES.values(), key=lambda p: CHAPTERS.index(p.chapter))
    if only:
        return [p for p in ordered if p.id in only]
    return [p for p in ordered if (level == "contract" or p.level == "gc") and (not chapters or p.chapter in chapters)]

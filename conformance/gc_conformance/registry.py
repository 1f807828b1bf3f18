"""The list of all properties, filled by the decorator `property` as the chapters are imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis.strategies import SearchStrategy

from .port import Port

# Of the suite: grows when a property is added or judges more than before. `Property.since` names one.
VERSION = 2
CHAPTERS = ("operator", "numerics", "layers", "sgdm", "adam", "optimizer", "switch", "theory", "errors")
# Each level judges what the one before it does, and more.
LEVELS = ("axes-given", "gc", "contract")
_LEVEL_OF = {"layers": "gc", "switch": "gc", "errors": "contract"}  # every other chapter is given the axes
LEAST = 6  # examples that the quickest profile gives a property, whatever its share


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
        since: the version of the suite that judged it first.
        basic: others that fail with a case which fails this one, too, fail for its reason.
    """

    id: str
    title: str
    needs: tuple[str, ...]
    cases: Callable[[Port], SearchStrategy]
    check: Callable[[Port, Any], None]
    share: float = 1.0
    since: int = 1
    basic: bool = False

    @property
    def chapter(self) -> str:
        return self.id.split(".")[0]

    @property
    def level(self) -> str:
        """The lowest level that judges it."""
        return _LEVEL_OF.get(self.chapter, "axes-given")

    def examples(self, of_profile: int) -> int:
        return max(min(LEAST, of_profile), round(of_profile * self.share))


PROPERTIES: dict[str, Property] = {}


def property(
    id: str,
    *,
    needs: str | tuple[str, ...],
    cases: Callable[[Port], SearchStrategy],
    share: float = 1.0,
    since: int = 1,
    basic: bool = False,
):
    """Register the decorated `check(port, case)` as the property `id`; its docstring's first line is the title."""

    def register(check: Callable[[Port, Any], None]) -> Callable[[Port, Any], None]:
        assert id.split(".")[0] in CHAPTERS and id not in PROPERTIES, id
        title = (check.__doc__ or "").strip().split("\n")[0]
        assert title, f"{id} needs a docstring"
        functions = (needs,) if isinstance(needs, str) else needs
        PROPERTIES[id] = Property(id, title, functions, cases, check, share, since, basic)
        return check

    return register


def select(
    level: str = "gc",
    chapters: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
    suite_version: int | None = None,
) -> list[Property]:
    """The properties of a run, in the order of the chapters. `only` names ids and overrides level and chapters.

    Raises:
        ValueError: a level, chapter, id or version that does not exist.
    """
    version = VERSION if suite_version is None else suite_version
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, and is {level!r}")
    if not 1 <= version <= VERSION:
        raise ValueError(f"the suite's version must be 1 to {VERSION}, and is {version!r}")
    for chapter in chapters or ():
        if chapter not in CHAPTERS:
            raise ValueError(f"chapters must be among {', '.join(CHAPTERS)}, and name {chapter!r}")
    for id in only or ():
        if id not in PROPERTIES:
            raise ValueError(f"there is no property {id!r}")
        if PROPERTIES[id].since > version:
            raise ValueError(
                f"{id} is judged since version {PROPERTIES[id].since} of the suite, and {version} is asked for"
            )
    ordered = sorted(PROPERTIES.values(), key=lambda p: CHAPTERS.index(p.chapter))
    ordered = [p for p in ordered if p.since <= version]
    if only:
        return [p for p in ordered if p.id in only]
    reached = LEVELS[: LEVELS.index(level) + 1]
    for chapter in chapters or ():
        if (needed := _LEVEL_OF.get(chapter, "axes-given")) not in reached:
            raise ValueError(f"the chapter {chapter} is judged at level {needed}, and {level} is asked for")
    return [p for p in ordered if p.level in reached and (not chapters or p.chapter in chapters)]

"""A port's own tests: each property is a case of one test function.

import gc_conformance

@gc_conformance.parametrize("my_port.py:centralize")
def test_conforms(holds):
    holds()
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from .known import Reasons, read_for, reasons_of
from .registry import Property, select
from .result import PropertyResult
from .runner import PROFILES, Judge, open_judges


class Failed(AssertionError):
    """A property does not hold. The text is the report."""

    def __init__(self, result: PropertyResult):
        lines = [f"{result.id}: {result.title}", result.message]
        if result.diagnosis:
            lines.append(f"it looks like this: {result.diagnosis}")
        if result.counterexample:
            lines.append(f"smallest counterexample: {result.counterexample}")
        lines += [result.details] if result.details else []
        if result.reproduce:
            lines.append(f"to reproduce, without this suite:\n{result.reproduce}")
        super().__init__("\n".join(lines))


class Stale(AssertionError):
    """A property is listed as a known failure, and does not fail."""


class Asked:
    """A port and what it is asked; each property is judged once."""

    def __init__(self, judge: Judge, level: str, profile: str, seed: int, known: Reasons):
        self.judge, self.level, self.profile, self.seed, self.known = judge, level, profile, seed, known
        self._results: dict[str, PropertyResult] = {}

    def result(self, prop: Property) -> PropertyResult:
        """The verdict on a property; a change of inputs seen beside it counts, unless the property about it fails."""
        from .causes import about_inputs, with_seen
        from .registry import PROPERTIES

        result = self._judged(prop)
        if not result.seen:
            return result
        own = [PROPERTIES[id] for id in about_inputs(result.seen["function"]) if id in PROPERTIES]
        return with_seen([result, *(self._judged(one) for one in own)])[0]

    def _judged(self, prop: Property) -> PropertyResult:
        if prop.id not in self._results:
            examples = prop.examples(PROFILES[self.profile])
            self._results[prop.id] = self.judge.judge(
                prop, seed=self.seed, examples=examples, contract=self.level == "contract"
            )
        return self._results[prop.id]

    def hold(self, prop: Property) -> None:
        """What pytest sees of a property: passed, skipped, expected to fail, or failed."""
        import pytest

        result, reason = self.result(prop), self.known.get(prop.id)
        if reason:
            if result.status == "failed":
                pytest.xfail(f"known failure: {reason}")
            raise Stale(f"{prop.id} is listed as a known failure: {reason}, and {result.status}.")
        if result.status == "not provided":
            pytest.skip(f"not provided: {result.message}")
        if result.status == "failed":
            raise Failed(result)


def parametrize(
    port: object,
    *,
    level: str = "gc",
    profile: str = "standard",
    seed: int = 0,
    chapters: list[str] | None = None,
    only: list[str] | None = None,
    suite_version: int | None = None,
    known: str | Path | None = None,
    time_limit: float | None = None,
    argument: str = "holds",
    **how: Any,
) -> Any:
    """A mark that makes a test of each property; the test calls its argument.

    >>> import gc_conformance
    >>> @gc_conformance.parametrize("gc_core", profile="quick", chapters=["operator"])
    ... def test_conforms(holds):
    ...     holds()

    Args:
        port, level, profile, seed, chapters, only, suite_version, time_limit, how: as of `run`.
        known: a list of known failures; these are expected to fail.
        argument: the name of the test's argument.

    Raises:
        ValueError: a level, chapter, id or version that does not exist.
    """
    import pytest

    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, and is {profile!r}")
    properties = select(level, chapters, only, suite_version)

    @cache
    def asked() -> Asked:
        (judge,) = open_judges(port, 1, time_limit, **how)
        atexit.register(judge.close)
        lists = read_for(known, [judge]) if known else {}
        return Asked(judge, level, profile, seed, reasons_of(judge, lists))

    def case(prop: Property) -> Callable[[], None]:
        return lambda: asked().hold(prop)

    return pytest.mark.parametrize(argument, [pytest.param(case(prop), id=prop.id) for prop in properties])

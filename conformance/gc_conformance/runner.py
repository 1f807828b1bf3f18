"""Hold a port to the properties: Hypothesis draws the cases, the smallest failing one is kept."""

from __future__ import annotations

import contextlib
import platform
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from decimal import localcontext
from importlib import metadata
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.errors import Flaky

from . import chapters as _chapters  # noqa: F401  (importing them fills the registry)
from .bounds import CONTEXT
from .honest import Straight
from .port import NotProvided, Port, load
from .registry import Property, select
from .result import PropertyResult, RunResult, Violation

_RIGHT = load(Straight())
PROFILES = {"quick": 12, "standard": 80, "thorough": 1000}  # examples a property

Progress = Callable[[int, int, str, PropertyResult | None], None]


def run(
    port: object,
    *,
    level: str = "gc",
    profile: str = "standard",
    seed: int = 0,
    chapters: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Hold a port to the suite and return the verdict. The same arguments give the same cases.

    Args:
        port: what `load` takes: "package.module[:attribute]", "file.py:function", or the object itself.
        level: "gc" judges the mathematics, "contract" adds the errors.
        profile: "quick", "standard" or "thorough": how many cases a property gets.
        seed: of all cases.
        chapters: only these chapters.
        only: only these property ids, whatever their level and chapter.
        progress: called as (index, total, id, None) before a property and (index, total, id, result) after it.

    Raises:
        PortError: the port cannot be imported, or offers none of the functions.
        ValueError: a level, profile, chapter or id that does not exist.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, and is {profile!r}")
    properties = select(level, list(chapters or ()), list(only or ()))
    port = load(port)
    started = time.perf_counter()
    results = []
    for index, prop in enumerate(properties):
        if progress:
            progress(index, len(properties), prop.id, None)
        result = judge(prop, port, seed=seed, examples=max(1, round(PROFILES[profile] * prop.share)))
        results.append(result)
        if progress:
            progress(index, len(properties), prop.id, result)
    return RunResult(
        port=port.name,
        target=port.target,
        dtypes=port.dtypes,
        level=level,
        profile=profile,
        seed=seed,
        versions=versions(),
        results=tuple(results),
        seconds=time.perf_counter() - started,
    )


def judge(prop: Property, port: Port, *, seed: int, examples: int, shrink: bool = True) -> PropertyResult:
    """Judge one property with up to `examples` cases; on failure, shrink to the smallest case unless told not to."""
    started = time.perf_counter()

    def verdict(status, judged=0, message="", counterexample="", reproduce="") -> PropertyResult:
        seconds = time.perf_counter() - started
        return PropertyResult(
            prop.id, prop.chapter, prop.level, prop.title, status, judged, seconds, message, counterexample, reproduce
        )

    if missing := [name for name in prop.needs if not port.provides(name)]:
        return verdict("not provided", message=f"the port has no {' and no '.join(missing)}")

    judged = 0
    refusals: dict[str, None] = {}
    failing: list[Any] = []

    @hypothesis.seed(zlib.crc32(f"{prop.id}:{seed}".encode()))
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=False,
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.quiet,
        suppress_health_check=tuple(HealthCheck),  # pyright: ignore[reportArgumentType]
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
    )
    @given(prop.cases(port))
    def check(case: Any) -> None:
        nonlocal judged
        try:
            prop.check(port, case)
        except NotProvided as refusal:
            refusals[str(refusal)] = None
            return
        except Violation:
            failing[:] = [case]
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # The suite stumbled over what it was given. If it does so over a right port, too, the fault is its own.
            with contextlib.suppress(NotProvided, Violation):
                prop.check(_RIGHT, case)
            failing[:] = [case]
            raise Violation(f"what the port returns cannot be judged: {type(error).__name__}: {error}") from error
        judged += 1

    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(), localcontext(CONTEXT):
            warnings.simplefilter("ignore")
            check()
    except Violation as violation:
        case, message = failing[0], str(violation)
        return verdict("failed", judged, message, case.text(), case.reproduce(port, violation.show, message))
    except Flaky as flaky:
        if not failing:
            raise
        message = f"the port gives different results for the same input: {flaky}"
        return verdict("failed", judged, message, failing[0].text(), failing[0].reproduce(port))
    if not judged:
        return verdict("not provided", message="; ".join(refusals))
    return verdict("passed", judged, f"not provided: {'; '.join(refusals)}" if refusals else "")


def versions() -> dict[str, str]:
    try:
        suite = metadata.version("gradient-centralization")
    except metadata.PackageNotFoundError:
        suite = "source tree"
    return {
        "gradient-centralization": suite,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "hypothesis": hypothesis.__version__,
    }

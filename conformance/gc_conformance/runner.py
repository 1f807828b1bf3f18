"""Hold a port to the suite: which properties, how many examples of each, and where the port lives meanwhile."""

from __future__ import annotations

import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from typing import Any, Protocol

import hypothesis
import numpy as np

from .causes import with_seen
from .judging import judge
from .port import MEMORY, Port, load
from .registry import VERSION, Property, select
from .result import Ended, PropertyResult, RunResult

PROFILES = {"quick": 12, "standard": 80, "thorough": 1000}  # examples a property
TIME_LIMIT = 60.0  # seconds that one call of a port may take
# After so many calls that ended so, other properties of the same functions are not tried.
PATIENCE = {"hangs": 3, "dies": 10}

Progress = Callable[[int, int, str, PropertyResult | None], None]


class Judge(Protocol):
    """What holds a port and judges its properties: in this process, or in one of the port's own."""

    name: str
    target: str
    dtypes: tuple[str, ...]

    def judge(self, prop: Property, *, seed: int, examples: int, contract: bool) -> PropertyResult: ...

    def close(self) -> None: ...


def run(
    port: object,
    *,
    level: str = "gc",
    profile: str = "standard",
    seed: int = 0,
    chapters: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
    suite_version: int | None = None,
    time_limit: float | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    **how: Any,
) -> RunResult:
    """Hold a port to the suite and return the verdict. The same arguments give the same cases.

    A port that is named is judged in a process of its own, as many as `jobs`; one that is given as an object, in this
    one.

    Args:
        port: what `load` takes: "package.module[:attribute]", "file.py:function", "command: …", or the object itself.
        level: "axes-given" judges the mathematics where the axes are given, "gc" their choice too, "contract" adds the
            errors.
        profile: "quick", "standard" or "thorough": how many cases a property gets.
        seed: of all cases.
        chapters: only these chapters.
        only: only these property ids, whatever their level and chapter.
        suite_version: judge as this version of the suite did, without the properties that came later.
        time_limit: seconds that one call of the port may take; 60 when None. Of a port given as an object, only where
            the system has an interval timer that nobody else uses, and only in the main thread.
        jobs: processes that judge side by side.
        progress: called as (index, total, id, None) before a property and (index, total, id, result) after it.
        how: of `load`, for a port that is named.

    Raises:
        PortError: the port cannot be imported, or offers none of the functions.
        ValueError: a level, profile, chapter, id or version that does not exist.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, and is {profile!r}")
    properties = select(level, list(chapters or ()), list(only or ()), suite_version)
    judges = open_judges(port, min(jobs, len(properties)) or 1, time_limit, **how)
    try:
        return judged(
            judges,
            properties,
            level=level,
            profile=profile,
            seed=seed,
            chapters=tuple(chapters or ()),
            suite_version=suite_version,
            progress=progress,
        )
    finally:
        for one in judges:
            one.close()


def open_judges(port: object, jobs: int = 1, time_limit: float | None = None, **how: Any) -> list[Judge]:
    """Processes with the port, where it is named, or one judge for the object in this process."""
    if isinstance(port, str):
        from .process import Worker

        # The first says at once when it cannot be loaded; the others start when they are asked.
        return [Worker(port, time_limit or TIME_LIMIT, start=not number, **how) for number in range(jobs)]
    return [Here(load(port, **how), time_limit)]


def judged(
    judges: Sequence[Judge],
    properties: Sequence[Property],
    *,
    level: str,
    profile: str,
    seed: int,
    chapters: tuple[str, ...] = (),
    suite_version: int | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """The verdict of these judges, who hold the same port, on these properties."""
    started = time.perf_counter()
    ended: dict[tuple[str, ...], list[PropertyResult]] = {}

    def one(judge: Judge, prop: Property) -> PropertyResult:
        before = ended.setdefault(tuple(name for name in prop.needs if name != MEMORY), [])
        if before and len(before) >= PATIENCE[before[-1].how]:
            last = before[-1]
            message = f"not tried: {before[0].id} and {len(before) - 1} others had ended so: {last.message}"
            return PropertyResult(
                prop.id,
                prop.chapter,
                prop.level,
                prop.title,
                "failed",
                message=message,
                how=last.how,
                also=(before[0].id,),
            )
        examples = prop.examples(PROFILES[profile])
        result = judge.judge(prop, seed=seed, examples=examples, contract=level == "contract")
        if result.how in ("hangs", "dies"):
            before.append(result)
        return result

    results: list[PropertyResult] = []

    def tell(index: int, result: PropertyResult | None) -> None:
        if progress:
            progress(index, len(properties), properties[index].id, result)

    if len(judges) == 1:
        for index, prop in enumerate(properties):
            tell(index, None)
            results.append(one(judges[0], prop))
            tell(index, results[-1])
    else:
        results = _side_by_side(judges, properties, one, tell)
    about = judges[0]
    return RunResult(
        port=about.name,
        target=about.target,
        dtypes=about.dtypes,
        level=level,
        profile=profile,
        seed=seed,
        versions=versions(),
        results=with_seen(results),
        seconds=time.perf_counter() - started,
        asked=chapters,
        suite=suite_version or VERSION,
    )


def _side_by_side(
    judges: Sequence[Judge],
    properties: Sequence[Property],
    one: Callable[[Judge, Property], PropertyResult],
    tell: Callable[[int, PropertyResult | None], None],
) -> list[PropertyResult]:
    """Each property to the next judge who is free; results in the order of the properties."""
    free = list(judges)
    pool = ThreadPoolExecutor(len(judges))

    def work(prop: Property) -> PropertyResult:
        judge = free.pop()
        try:
            return one(judge, prop)
        finally:
            free.append(judge)

    try:
        futures = [pool.submit(work, prop) for prop in properties]
        results = []
        for index, future in enumerate(futures):
            tell(index, None)
            results.append(future.result())
            tell(index, results[-1])
        return results
    except BaseException:
        for judge in judges:
            judge.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


class Here:
    """A port in this process."""

    def __init__(self, port: Port, time_limit: float | None = None):
        self.port = port
        self.name, self.target, self.dtypes = port.name, port.target, port.dtypes
        port.clock = self.alarm = Alarm(time_limit or TIME_LIMIT)

    def judge(self, prop: Property, *, seed: int, examples: int, contract: bool) -> PropertyResult:
        with self.alarm.ready():
            return judge(prop, self.port, seed=seed, examples=examples, contract=contract)

    def close(self) -> None:
        pass


class Alarm:
    """A context around a call in this process: `Ended` where it takes too long and the alarm is nobody else's."""

    def __init__(self, limit: float):
        self.limit = limit
        self.ours = False

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Take the system's timer for some calls, if it is free: once for all, because that is slow."""
        main = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
        self.ours = main and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        if self.ours:
            signal.signal(signal.SIGALRM, self._ring)
        try:
            yield
        finally:
            if self.ours:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
            self.ours = False

    def __enter__(self) -> None:
        if self.ours:
            signal.setitimer(signal.ITIMER_REAL, self.limit)

    def __exit__(self, *error: object) -> None:
        if self.ours:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _ring(self, *of_signal: object) -> None:
        raise Ended("hangs", f"it hangs: one call has not ended after {self.limit:g} s")


def versions() -> dict[str, str]:
    try:
        suite = metadata.version("gradient-centralization")
    except metadata.PackageNotFoundError:
        suite = "source tree"
    return {
        "suite": str(VERSION),
        "gradient-centralization": suite,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "hypothesis": hypothesis.__version__,
    }

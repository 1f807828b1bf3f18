"""Hold a port to one property: Hypothesis draws the cases, the smallest failing one is kept."""

from __future__ import annotations

import contextlib
import time
import traceback
import warnings
import zlib
from collections.abc import Callable
from decimal import localcontext
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.errors import Flaky

from . import chapters as _chapters  # noqa: F401  (importing them fills the registry)
from . import diagnosis
from .bounds import CONTEXT
from .causes import also_broken
from .fence import of_the_process
from .honest import Straight
from .port import MEMORY, NotProvided, Port, load
from .registry import Property
from .result import AdapterFault, Ended, PropertyResult, Violation, clean

_RIGHT = load(Straight())
ABOUT_INPUTS = ("input_unchanged", "inputs_unchanged", "grads_unchanged", "read_only_input", "no_aliasing")
OnCase = Callable[[Any], None]


def judge(
    prop: Property,
    port: Port,
    *,
    seed: int,
    examples: int,
    shrink: bool = True,
    contract: bool = True,
    on_case: OnCase | None = None,
) -> PropertyResult:
    """Judge one property with up to `examples` cases; on failure, shrink to the smallest case unless told not to.

    Args:
        contract: whether refusing what only the contract asks for (NaN, empty arrays) is wrong.
        on_case: called with each case before the port is.
    """
    started = time.perf_counter()

    def verdict(status, judged=0, message="", **more) -> PropertyResult:
        seconds = time.perf_counter() - started
        return PropertyResult(
            prop.id, prop.chapter, prop.level, prop.title, status, judged, seconds, clean(message), **more
        )

    if missing := [name for name in prop.needs if not port.provides(name)]:
        lacks = [f"no {name}" for name in missing if name != MEMORY] or [f"no {MEMORY} that the suite could see"]
        return verdict("not provided", message=f"the port has {' and '.join(lacks)}")

    judged = 0
    refusals: dict[str, None] = {}
    failing: list[tuple[Any, str, str]] = []  # the case, how a program is asked it again, and what came of it
    seen: list[tuple[Any, str, str]] = []  # (case, function, message)
    port.contract = contract

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
        port.begin()
        if on_case:
            on_case(case)
        try:
            _checked(prop, port, case)
        except NotProvided as refusal:
            refusals[str(refusal)] = None
            return
        except (Violation, Ended) as ended:
            failing[:] = [(case, port.replay(), str(ended))]
            raise
        judged += 1
        if port.changed and not prop.id.endswith(ABOUT_INPUTS):
            seen.extend((case, name, message) for name, message in port.changed.items())

    def failed(
        case: Any, how: str, message: str, details: str = "", show: str | None = None, again: str = "", **more
    ) -> PropertyResult:
        text = case.text() if case else ""
        lines = again or (case.reproduce(port, show, clean(message)) if case else "")
        more = {"counterexample": clean(text), "reproduce": lines, "how": how, "details": clean(details), **more}
        return verdict("failed", judged, message, **more)

    try:
        with np.errstate(all="ignore"), warnings.catch_warnings(), localcontext(CONTEXT):
            warnings.simplefilter("ignore")
            try:
                check()
            except Violation as violation:
                case, again, message = failing[0]
                if violation.how == "wrong" and (other := _another(prop, port, case, message)):
                    return failed(case, "flaky", _both(message, other), again=again)
                details = _traceback_of(violation) if isinstance(violation, AdapterFault) else ""
                return failed(
                    case,
                    violation.how,
                    str(violation),
                    details,
                    violation.show,
                    again,
                    also=also_broken(prop, port, case),
                    diagnosis=diagnosis.of(port, prop, case),
                )
            except Flaky:
                if not failing:
                    raise
                case, again, message = failing[0]
                other = _another(prop, port, case, message) or "it always holds"
                return failed(case, "flaky", _both(message, other), again=again)
            except Ended as ended:
                return failed(failing[0][0], ended.how, str(ended), again=failing[0][1])
    finally:
        port.contract = True
    if seen:
        case, name, message = min(seen, key=lambda one: len(one[0].text()))
        more = failed(case, "inputs", message)
        kept = {key: getattr(more, key) for key in ("message", "counterexample", "reproduce", "how")}
        observed = {"function": name, **kept}
    else:
        observed = {}
    if not judged:
        return verdict("not provided", message="; ".join(refusals))
    return verdict("passed", judged, f"not provided: {'; '.join(refusals)}" if refusals else "", seen=observed)


def _checked(prop: Property, port: Port, case: Any) -> None:
    """The property's own check; what the suite itself stumbles over is a violation, too, unless it is its own fault."""
    try:
        prop.check(port, case)
    except (NotProvided, Violation):
        raise
    except BaseException as error:
        if of_the_process(error):
            raise
        # The suite stumbled over what it was given. If it does so over a right port, too, the fault is its own.
        with contextlib.suppress(NotProvided, Violation):
            prop.check(_RIGHT, case)
        raise Violation(f"what the port returns cannot be judged: {type(error).__name__}: {error}") from error


def _another(prop: Property, port: Port, case: Any, first: str) -> str:
    """Another outcome of the same case, where trying it again gives one."""
    for _ in range(3):
        try:
            _checked(prop, port, case)
            return "it holds"
        except NotProvided as refusal:
            return f"not provided: {refusal}"
        except Violation as violation:
            if str(violation) != first:
                return str(violation)
    return ""


def _both(first: str, other: str) -> str:
    return f"the port gives different results for the same case: {first}; and then: {other}"


def _traceback_of(violation: Violation) -> str:
    return "".join(traceback.format_exception(violation.__cause__)) if violation.__cause__ else ""

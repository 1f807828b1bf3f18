"""One cause, one failure: which failures have the reason of an earlier, more basic one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .port import NotProvided, Port
from .registry import PROPERTIES, Property
from .result import Ended, PropertyResult, Violation


def also_broken(prop: Property, port: Port, case: Any) -> tuple[str, ...]:
    """The basic properties that this failing case breaks, too, as it is or as the call of `centralize` in it."""
    found = []
    for basic in PROPERTIES.values():
        if not basic.basic or basic is prop or not port.provides(*basic.needs):
            continue
        for one in _cases_in(case, basic):
            try:
                basic.check(port, one)
            except Violation:
                found.append(basic.id)
                break
            except (NotProvided, Ended, Exception):
                continue
    return tuple(found)


def _cases_in(case: Any, basic: Property) -> list[Any]:
    """What of a case the check of a basic property can be asked about."""
    from .strategies import Gradient, Steps, Training
    from .switch_runs import Case

    match case:
        case Gradient() if basic.chapter == "operator":
            return [case]
        case Steps() if basic.chapter == case.rule:
            return [case]
        case Steps() if basic.chapter == "operator":
            return [Gradient(grad, case.axis) for grad in case.grads]
        case Case() if basic.chapter == "switch" and "layer" not in case.layers:
            return [replace(case, options={})]
        case Training() if basic.id == f"optimizer.{case.kind}":
            return [case]
    return []


def grouped(failed: Sequence[PropertyResult]) -> dict[str, tuple[str, ...]]:
    """The failed ids by the first of them that fails for the same reason, in the order of the suite."""
    heads: dict[str, list[str]] = {}
    of_reason: dict[tuple[str, ...], str] = {}
    group_of: dict[str, str] = {}
    basics_first = sorted(failed, key=lambda result: not (result.id in PROPERTIES and PROPERTIES[result.id].basic))
    failing = {result.id for result in failed}
    for result in basics_first:
        reason = _reason(result)
        broken = [id for id in result.also if id in failing and id in group_of]
        head = of_reason.get(reason) if reason else None
        head = head or (group_of[broken[0]] if broken and not result.diagnosis else None) or result.id
        group_of[result.id] = head
        heads.setdefault(head, []).append(result.id)
        if reason:
            of_reason.setdefault(reason, head)
    order = {result.id: n for n, result in enumerate(failed)}
    return {
        head: tuple(sorted(ids, key=lambda id: order[id]))
        for head, ids in sorted(heads.items(), key=lambda item: order[item[0]])
    }


def _reason(result: PropertyResult) -> tuple[str, ...]:
    """What equal failures have in common: a diagnosis, an exception, a call that did not end."""
    if result.how == "inputs":
        return ("inputs", result.message.split(" ")[0])
    if result.diagnosis:
        return ("diagnosis", result.diagnosis)
    if result.how in ("raises", "hangs", "dies", "adapter"):
        return (result.how, re.sub(r"\d+", "N", result.message))
    return ()


def with_seen(results: Sequence[PropertyResult]) -> tuple[PropertyResult, ...]:
    """Results in which a change of inputs seen beside another property counts, unless its own property failed."""
    from dataclasses import replace

    failed = {result.id for result in results if result.status == "failed"}
    return tuple(
        replace(result, status="failed", **{k: v for k, v in result.seen.items() if k != "function"})
        if result.seen and result.status == "passed" and not failed & set(about_inputs(result.seen["function"]))
        else result
        for result in results
    )


def about_inputs(function: str) -> tuple[str, ...]:
    """The properties that say what a function must not do to its inputs."""
    rule = function.partition("_")[0]
    return {
        "centralize": ("operator.input_unchanged", "operator.read_only_input"),
        "centralize_layer": ("layers.input_unchanged",),
        "step": ("optimizer.grads_unchanged",),
    }.get(function, (f"{rule}.inputs_unchanged", f"{rule}.no_aliasing"))

"""Three sources about each parameter of a PyTorch model: its layer, the program, and the numerical check."""

import contextlib
import math
import time
import warnings
from collections import Counter
from typing import Any

import torch

from examples.zoo.model import Found, Model
from gc_core.layouts import View
from gc_core.plan import Row
from gc_core.reasons import Verification, name_of, reason_of
from gc_core.uses import decided
from gc_torch import program, tree, verify

LARGEST = 5_000_000  # elements of a model that is checked by numbers


def found(one: Model) -> Found:
    """What is found about one model, or the problem that it has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = _read(one, meta=True)
        # What depends on values, or mixes devices, needs a model that has some.
        wants_values = any(word in result.problem for word in ("meta", "device", "Dynamic", "Data", "item"))
        return _read(one, meta=False) if wants_values else result


def _read(one: Model, *, meta: bool) -> Found:
    empty = Found(one.family, one.name)
    try:
        with torch.device("meta") if meta else contextlib.nullcontext():
            model = one.build()
    except Exception as error:
        return empty._replace(problem=f"is not built: {_text(error)}")
    parameters = tree.named_parameters(model)
    if not parameters:
        return empty._replace(problem="has no parameters")
    known = tree.named_views(model, parameters)
    first = ""
    for batch in one.batches(model):
        started = time.perf_counter()
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always", program.GCWarning)
                read = program.read(model, parameters, known, batch)
        except Exception as error:
            first = first or _text(error)
            continue
        seconds = time.perf_counter() - started
        really = any(issubclass(w.category, program.GCWarning) for w in said)
        return _compared(one, parameters, known, read)._replace(seconds=seconds, really=really)
    return empty._replace(problem=f"takes none of the batches: {first}")


def checked(one: Model, result: Found) -> Found:
    """The same, with what the numbers say."""
    if result.problem or result.elements > LARGEST:
        return result
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = one.build().eval()
        parameters = tree.named_parameters(model)
        known = tree.named_views(model, parameters)
        for batch in one.batches(model):
            try:
                read = program.read(model, parameters, known, batch)
                rows = tuple(_row(name, p, decided(known[name], read[name])[0]) for name, p in parameters.items())
                shown = verify.shown(model, rows, parameters, batch)
            except Exception:
                continue
            wrong = [f"{name}: by numbers {seen}" for name, (right, seen) in shown.items() if not right]
            on = [name for name in shown if decided(known[name], read[name])[0].axes is not None]
            verified = sum(reason_of(shown[name][1]) in (Verification.VERIFIED, Verification.PARTLY) for name in on)
            return result._replace(verified=verified, checked=True, contradictions=(*result.contradictions, *wrong))
    return result


def _text(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:90] if lines else ''}"


def _row(name: str, parameter: Any, view: View) -> Row:
    return Row(name, tuple(parameter.shape), view.shape, view.axes, view.why)


def _compared(one: Model, parameters: Any, known: dict[str, View], read: dict[str, View | None]) -> Found:
    left: Counter[str] = Counter()
    contradictions = []
    centralized = 0
    for name, parameter in parameters.items():
        view, contradicts = decided(known[name], read[name])
        if view.axes is None:
            left[name_of(view.why) or str(view.why)] += 1
        centralized += view.axes is not None
        if contradicts:
            seen = read[name]
            assert seen is not None
            contradictions.append(
                f"{name} {tuple(parameter.shape)}: its layer says {known[name].axes} ({known[name].why}), the program "
                f"{seen.axes} ({seen.why})"
            )
    return Found(
        one.family,
        one.name,
        parameters=len(parameters),
        elements=sum(math.prod(parameter.shape) for parameter in parameters.values()),
        centralized=centralized,
        by_layers=sum(view.axes is not None for view in known.values()),
        left=dict(left),
        reached=sum(view is not None for view in read.values()),
        contradictions=tuple(contradictions),
    )

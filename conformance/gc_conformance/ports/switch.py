"""The switch of an optimizer: with which arguments GC is on, and with which it is off."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..port import PortError


@dataclass(frozen=True)
class Switch:
    """By place of GC, the arguments that an optimizer is built with.

    Attributes:
        arguments: by "gradient", "update" and "off"; what is absent, the optimizer does not have.
        text: how it is written, for the report.
    """

    arguments: dict[str, dict[str, Any]]
    text: str

    @classmethod
    def parse(cls, text: str | Switch | dict[str, dict[str, Any]]) -> Switch:
        """From "use_gc", "gc_on=gradient,none" or "gc_on=gradient,none,update", or from a dict of the arguments."""
        if isinstance(text, Switch):
            return text
        if isinstance(text, dict):
            return cls(text, ", ".join(f"{place}: {values}" for place, values in text.items()))
        name, equals, values = text.partition("=")
        given = [value_of(v) for v in values.split(",")] if equals else [True, False]
        if not name.isidentifier() or len(given) not in (2, 3):
            raise PortError(f"--switch must be NAME or NAME=ON,OFF or NAME=ON,OFF,UPDATE, and is {text!r}.")
        return cls({place: {name: v} for place, v in zip(("gradient", "off", "update"), given, strict=False)}, text)

    def of(self, gc: str | None) -> dict[str, Any]:
        """The arguments for a place of GC, or for "off"; none for None, an optimizer that has no switch."""
        if gc is None:
            return {}
        if gc not in self.arguments:
            raise NotImplementedError(f"GC on the {gc}")
        return self.arguments[gc]


def value_of(text: str) -> Any:
    """A value as it is written on the command line: a number, a tuple, True, None, package.module:name, or text."""
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        module, _, name = text.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as missing:
            raise PortError(f"--with {text}: {missing}.") from missing
    try:
        return ast.literal_eval({"none": "None", "true": "True", "false": "False"}.get(text.lower(), text))
    except (ValueError, SyntaxError):
        return text


def options_of(words: Sequence[str]) -> dict[str, Any]:
    """The arguments of `--with name=value`, repeated.

    Raises:
        PortError: one is not of that form.
    """
    pairs = [word.partition("=") for word in words]
    for word, (name, equals, _) in zip(words, pairs, strict=True):
        if not equals or not name.isidentifier():
            raise PortError(f"--with must be NAME=VALUE, and is {word!r}.")
    return {name: value_of(value) for name, _, value in pairs}


def check(made: Callable, switch: Switch, options: dict[str, Any], given: int) -> None:
    """Raise `PortError`, in one sentence, where `made` cannot be called with these arguments after `given` others."""
    name = getattr(made, "__qualname__", repr(made))
    try:
        parameters = list(inspect.signature(made).parameters.values())
    except (TypeError, ValueError):
        return  # it has none that can be read
    named = {p.name for p in parameters[given:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    asked = set(options).union(*switch.arguments.values())
    for argument in sorted(asked - named):
        if not (takes_any and _mentions(made, argument)):
            have = f"it has {', '.join(sorted(named))}" if named else "it has none"
            what = "argument" if argument in options else "switch"
            raise PortError(f"{name} has no {what} {argument!r}; {have}.")
    needed = [
        p.name
        for p in parameters[given:]
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in asked
    ]
    if needed:
        how = f"give --with {needed[0]}=VALUE (a class or function as package.module:NAME)"
        raise PortError(f"{name} cannot be built without {', '.join(needed)}: {how}.")


def _mentions(made: Callable, argument: str) -> bool:
    """Whether the code of a class that takes any keyword ever names this one."""
    for place in getattr(made, "__mro__", [made]):
        try:
            if f'"{argument}"' in (text := inspect.getsource(place).replace("'", '"')) or f"{argument}:" in text:
                return True
        except (TypeError, OSError):
            continue
    return False


def without_decay(made: Callable) -> dict[str, Any]:
    """`weight_decay=0.0`, for what has another default: the suite says itself where there is to be decay."""
    decay = inspect.signature(made).parameters.get("weight_decay")
    return {"weight_decay": 0.0} if decay is not None and decay.default not in (decay.empty, None, 0) else {}


def spelled(options: dict[str, Any]) -> tuple[str, str]:
    """Arguments as they are written in a call, and what must be imported for them."""
    words, modules = "", ""
    for name, value in options.items():
        text = repr(value)
        if inspect.isclass(value) or inspect.isfunction(value):
            text, modules = f"{value.__module__}.{value.__qualname__}", f"{modules}; import {value.__module__}"
        words += f", {name}={text}"
    return words, modules


def imported(made: Any) -> tuple[str, str]:
    """A line that imports an object, and its name afterwards; an object that no line can import is `made`."""
    module, name = getattr(made, "__module__", ""), getattr(made, "__qualname__", "")
    importable = module and module != "__main__" and not module.startswith("gc_port_") and name.isidentifier()
    if importable and getattr(sys.modules.get(module), name, None) is made:
        return f"from {module} import {name}", name
    return "made = ...  # what was judged", "made"

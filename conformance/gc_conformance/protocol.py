"""Ports in any language, live: a program that answers lines of JSON on its standard input with lines on its output.

What each line holds is said in `protocol.schema.json`; arrays are those of the test vectors, exact bits in hexadecimal.
`Program` is such a port as Python sees it: its functions have the names of the contract, and take and return NumPy
arrays. A program that ends, is silent for too long, or prints what is no answer, ends the call that asked it, and is
started again for the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
from collections import namedtuple
from collections.abc import Callable
from functools import cache, partial
from importlib import resources
from typing import Any

import jsonschema
import numpy as np
from jsonschema.exceptions import best_match

from .bits import array_of, described
from .port import DTYPES, FUNCTIONS, PortError
from .result import Ended

VERSION = 1
SCHEMA_NAME = "protocol.schema.json"
LONGEST = 1 << 24  # bytes of one answer: the largest that is asked for takes a third
STATES = {
    "sgdm": namedtuple("SGDMState", ["momentum_buffer"]),
    "adam": namedtuple("AdamState", ["step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"]),
}
KINDS = {"TypeError": TypeError, "ValueError": ValueError}


@cache
def schema() -> dict:
    return json.loads(resources.files("gc_conformance").joinpath(SCHEMA_NAME).read_text(encoding="utf-8"))


@cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**schema(), "$ref": "#/$defs/answer"})


class Program:
    """A program that is a port, by the words of its command line.

    Attributes:
        by_value: arrays are not shared with it, so nothing can be judged that is about their memory.
    """

    by_value = True

    def __init__(self, command: str):
        self.command = command
        self._process: subprocess.Popen | None = None
        self._number = 0
        self._asked: list[str] = []
        about = self._start()
        self.name: str = about["name"]
        self.dtypes: tuple[str, ...] = tuple(about.get("dtypes", ("float32", "float64")))
        self.rounding: tuple[str, ...] = tuple(about.get("rounding", ()))
        self.sgd_first_step: str = about.get("sgd_first_step", "damped")
        for function in about["provides"]:
            setattr(self, function, self._functions()[function])

    def _functions(self) -> dict[str, Callable]:
        return {
            "centralize": lambda grad, axis: self._ask("centralize", grad=grad, axis=_axis(axis)),
            "fan_in_axes": self._fan_in_axes,
            "projection_matrix": lambda n: self._ask("projection_matrix", n=n),
            "centralize_layer": lambda kind, grad, **layer: self._ask(
                "centralize_layer", kind=kind, grad=grad, **layer
            ),
            "sgdm_init": partial(self._init, "sgdm"),
            "sgdm_update": partial(self._update, "sgdm"),
            "adam_init": partial(self._init, "adam"),
            "adam_update": partial(self._update, "adam"),
            "optimizer": self._optimizer,
        }

    # ---- The functions of a port

    def _fan_in_axes(self, shape: Any, layout: str) -> tuple[int, ...] | None:
        axes = self._ask("fan_in_axes", shape=list(shape), layout=layout)
        return None if axes is None else tuple(axes)

    def _init(self, rule: str, w: np.ndarray, **options: Any) -> Any:
        return _state(rule, self._ask(f"{rule}_init", w=w, options=options))

    def _update(self, rule: str, w: np.ndarray, grad: np.ndarray, state: Any, *, axis: Any, **options: Any) -> Any:
        fields = getattr(state, "_asdict", None)
        if fields is None:
            raise NotImplementedError(f"a state that is a {type(state).__name__}")
        asked = {"w": w, "grad": grad, "state": fields(), "axis": _axis(axis), "options": options}
        done = self._ask(f"{rule}_update", **asked)
        return done["w"], _state(rule, done["state"])

    def _optimizer(self, kind: str, params: dict, axes: dict, **options: Any) -> Any:
        over = {name: _axis(axis) for name, axis in axes.items()}
        return _Remote(self, self._ask("optimizer", kind=kind, params=params, axes=over, options=options))

    # ---- Lines

    def _start(self) -> dict:
        try:
            words = shlex.split(self.command, posix=os.name == "posix")
            if not words:
                raise PortError("a command must name a program, and is empty.")
            self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except (OSError, ValueError) as error:
            raise PortError(f"{self.command} cannot be started: {error}") from error
        try:
            about = self._answer({"do": "start", "version": VERSION})
        except Ended as ended:
            raise PortError(f"{self.command}: {ended}") from ended
        if not isinstance(about, dict) or "provides" not in about:
            raise PortError(f"{self.command} does not say what it provides; it says {_short(about)}")
        if about["version"] != VERSION:
            raise PortError(f"{self.command} speaks version {about['version']} of the protocol, and not {VERSION}.")
        if unknown := [d for d in about.get("dtypes", ()) if d not in DTYPES]:
            raise PortError(f"{self.command}: dtypes must be among {', '.join(DTYPES)}, and names {unknown[0]!r}.")
        if unknown := [name for name in about["provides"] if name not in FUNCTIONS]:
            raise PortError(f"{self.command} provides {unknown[0]!r}, which is no function of a port.")
        return about

    def _ask(self, do: str, **arguments: Any) -> Any:
        if self._process is None:
            self._start()
        return self._answer({"do": do, **arguments})

    def _answer(self, question: dict) -> Any:
        assert self._process and self._process.stdin and self._process.stdout
        self._number += 1
        line = json.dumps({"seq": self._number, **_plain(question)}, allow_nan=False)
        self._asked.append(line)
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it has ended, as reading will say
        raw = self._process.stdout.readline(LONGEST + 1)
        if not raw:
            raise self._ended(f"the program has ended{self._code()} in {question['do']}")
        if len(raw) > LONGEST:
            raise self._ended(f"the program prints too much: more than {LONGEST:,} bytes in {question['do']}")
        try:
            answer = json.loads(raw)
        except ValueError:
            raise self._ended(f"the program prints what is no JSON in {question['do']}: {_short(raw)}") from None
        if wrong := best_match(_validator().iter_errors(answer)):
            where = "/".join(map(str, wrong.absolute_path)) or "the answer"
            text = f"the program's answer to {question['do']} is not as {SCHEMA_NAME} says, at {where}"
            raise self._ended(f"{text}: {wrong.message[:200]}")
        if answer["seq"] != self._number:
            raise self._ended(f"the program answers {answer['seq']}, and was asked {self._number}")
        if "not_provided" in answer:
            raise NotImplementedError(answer["not_provided"])
        if "error" in answer:
            error = answer["error"]
            raise KINDS.get(error.get("kind", ""), RuntimeError)(error["message"])
        return _numpy(answer["result"])

    def _code(self) -> str:
        assert self._process
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f" with exit code {self._process.wait(1)}"
        return ""

    def _ended(self, message: str) -> Ended:
        """End the program, so that the next question starts it anew."""
        self.close()
        return Ended("dies", message)

    def forget(self) -> None:
        """From here on `replay` tells what is asked."""
        self._asked.clear()

    def replay(self) -> str:
        """A command that asks the program the same again, without the suite."""
        start = json.dumps({"seq": 0, "do": "start", "version": VERSION})
        asked = "".join(f" {shlex.quote(line)}" for line in (start, *self._asked))
        return f"printf '%s\\n'{asked} | {self.command}"

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


class _Remote:
    """An optimizer that lives in the program, by the number that it has there."""

    def __init__(self, program: Program, number: int):
        self._program, self._number, self._process = program, number, program._process

    def _ask(self, do: str, **arguments: Any) -> Any:
        if self._program._process is not self._process:
            raise Ended("dies", "the program was started again, and its optimizers are gone")
        return self._program._ask(do, optimizer=self._number, **arguments)

    def step(self, grads: dict) -> None:
        self._ask("step", grads=grads)

    def params(self) -> dict:
        return self._ask("params")


def _state(rule: str, plain: Any) -> Any:
    kind = STATES[rule]
    if not isinstance(plain, dict) or set(plain) != set(kind._fields):
        raise TypeError(f"the state must have the fields {', '.join(kind._fields)}; it is {_short(plain)}")
    return kind(**plain)


def _axis(axis: Any) -> Any:
    if axis is None or isinstance(axis, int):
        return axis
    return list(axis) if isinstance(axis, list | tuple) else axis


def _plain(value: Any) -> Any:
    """A value in JSON's types. What has none there is not provided."""
    match value:
        case np.ndarray():
            if value.dtype.name not in DTYPES:
                raise NotImplementedError(f"arrays of {value.dtype.name}, which the protocol does not have")
            return described(value)
        case dict():
            return {name: _plain(part) for name, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
        case float() if not np.isfinite(value):
            raise NotImplementedError("numbers that are not finite, which JSON does not have")
        case None | bool() | int() | float() | str():
            return value
    raise NotImplementedError(f"a {type(value).__name__}, which the protocol does not have")


def _numpy(value: Any) -> Any:
    """The other way round."""
    if isinstance(value, dict) and set(value) == {"dtype", "shape", "bits"}:
        array = np.empty(value["shape"], np.uint8 if value["dtype"] == "bfloat16" else value["dtype"])
        width = {"bfloat16": 2}.get(value["dtype"], array.itemsize)
        if len(value["bits"]) != 2 * width * array.size:
            raise TypeError(f"the bits of an array of shape {value['shape']} and {value['dtype']} have another length")
        return array_of(value)
    if isinstance(value, dict):
        return {name: _numpy(part) for name, part in value.items()}
    return [_numpy(part) for part in value] if isinstance(value, list) else value


def _short(value: Any) -> str:
    text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else json.dumps(value)
    text = " ".join(text.split())
    return text if len(text) < 200 else f"{text[:200]} …"

"""Known failures: what a port is known to fail, each with its cause and a link, and the verdict that takes them in.

A list is a TOML or JSON file with one table a port, named by the port's target or name, from property id to reason:

    ["package.module:attribute"]
    "layers.embedding" = { cause = "centralizes every matrix", link = "https://example.org/issues/7" }

A known failure is reported as that, never as passed. An entry that no longer fails, or that names no property, is
stale: an error, so that the list cannot outlive its reasons.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .port import Port
from .result import PropertyResult, RunResult


class KnownError(Exception):
    """The list of known failures cannot be used: unreadable, of another form, or about what does not exist."""


@dataclass(frozen=True)
class Reason:
    cause: str
    link: str


Reasons = dict[str, Reason]


def read(path: str | Path) -> dict[str, Reasons]:
    """The list in a file, by port and property id.

    Raises:
        KnownError: no such file, neither TOML nor JSON, another form, or a property id that does not exist.
    """
    from . import chapters  # noqa: F401  (importing them fills the registry)
    from .registry import PROPERTIES

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        ports = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise KnownError(f"{path} cannot be read as a list of known failures: {error}") from error
    if not isinstance(ports, dict) or not all(isinstance(entries, dict) for entries in ports.values()):
        raise KnownError(f"{path} must hold one table for each port, from property id to cause and link.")
    for port, entries in ports.items():
        for id, entry in entries.items():
            if id not in PROPERTIES:
                raise KnownError(f"{path}: {port}: there is no property {id!r}; the entry is stale.")
            if not isinstance(entry, dict) or set(entry) != {"cause", "link"}:
                raise KnownError(f"{path}: {port}: {id} must have a cause and a link, and has {entry!r}.")
            if not all(isinstance(value, str) and value.strip() for value in entry.values()):
                raise KnownError(f"{path}: {port}: the cause and the link of {id} must be text, and not empty.")
    return {port: {id: Reason(**entry) for id, entry in entries.items()} for port, entries in ports.items()}


def reasons_of(port: Port, lists: dict[str, Reasons]) -> Reasons:
    """What the lists say of this port, by its target or its name."""
    return {**lists.get(port.name, {}), **lists.get(port.target, {})}


def read_for(path: str | Path, ports: Iterable[Port]) -> dict[str, Reasons]:
    """`read`, for a run of these ports. The list must name one of them, or a misspelt name would go unnoticed."""
    lists, ports = read(path), list(ports)
    if lists and not any(reasons_of(port, lists) for port in ports):
        asked = ", ".join(port.target for port in ports)
        raise KnownError(f"{path} knows the ports {', '.join(lists)}, and none of them is run: {asked}.")
    return lists


@dataclass(frozen=True)
class Verdict:
    """A run and what was known before it."""

    result: RunResult
    known: Reasons = field(default_factory=dict)
    interrupted: bool = False

    def status(self, result: PropertyResult) -> str:
        """ "passed", "failed", "known failure" or "not provided"."""
        return "known failure" if result.status == "failed" and result.id in self.known else result.status

    def having(self, status: str) -> list[PropertyResult]:
        return [result for result in self.result.results if self.status(result) == status]

    @property
    def stale(self) -> list[PropertyResult]:
        """What is listed as a known failure and was judged without failing, or is not provided."""
        return [result for result in self.result.results if result.id in self.known and result.status != "failed"]

    @property
    def exit_code(self) -> int:
        """0: conforms, but for known failures; 1: does not; 2: not judged, or judged against a stale list."""
        if self.stale or not (self.result.passed or self.result.failed):
            return 2
        return 1 if self.having("failed") or not self.result.passed else 0

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        counts = ", ".join(
            f"{len(found)} {name}{'s' if name == 'known failure' and len(found) > 1 else ''}"
            for name in ("passed", "failed", "known failure", "not provided")
            if (found := self.having(name)) or name in ("passed", "failed")
        )
        asked = f"{self.result.port} at level {self.result.level}"
        if self.interrupted:
            return f"Interrupted: {asked} is not judged to the end. So far {counts}."
        if not (self.result.passed or self.result.failed):
            return f"Not judged: {asked} provides nothing of what was asked. {counts}."
        if stale := self.stale:
            return f"Stale: {', '.join(r.id for r in stale)} listed as known to fail: {stale[0].status}. {counts}."
        if self.exit_code:
            return f"Does not conform: {asked}. {counts}."
        return f"Conforms{', but for what is known' if self.having('known failure') else ''}: {asked}. {counts}."

    def to_dict(self) -> dict:
        """The run as plain JSON types, with what was known of each property."""
        plain = self.result.to_dict()
        for result in plain["results"]:
            if reason := self.known.get(result["id"]):
                result["known"] = {"cause": reason.cause, "link": reason.link}
        return {
            **plain,
            "conforms": self.exit_code == 0 and not self.interrupted,
            "known_failures": [r.id for r in self.having("known failure")],
            "stale": [r.id for r in self.stale],
            "interrupted": self.interrupted,
            "exit_code": 130 if self.interrupted else self.exit_code,
        }

"""Known failures: what a port is known to fail, each with its cause and a link.

A list is a TOML or JSON file with one table a port, named by the port's target or name, from property id to reason:

    ["package.module:attribute"]
    "layers.embedding" = { cause = "centralizes every matrix", link = "https://example.org/issues/7" }

The link, which may be left out, is where the reason is discussed. A known failure is reported as that, never as passed.
An entry that no longer fails, or that names no property or no port, is stale: an error, so that the list cannot outlive
its reasons.
"""

from __future__ import annotations

import importlib.util
import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .verdict import Verdict


class KnownError(Exception):
    """The list of known failures cannot be used: unreadable, of another form, or about what does not exist."""


@dataclass(frozen=True)
class Reason:
    cause: str
    link: str = ""

    def __str__(self) -> str:
        return f"{self.cause} ({self.link})" if self.link else self.cause


Reasons = dict[str, Reason]


class Named(Protocol):
    """A port, or what holds one."""

    @property
    def name(self) -> str: ...

    @property
    def target(self) -> str: ...


def read(path: str | Path) -> dict[str, Reasons]:
    """The list in a file, by port and property id.

    Raises:
        KnownError: no such file, neither TOML nor JSON, another form, or a property id that does not exist.
    """
    from . import chapters  # noqa: F401  (importing them fills the registry)
    from .registry import PROPERTIES

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows' editors write a byte order mark
        ports = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise KnownError(f"{path} cannot be read as a list of known failures: {error}") from error
    if not isinstance(ports, dict) or not all(isinstance(entries, dict) for entries in ports.values()):
        raise KnownError(f"{path} must hold one table for each port, from property id to cause and link.")
    for port, entries in ports.items():
        for id, entry in entries.items():
            if id not in PROPERTIES:
                raise KnownError(f"{path}: {port}: there is no property {id!r}; the entry is stale.")
            if not isinstance(entry, dict) or not {"cause"} <= set(entry) <= {"cause", "link"}:
                raise KnownError(f"{path}: {port}: {id} must have a cause and may have a link; it has {entry!r}.")
            if not all(isinstance(value, str) and value.strip() for value in entry.values()):
                raise KnownError(f"{path}: {port}: the cause and the link of {id} must be text, and not empty.")
    return {port: {id: Reason(**entry) for id, entry in entries.items()} for port, entries in ports.items()}


def reasons_of(port: Named, lists: dict[str, Reasons]) -> Reasons:
    """What the lists say of this port, by its target or its name."""
    return {**lists.get(port.name, {}), **lists.get(port.target, {})}


def read_for(path: str | Path, ports: Iterable[Named]) -> dict[str, Reasons]:
    """`read`, for a run of these ports. Every port of the list is run now, or can at least be found."""
    lists, ports = read(path), list(ports)
    run = {name for port in ports for name in (port.name, port.target)}
    for name in lists:
        if name not in run and not _exists(name):
            asked = ", ".join(port.target for port in ports)
            raise KnownError(f"{path} knows the port {name}, which is not run now ({asked}) and is not there either.")
    return lists


def _exists(target: str) -> bool:
    """Whether there is such a file or module, without importing it."""
    path = target.rpartition(":")[0] or target
    if path.endswith(".py"):
        return Path(path).is_file()
    try:
        return importlib.util.find_spec(path.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def write(path: str | Path, verdicts: Iterable[Verdict]) -> int:
    """Write what these runs have failed as a list, and return how many entries it has. What was known keeps its reason.

    Raises:
        OSError: the file cannot be written.
    """
    tables, entries = [], 0
    for verdict in verdicts:
        lines = []
        for result in verdict.result.failed:
            reason = verdict.known.get(result.id) or Reason(result.diagnosis or result.message)
            link = f", link = {_toml(reason.link)}" if reason.link else ""
            lines.append(f"{_toml(result.id)} = {{ cause = {_toml(reason.cause)}{link} }}")
        if lines:
            tables.append(f"[{_toml(verdict.result.target)}]\n" + "\n".join(lines) + "\n")
            entries += len(lines)
    if Path(path).suffix == ".json":
        plain = tomllib.loads("\n".join(tables))
        text = json.dumps(plain, indent=1) + "\n"
    else:
        text = "\n".join(tables)
    Path(path).write_text(text, encoding="utf-8", newline="\n")
    return entries


def _toml(text: str) -> str:
    """A basic string of TOML, which is one of JSON; but TOML has no escapes for halves of a pair."""
    whole = text.encode("utf-8", "backslashreplace").decode()
    return json.dumps(whole, ensure_ascii=False).replace("\x7f", "\\u007f")

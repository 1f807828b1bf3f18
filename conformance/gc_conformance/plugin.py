"""The pytest plugin: `pytest --pyargs gc_conformance --gc-port package.module[:attribute]`.

Each property is one test item, collected from the file of its chapter. Not provided is skipped with that reason, a
known failure is an expected failure, and a run in which nothing was judged does not succeed. Without `--gc-port`, and
unless `gc_conformance` is what pytest was asked for, the plugin does nothing and imports nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from . import INSTALL

if TYPE_CHECKING:
    from .known import Reason, Reasons
    from .port import Port
    from .registry import Property
    from .result import PropertyResult

CHAPTERS = Path(__file__).parent / "chapters"
TAG = "gc_property"  # in the user properties of a report, so that a controller of xdist knows ours, too
USAGE = "pytest --pyargs gc_conformance --gc-port package.module[:attribute] (or file.py[:function])"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gc_conformance", "conformance of a port of Gradient Centralization")
    group.addoption("--gc-port", action="append", metavar="PORT", help=USAGE + "; may be repeated")
    group.addoption("--gc-level", default="gc", metavar="LEVEL", help="gc (default) or contract: the errors as well")
    group.addoption("--gc-profile", default="standard", metavar="PROFILE", help="quick, standard (default) or thorough")
    group.addoption("--gc-seed", default=0, type=int, metavar="N", help="of all examples (default 0)")
    group.addoption("--gc-known", metavar="FILE", help="list of known failures, TOML or JSON")


class Session:
    """The ports that were asked for, and how many of their properties have been judged."""

    def __init__(self, config: pytest.Config):
        from .known import KnownError, read_for, reasons_of
        from .port import PortError, load
        from .registry import select
        from .runner import PROFILES  # importing it fills the registry

        asked = config.option
        try:
            if asked.gc_profile not in PROFILES:
                raise ValueError(f"--gc-profile must be one of {', '.join(PROFILES)}, and is {asked.gc_profile!r}")
            self.properties: list[Property] = select(asked.gc_level)
            self.ports: list[Port] = [load(target) for target in asked.gc_port]
            lists = read_for(asked.gc_known, self.ports) if asked.gc_known else {}
        except (KnownError, PortError, ValueError) as error:
            raise pytest.UsageError(f"gc_conformance: {error}") from error
        self.known: list[Reasons] = [reasons_of(port, lists) for port in self.ports]
        self.level, self.profile, self.seed = asked.gc_level, asked.gc_profile, asked.gc_seed
        self.examples: int = PROFILES[self.profile]
        self.judged = 0

    def pytest_report_header(self) -> list[str]:
        from .runner import versions

        ports = ", ".join(f"{port.target} ({', '.join(port.dtypes)})" for port in self.ports)
        return [
            f"gc-conformance: {ports}; level {self.level}, profile {self.profile}, seed {self.seed}",
            f"gc-conformance: {', '.join(f'{name} {version}' for name, version in versions().items())}",
        ]

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        if file_path.parent == CHAPTERS and any(p.chapter == file_path.stem for p in self.properties):
            return ChapterFile.from_parent(parent, path=file_path, session_of_ports=self)
        return None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        ours = any(name == TAG for name, _ in report.user_properties)
        self.judged += ours and report.when == "call" and (report.outcome != "skipped" or hasattr(report, "wasxfail"))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        on_worker = hasattr(session.config, "workerinput")
        if not (self.judged or on_worker or session.config.option.collectonly) and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        if not (self.judged or config.option.collectonly):
            terminalreporter.write_line(
                f"gc_conformance: --gc-port was given, and no property was judged. Usage: {USAGE}", red=True
            )


class ChapterFile(pytest.File):
    """The properties of one chapter, for each port."""

    def __init__(self, *, session_of_ports: Session, **arguments: Any):
        super().__init__(**arguments)
        self.asked = session_of_ports

    def collect(self) -> list[PropertyItem]:
        asked, items = self.asked, []
        for port, known in zip(asked.ports, asked.known, strict=True):
            of_port = f"[{port.target}]" if len(asked.ports) > 1 else ""
            for prop in asked.properties:
                if prop.chapter == self.path.stem:
                    name, reason = prop.id + of_port, known.get(prop.id)
                    items.append(PropertyItem.from_parent(self, name=name, prop=prop, port=port, reason=reason))
        return items


class Failed(Exception):
    """A property does not hold. The text is the report."""

    def __init__(self, result: PropertyResult):
        super().__init__(
            f"{result.title}\n{result.message}\nsmallest counterexample: {result.counterexample}\n"
            f"to reproduce, without this suite:\n{result.reproduce}"
        )


class Stale(Exception):
    """A property is listed as a known failure, and does not fail."""


class PropertyItem(pytest.Item):
    """One property of one port."""

    parent: ChapterFile

    def __init__(self, *, prop: Property, port: Port, reason: Reason | None, **arguments: Any):
        super().__init__(**arguments)
        self.prop, self.port, self.reason = prop, port, reason
        self.user_properties.append((TAG, prop.id))

    def runtest(self) -> None:
        from .runner import judge

        asked = self.parent.asked
        examples = max(1, round(asked.examples * self.prop.share))
        result = judge(self.prop, self.port, seed=asked.seed, examples=examples)
        if self.reason:
            if result.status == "failed":
                pytest.xfail(f"known failure: {self.reason.cause} ({self.reason.link})")
            raise Stale(f"listed as a known failure: {self.reason.cause} ({self.reason.link}), and {result.status}.")
        if result.status == "not provided":
            pytest.skip(f"not provided: {result.message}")
        if result.status == "failed":
            raise Failed(result)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, Failed | Stale):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.prop.check.__code__.co_firstlineno - 1, self.name


def pytest_configure(config: pytest.Config) -> None:
    if config.option.gc_port:
        try:
            session = Session(config)
        except ModuleNotFoundError as missing:
            if missing.name and missing.name.startswith("gc_conformance"):
                raise
            raise pytest.UsageError(f"gc_conformance needs {missing.name}: {INSTALL}") from missing
        config.pluginmanager.register(session, "gc_conformance session")
    elif config.option.pyargs and any(_names_us(word) for word in config.args):
        raise pytest.UsageError(f"gc_conformance judges a port, and none is named. Usage: {USAGE}")


def _names_us(word: str) -> bool:
    return word.partition("::")[0].split(".")[0] == "gc_conformance"

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
    from .registry import Property
    from .runner import Judge
    from .testing import Asked

CHAPTERS = Path(__file__).parent / "chapters"
TAG = "gc_property"  # in the user properties of a report, so that a controller of xdist knows ours, too
USAGE = "pytest --pyargs gc_conformance --gc-port package.module[:attribute] (or file.py[:function])"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gc_conformance", "conformance of a port of Gradient Centralization")
    group.addoption("--gc-port", action="append", metavar="PORT", help=USAGE + "; may be repeated")
    group.addoption(
        "--gc-command", action="append", metavar="COMMAND", help="a program that is a port; may be repeated"
    )
    group.addoption("--gc-call", action="store_true", help="the port is a class, or a function that makes it")
    group.addoption(
        "--gc-switch",
        metavar="NAME",
        help="the port is an optimizer, and this argument switches GC: NAME, or NAME=ON,OFF",
    )
    group.addoption(
        "--gc-with",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument that the optimizer is built with; may be repeated",
    )
    group.addoption("--gc-adapter", metavar="FRAMEWORK", help="the optimizer's: torch, optax or keras")
    group.addoption("--gc-level", default="gc", metavar="LEVEL", help="axes-given, gc (default) or contract")
    group.addoption("--gc-suite-version", type=int, metavar="N", help="judge as this version of the suite did")
    group.addoption("--gc-time-limit", type=float, metavar="S", help="seconds that one call of the port may take (60)")
    group.addoption("--gc-profile", default="standard", metavar="PROFILE", help="quick, standard (default) or thorough")
    group.addoption("--gc-seed", default=0, type=int, metavar="N", help="of all examples (default 0)")
    group.addoption("--gc-known", metavar="FILE", help="list of known failures, TOML or JSON")


class Session:
    """The ports that were asked for, and how many of their properties have been judged."""

    def __init__(self, config: pytest.Config):
        from .known import KnownError, read_for, reasons_of
        from .port import PortError
        from .registry import select
        from .runner import PROFILES, open_judges  # importing it fills the registry
        from .testing import Asked

        asked = config.option
        targets = [*(asked.gc_port or ()), *(f"command: {words}" for words in asked.gc_command or ())]
        self.judges: list[Judge] = []
        try:
            if asked.gc_profile not in PROFILES:
                raise ValueError(f"--gc-profile must be one of {', '.join(PROFILES)}, and is {asked.gc_profile!r}")
            self.properties: list[Property] = select(asked.gc_level, suite_version=asked.gc_suite_version)
            how = {"switch": asked.gc_switch, "built_with": asked.gc_with, "adapter": asked.gc_adapter}
            for target in targets:
                self.judges += open_judges(target, 1, asked.gc_time_limit, call=asked.gc_call, **how)
            lists = read_for(asked.gc_known, self.judges) if asked.gc_known else {}
        except (KnownError, PortError, ValueError) as error:
            self.pytest_unconfigure()
            raise pytest.UsageError(f"gc_conformance: {error}") from error
        self.level, self.profile, self.seed = asked.gc_level, asked.gc_profile, asked.gc_seed
        self.ports: list[Asked] = [
            Asked(judge, self.level, self.profile, self.seed, reasons_of(judge, lists)) for judge in self.judges
        ]
        self.judged = 0

    def pytest_unconfigure(self) -> None:
        for judge in self.judges:
            judge.close()

    def pytest_report_header(self) -> list[str]:
        from .runner import versions

        ports = ", ".join(f"{port.target} ({', '.join(port.dtypes)})" for port in self.judges)
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
        for port in asked.ports:
            of_port = f"[{port.judge.target}]" if len(asked.ports) > 1 else ""
            for prop in asked.properties:
                if prop.chapter == self.path.stem:
                    items.append(PropertyItem.from_parent(self, name=prop.id + of_port, prop=prop, port=port))
        return items


class PropertyItem(pytest.Item):
    """One property of one port."""

    parent: ChapterFile

    def __init__(self, *, prop: Property, port: Asked, **arguments: Any):
        super().__init__(**arguments)
        self.prop, self.port = prop, port
        self.user_properties.append((TAG, prop.id))

    def runtest(self) -> None:
        self.port.hold(self.prop)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        from .testing import Failed, Stale

        if isinstance(excinfo.value, Failed | Stale):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.prop.check.__code__.co_firstlineno - 1, self.name


def pytest_configure(config: pytest.Config) -> None:
    if config.option.gc_port or config.option.gc_command:
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

"""What a run returns: one `PropertyResult` a property, and the `RunResult` that holds them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Literal

Status = Literal["passed", "failed", "not provided"]


class Violation(AssertionError):
    """A port has broken a property. The runner turns it into a failed `PropertyResult`."""

    def __init__(self, message: str, show: str | None = None):
        super().__init__(message)
        # For the lines that reproduce: an expression to print instead of the case's own result, or, where it names
        # STEP, the statements around the step.
        self.show = show


@dataclass(frozen=True)
class PropertyResult:
    """The verdict on one property.

    Attributes:
        id: "chapter.name"; ids never change.
        chapter: operator, numerics, layers, sgdm, adam, optimizer, theory or errors.
        level: "gc" (the mathematics) or "contract" (errors and warnings).
        title: what must hold, in one line.
        status: "passed", "failed" or "not provided".
        examples: how many cases were judged.
        seconds: wall time.
        message: why it failed, or what the port does not provide.
        counterexample: the smallest case found that fails, in words.
        reproduce: three lines of Python that show the failure without this suite.
    """

    id: str
    chapter: str
    level: str
    title: str
    status: Status
    examples: int = 0
    seconds: float = 0.0
    message: str = ""
    counterexample: str = ""
    reproduce: str = ""


@dataclass(frozen=True)
class RunResult:
    """The verdict on a port at one level: `conforms` when nothing failed and something was judged."""

    port: str
    target: str
    dtypes: tuple[str, ...]
    level: str
    profile: str
    seed: int
    versions: dict[str, str]
    results: tuple[PropertyResult, ...] = field(default_factory=tuple)
    seconds: float = 0.0

    def _having(self, status: Status) -> tuple[PropertyResult, ...]:
        return tuple(result for result in self.results if result.status == status)

    @property
    def passed(self) -> tuple[PropertyResult, ...]:
        return self._having("passed")

    @property
    def failed(self) -> tuple[PropertyResult, ...]:
        return self._having("failed")

    @property
    def not_provided(self) -> tuple[PropertyResult, ...]:
        return self._having("not provided")

    @property
    def conforms(self) -> bool:
        return bool(self.passed) and not self.failed

    def chapters(self) -> Iterator[tuple[str, tuple[PropertyResult, ...]]]:
        """Yield (chapter, its results) in the order of the suite."""
        for chapter in dict.fromkeys(result.chapter for result in self.results):
            yield chapter, tuple(result for result in self.results if result.chapter == chapter)

    def to_dict(self) -> dict:
        """The whole result as plain JSON types."""
        return {
            **asdict(self),
            "dtypes": list(self.dtypes),
            "conforms": self.conforms,
            "results": [asdict(result) for result in self.results],
        }

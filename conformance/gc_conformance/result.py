"""What a run returns: one `PropertyResult` a property, and the `RunResult` that holds them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["passed", "failed", "not provided"]
# How a property failed. "adapter": not the port but what makes it one is at fault, and nothing is said of the port.
How = Literal["", "wrong", "raises", "flaky", "hangs", "dies", "adapter", "inputs"]


class Violation(AssertionError):
    """A port has broken a property. The runner turns it into a failed `PropertyResult`."""

    how: How = "wrong"

    def __init__(self, message: str, show: str | None = None):
        super().__init__(message)
        # For the lines that reproduce: an expression to print instead of the case's own result, or, where it names
        # STEP, the statements around the step.
        self.show = show


class Raised(Violation):
    """A function of the port raised."""

    how: How = "raises"


class AdapterFault(Violation):
    """Arrays do not come through, or the adapter's own code does not run: nothing is said of what it adapts."""

    how: How = "adapter"


class Ended(BaseException):
    """A call did not return: it took too long, or the port's process has ended. Never shrunk: it would end again."""

    def __init__(self, how: How, message: str):
        super().__init__(message)
        self.how: How = how


def clean(text: str, longest: int = 4000) -> str:
    """A text of a port as it may be printed anywhere: no lone surrogates, no control characters, not endless."""
    text = text if len(text) <= longest else f"{text[: longest // 2]} … {text[-longest // 2 :]}"
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True)
class PropertyResult:
    """The verdict on one property.

    Attributes:
        id: "chapter.name"; ids never change.
        chapter: operator, numerics, layers, sgdm, adam, optimizer, theory or errors.
        level: the lowest level that judges it: "axes-given", "gc" or "contract".
        title: what must hold, in one line.
        status: "passed", "failed" or "not provided".
        examples: how many cases were judged.
        seconds: wall time.
        message: why it failed, or what the port does not provide.
        counterexample: the smallest case found that fails, in words.
        reproduce: three lines of Python that show the failure without this suite.
        how: of a failure: "wrong", "raises", "flaky", "hangs", "dies", "adapter" or "inputs" (they were changed).
        details: more lines: a traceback, or what the port last wrote to its standard error.
        diagnosis: what a known mistake would look like, where this looks like it and like no other.
        also: more basic properties that the counterexample breaks, too.
        seen: a function that changed its inputs while this property, which is not about that, was judged: the result
            that this gives where the property about it has found nothing.
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
    how: How = ""
    details: str = ""
    diagnosis: str = ""
    also: tuple[str, ...] = ()
    seen: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, plain: dict) -> PropertyResult:
        return cls(**{**plain, "also": tuple(plain.get("also", ()))})


@dataclass(frozen=True)
class RunResult:
    """The verdict on a port at one level: `conforms` when nothing failed and something was judged.

    Attributes:
        asked: chapters that were asked for by name.
        suite: the version of the suite that judged.
    """

    port: str
    target: str
    dtypes: tuple[str, ...]
    level: str
    profile: str
    seed: int
    versions: dict[str, str]
    results: tuple[PropertyResult, ...] = field(default_factory=tuple)
    seconds: float = 0.0
    asked: tuple[str, ...] = ()
    suite: int = 0

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

    @property
    def judged(self) -> tuple[str, ...]:
        """The chapters of which something was judged."""
        return tuple(c for c, results in self.chapters() if any(r.status != "not provided" for r in results))

    @property
    def not_judged(self) -> tuple[str, ...]:
        """The chapters of which the port provides nothing."""
        return tuple(c for c, results in self.chapters() if all(r.status == "not provided" for r in results))

    @property
    def causes(self) -> dict[str, tuple[str, ...]]:
        """The failed ids by the first of them that fails for the same reason."""
        from .causes import grouped

        return grouped(self.failed)

    def to_dict(self) -> dict:
        """The whole result as plain JSON types."""
        return {
            **asdict(self),
            "dtypes": list(self.dtypes),
            "asked": list(self.asked),
            "conforms": self.conforms,
            "judged": list(self.judged),
            "not_judged": list(self.not_judged),
            "causes": {head: list(ids) for head, ids in self.causes.items()},
            "results": [asdict(result) for result in self.results],
        }

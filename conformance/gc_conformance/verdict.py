"""The verdict on a port: a run, what was known before it, the sentence, and the exit code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .known import Reasons
from .result import PropertyResult, RunResult

# What the command exits with, the worst last: of several ports the worst decides.
CONFORMS, PARTLY, DOES_NOT, CANNOT, INTERRUPTED = 0, 3, 1, 2, 130
SEVERITY = (CONFORMS, PARTLY, DOES_NOT, CANNOT, INTERRUPTED)


def worst(codes: Iterable[int]) -> int:
    return max(codes, key=SEVERITY.index, default=CANNOT)


def words(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


@dataclass(frozen=True)
class Verdict:
    """A run and what was known before it.

    Attributes:
        running: the property that was being judged when the run was interrupted.
    """

    result: RunResult
    known: Reasons = field(default_factory=dict)
    interrupted: bool = False
    running: str = ""

    def status(self, result: PropertyResult) -> str:
        """ "passed", "failed", "known failure" or "not provided"."""
        return "known failure" if result.status == "failed" and result.id in self.known else result.status

    def having(self, status: str) -> list[PropertyResult]:
        return [result for result in self.result.results if self.status(result) == status]

    @property
    def causes(self) -> dict[str, list[PropertyResult]]:
        """What fails and is not known, by the first that fails for the same reason."""
        from .causes import grouped

        of_id = {result.id: result for result in self.having("failed")}
        return {head: [of_id[id] for id in ids] for head, ids in grouped(list(of_id.values())).items()}

    @property
    def stale(self) -> list[PropertyResult]:
        """What is listed as a known failure and was judged without failing, or is not provided."""
        return [result for result in self.result.results if result.id in self.known and result.status != "failed"]

    @property
    def at_fault(self) -> list[PropertyResult]:
        """What failed in the adapter, and says nothing of the port."""
        return [result for result in self.having("failed") if result.how == "adapter"]

    @property
    def not_judged(self) -> tuple[str, ...]:
        """Chapters that were asked for by name and of which nothing was judged."""
        return tuple(chapter for chapter in self.result.asked if chapter in self.result.not_judged)

    @property
    def exit_code(self) -> int:
        """0: conforms, but for known failures; 1: does not; 2: not judged, judged by a stale list, or the adapter is at
        fault; 3: nothing failed, but nothing was judged of a chapter that was asked for; 130: interrupted."""
        if self.interrupted:
            return INTERRUPTED
        if self.stale or self.at_fault or not (self.result.passed or self.result.failed):
            return CANNOT
        if self.having("failed"):
            return DOES_NOT
        return PARTLY if self.not_judged else CONFORMS

    @property
    def ok(self) -> bool:
        return self.exit_code == CONFORMS

    @property
    def scope(self) -> str:
        """What was judged and what was not: "(operator and numerics; layers, sgdm and adam not judged)"."""
        judged, rest = words(self.result.judged), words(self.result.not_judged)
        return f"({judged}; {rest} not judged)" if rest else f"({judged})"

    @property
    def counts(self) -> str:
        parts = []
        for name in ("passed", "failed", "known failure", "not provided"):
            found = self.having(name)
            if found or name in ("passed", "failed"):
                causes = len(self.causes) if name == "failed" else 0
                of = f" for {causes} cause{'s' if causes > 1 else ''}" if 0 < causes < len(found) else ""
                parts.append(f"{len(found)} {name}{'s' if name == 'known failure' and len(found) > 1 else ''}{of}")
        return ", ".join(parts)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        asked = f"{self.result.port} at level {self.result.level}"
        if self.interrupted:
            at = f" in {self.running}" if self.running else ""
            return f"Interrupted{at}: {asked} is not judged to the end. So far {self.counts}."
        if not (self.result.passed or self.result.failed):
            return f"Not judged: {asked} provides nothing of what was asked. {self.counts}."
        if stale := self.stale:
            return f"Stale: {', '.join(r.id for r in stale)} listed as known to fail: {stale[0].status}. {self.counts}."
        if fault := self.at_fault:
            return f"Cannot be judged: the adapter of {asked} fails in {fault[0].id}. {self.counts}."
        if self.having("failed"):
            return f"Does not conform {self.scope}: {asked}. {self.counts}."
        but = ", but for what is known" if self.having("known failure") else ""
        only = f" {words(self.not_judged)} asked for and not judged." if self.not_judged else ""
        return f"Conforms{but} {self.scope}: {asked}. {self.counts}.{only}"

    def to_dict(self) -> dict:
        """The run as plain JSON types, with what was known of each property."""
        plain = self.result.to_dict()
        heads = {result.id: head for head, some in self.causes.items() for result in some}
        for result in plain["results"]:
            result["cause"] = heads.get(result["id"])
            if reason := self.known.get(result["id"]):
                result["known"] = {"cause": reason.cause, "link": reason.link}
        return {
            **plain,
            "conforms": self.exit_code == CONFORMS,
            "verdict": self.sentence,
            "causes": {head: [result.id for result in some] for head, some in self.causes.items()},
            "known_failures": [r.id for r in self.having("known failure")],
            "stale": [r.id for r in self.stale],
            "interrupted": self.interrupted,
            "running": self.running,
            "exit_code": self.exit_code,
        }

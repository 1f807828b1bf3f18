"""Runs for other programs: JUnit's XML, Markdown for the summary of a CI, a badge and a table for a README."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from .report import again
from .result import PropertyResult, RunResult
from .verdict import Verdict, words


def to_json(verdicts: Sequence[Verdict], exit_code: int) -> str:
    whole = {"exit_code": exit_code, "ports": [verdict.to_dict() for verdict in verdicts]}
    return json.dumps(whole, indent=1, allow_nan=False) + "\n"


def junit(verdicts: Sequence[Verdict]) -> str:
    """A suite for each port, a case for each property, a class for each chapter; versions and seed as properties."""
    root = ElementTree.Element("testsuites", name="gc-conformance")
    for verdict in verdicts:
        run = verdict.result
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=_xml(run.port),
            tests=str(len(run.results)),
            failures=str(len([r for r in verdict.having("failed") if r.how != "adapter"])),
            errors=str(len(verdict.at_fault) + len(verdict.stale)),
            skipped=str(len(verdict.having("not provided")) + len(verdict.having("known failure"))),
            time=f"{run.seconds:.3f}",
        )
        asked = {"level": run.level, "profile": run.profile, "seed": run.seed, "suite": run.suite}
        properties = ElementTree.SubElement(suite, "properties")
        for name, value in {"port": run.target, **asked, **run.versions, "verdict": verdict.sentence}.items():
            ElementTree.SubElement(properties, "property", name=_xml(name), value=_xml(str(value)))
        for result in run.results:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=f"gc_conformance.{result.chapter}",
                name=result.id,
                time=f"{result.seconds:.3f}",
            )
            _outcome(case, verdict, result)
    ElementTree.indent(root, " ")
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _outcome(case: ElementTree.Element, verdict: Verdict, result: PropertyResult) -> None:
    status = verdict.status(result)
    if result in verdict.stale:
        message = f"listed as a known failure, and {result.status}"
        ElementTree.SubElement(case, "error", type="stale", message=message)
    elif status == "failed":
        kind = "error" if result.how == "adapter" else "failure"
        said = ElementTree.SubElement(case, kind, type=result.how or "wrong", message=_xml(result.message))
        parts = [result.title, result.diagnosis, result.counterexample, result.details, result.reproduce]
        said.text = _xml("\n".join(part for part in [*parts, again(verdict, result)] if part))
    elif status != "passed":
        why = str(verdict.known[result.id]) if status == "known failure" else result.message
        ElementTree.SubElement(case, "skipped", message=_xml(f"{status}: {why}"))


def _xml(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return "".join(
        c if c in "\n\t" or (c >= " " and not "\ud800" <= c <= "\udfff" and c < "\ufffe") else "�" for c in text
    )


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def markdown(verdicts: Sequence[Verdict]) -> str:
    """A section for each port: the verdict, the chapters, and what fails by cause."""
    return "\n".join(_section(verdict) for verdict in verdicts)


def _section(verdict: Verdict) -> str:
    run = verdict.result
    mark = "✅" if verdict.ok else "❌"
    asked = f"level {run.level}, profile {run.profile}, seed {run.seed}, version {run.suite} of the suite"
    lines = [
        f"## {mark} {_cell(run.port)}: Gradient Centralization",
        "",
        f"{_cell(verdict.sentence)}",
        "",
        f"{asked}",
        "",
    ]
    lines += table(run).splitlines()
    if verdict.causes:
        lines += ["", "| fails | and with it | why |", "|---|--:|---|"]
    for head, some in verdict.causes.items():
        first, others = some[0], len(some) - 1
        lines.append(f"| `{head}` | {others or ''} | {_cell(first.diagnosis or first.message)} |")
    for result in verdict.having("known failure"):
        lines += ["", f"Known: `{result.id}`: {_cell(str(verdict.known[result.id]))}"]
    return "\n".join([*lines, ""])


def table(run: RunResult) -> str:
    """A row for each chapter: what passed, failed, and is not provided."""
    lines = ["| chapter | passed | failed | not provided |", "|---|--:|--:|--:|"]
    for chapter, results in run.chapters():
        found = [result.status for result in results]
        counts = " | ".join(str(found.count(status) or "") for status in ("passed", "failed", "not provided"))
        lines.append(f"| {chapter} | {counts} |")
    return "\n".join(lines) + "\n"


def badge(verdict: Verdict) -> str:
    """An SVG for a README: what was judged, by which version of the suite, and what came of it."""
    run = verdict.result
    left = f"GC conformance {run.suite}"
    right = words(run.judged) if verdict.ok else "does not conform" if verdict.having("failed") else "not judged"
    colour = "#1a7f37" if verdict.ok else "#c01c28" if verdict.having("failed") else "#5c636e"
    split, whole = 12 + 7 * len(left), 24 + 7 * (len(left) + len(right))
    middle = split + (whole - split) / 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="20" role="img" aria-label="{left}: {right}">'
        f'<title>{left}: {right}</title><rect width="{whole}" height="20" rx="3" fill="#555"/>'
        f'<path d="M{split} 0h{whole - split - 3}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3H{split}z" fill="{colour}"/>'
        '<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">'
        f'<text x="{split / 2:g}" y="14">{left}</text><text x="{middle:g}" y="14">{right}</text></g></svg>\n'
    )


def write(file: Path, text: str) -> None:
    """Write a text whatever it holds.

    Raises:
        OSError: the file cannot be written.
    """
    file.write_bytes(text.encode("utf-8", "backslashreplace"))

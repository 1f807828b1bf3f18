"""Writes docs/zoo.md from what was found."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from examples.zoo.model import Found

PAGE = Path("docs/zoo.md")
HEAD = """\
# Plans of a zoo of models

Which axes of a parameter are its fan-in is asked of three sources: the class of its layer, the program (what the
model's operations sum over, on fake tensors or in a jaxpr), and a numerical check that tries single weights. `make
zoo` installs the model libraries at the versions below, builds their architectures from configurations, with no
weights, most at a reduced size, compares the sources for every parameter, and writes this page.

*Centralized* is by the plan that is read from the program, where the program reaches a parameter, and by its layer
elsewhere; *by layers* without a batch (in JAX by classes, or by the names of leaves). *Checked* by numbers are models
of up to 5 million numbers, and JAX's parameters of up to 4,000. A *contradiction* is a parameter of which two sources
say different things. An architecture that does not build from its default configuration at a small size, or takes none
of the plain batches tried, is counted as *not run*: nothing is said about it.
"""


def write(found: Iterable[Found], versions: str, page: Path = PAGE) -> None:
    """The page: totals by family, what is left alone and why, and every contradiction."""
    found = list(found)
    families: dict[str, list[Found]] = {}
    for one in found:
        families.setdefault(one.family, []).append(one)
    lines = [HEAD, versions, "", "## Totals", ""]
    lines += _table(
        ["family", "models", "not run", "parameters", "reached", "centralized", "by layers", "models checked",
         "verified by numbers", "contradictions", "seconds a plan (median)"],
        [_totals(name, ones) for name, ones in [*families.items(), ("**all**", found)]],
    )  # fmt: skip
    reasons: Counter[str] = Counter()
    for one in found:
        reasons.update(one.left)
    lines += ["", "## Left alone, by reason", ""]
    lines += _table(["reason", "parameters"], [[f"`{name}`", f"{n:,}"] for name, n in reasons.most_common()])
    lines += ["", "The reasons are those of `gc_core.Reason`.", "", "## Contradictions", ""]
    said = [f"- {one.family}, {one.name}: {text}" for one in found for text in one.contradictions]
    lines += said or ["None."]
    lines += ["", "## Run once really", "", "Where what a model does depends on values, shapes are not enough:", ""]
    lines += [", ".join(f"{one.name}" for one in found if one.really) or "none"]
    lines += ["", "## Not run", ""]
    for name, ones in families.items():
        problems = [one for one in ones if one.problem]
        if problems:
            lines += [f"<details><summary>{name}: {len(problems)}</summary>", ""]
            lines += [f"- {one.name} {_plain(one.problem)}" for one in problems] + ["", "</details>", ""]
    page.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _totals(name: str, ones: list[Found]) -> list[str]:
    ran = [one for one in ones if not one.problem]
    seconds = sorted(one.seconds for one in ran)
    total = [sum(getattr(one, field) for one in ran) for field in ("parameters", "reached", "centralized", "by_layers")]
    checked = [one for one in ran if one.checked]
    verified, on = sum(one.verified for one in checked), sum(one.centralized for one in checked)
    contradictions = sum(len(one.contradictions) for one in ran)
    median = f"{seconds[len(seconds) // 2]:.1f}" if seconds else ""
    return [
        name, f"{len(ran)}", f"{len(ones) - len(ran)}", *(f"{n:,}" for n in total), f"{len(checked)}",
        f"{verified:,} of {on:,}", f"{contradictions}", median,
    ]  # fmt: skip


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _plain(text: str) -> str:
    return text.replace("<", "‹").replace(">", "›").replace("|", "/").replace("`", "'")

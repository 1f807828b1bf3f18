"""One word for one thing, the field's own: pages and printed texts use none of the words that it replaces."""

import enum
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from gc_core import reasons
from gc_torch import path

ROOT = Path(__file__).parents[1]
GENERATED = {"ports.md", "zoo.md"}  # names of others' models and ports
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if page.name not in GENERATED]

# What is not to be said, and the word for it.
INSTEAD = {
    r"(?<!standard )\bdeviations?\b": "standard deviation",
    r"\bblind to\b": "invariant to",
    r"\bdefects?\b": "residual",
    r"\b(un)?proven\b": "verified",
    r"\bundamped\b": "first-step convention",
    r"\bkinds? of (layer|optimizer|model)s?\b": "type",
    r"\bwrong kind\b": "wrong type",
    r"\bstep is taken\b": "used",
    r"\bby which path\b|\bpath:": "implementation",
    r"\bstored out first\b.*\(out, in": "one of the two",
    r"\bliving modules?\b": "a module in memory",
    r"\b(more than|of) [\w ]*(tensors|weights) \([\d,]+ numbers\)": "elements",
    r"[Tt]raining is as it was": "your loop does not change",
    r"\basks? (the|no) network\b": "works offline",
    r"\bwhat stands there\b": "contents",
    r"\bbelieves names\b": "trusts layer classes",
    r"\bnobody knows\b": "unknown, or: owned directly by a custom module",
    r"\bno token reached\b": "without tokens",
    r"\bdecay lies inside\b": "L2 decay is added before centralizing",
    r"\bcannot be had from outside\b": "not supported",
    r"\bbias does not fit\b": "bias shape does not match",
    r"\bthe worst decides\b": "the exit code is the worst one's",
    r"\brules? the mean\b": "dominates the mean",
    r"\bweight vectors are lost\b": "flattened parameters lose their shape",
}


def said(text):
    """What a text says that it should not."""
    return {pattern: word for pattern, word in INSTEAD.items() if re.search(pattern, text)}


def prose(page):
    """What a page says outside of code."""
    inside = [child for token in MarkdownIt().enable("table").parse(page.read_text()) for child in token.children or ()]
    return " ".join(child.content for child in inside if child.type == "text")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_use_the_words_of_the_field(page):
    assert said(prose(page)) == {}


@pytest.mark.parametrize("texts", [reasons.Reason, reasons.Verification, path.Missing])
def test_printed_reasons_use_the_words_of_the_field(texts: type[enum.Enum]):
    for one in texts:
        assert said(one.value) == {}, one


def test_each_word_is_found():
    wrong = [
        "its deviation", "blind to a factor", "a defect of 1e-3", "proven", "undamped", "this kind of layer",
        "of the wrong kind", "its step is taken", "path: fused", "stored out first, (out, in)", "a living module",
        "of 3 tensors (12 numbers)", "Training is as it was", "asks no network", "what stands there",
        "a plan believes names of classes", "a module nobody knows", "experts that no token reached",
        "the decay lies inside", "cannot be had from outside", "its bias does not fit", "the worst decides",
        "rule the mean", "weight vectors are lost",
    ]  # fmt: skip
    assert [list(said(text)) for text in wrong] == [[pattern] for pattern in INSTEAD]
    assert said("the standard deviation, verified for this type of layer") == {}

"""The chapters: every figure comes from the reference, and what they say of it is checked."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt

import gc_core
from gc_core import adam, layouts, operator, sgdm, theory

from .tools import node

ROOT = Path(__file__).parents[2]
CHAPTERS = sorted((ROOT / "docs/learn").glob("[1-9]*.md"))

every_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.stem)


def blocks(chapter):
    return [
        token.content
        for token in MarkdownIt().parse(chapter.read_text())
        if token.type == "fence" and token.info.strip() == "python"
    ]


def run(chapter, monkeypatch):
    """The figures of a chapter, and how many of its assertions fail."""
    import matplotlib

    from docs.learn import drawing  # which sets the style of every figure, when it is first imported

    matplotlib.rcParams.update(drawing.STYLE)
    figures, failed, names = [], 0, {}

    def show(figure, says):
        drawn = real_show(figure, says)
        figures.append(drawn.svg)
        return drawn

    real_show = drawing.show
    with monkeypatch.context() as patch:
        patch.setattr(drawing, "show", show)
        for code in blocks(chapter):
            try:
                exec(compile(code, str(chapter), "exec"), names)
            except AssertionError:
                failed += 1
    return figures, failed


def break_the_reference(monkeypatch):
    """No GC, no projection, and another unit's axes."""

    def axes(shape, layout):
        right = layouts.LAYOUTS[layout](shape).axes
        return None if right is None else (len(shape) - 1 - right[0],)

    for module in (operator, sgdm, adam):
        monkeypatch.setattr(module, "center", lambda g, axis: g)
    for module in (gc_core, operator, theory):
        monkeypatch.setattr(module, "projection_matrix", np.eye)
    for module in (gc_core, layouts):
        monkeypatch.setattr(module, "fan_in_axes", axes)


@pytest.mark.parametrize("chapter", [c for c in CHAPTERS if "show(" in c.read_text()], ids=lambda c: c.stem)
def test_every_figure_changes_if_the_reference_is_broken(chapter, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    right, failed = run(chapter, monkeypatch)
    assert right and not failed
    break_the_reference(monkeypatch)
    wrong, failed = run(chapter, monkeypatch)
    assert len(wrong) == len(right)
    assert [i for i, (a, b) in enumerate(zip(right, wrong, strict=True)) if a == b] == []
    assert failed, "the chapter asserts nothing that the reference decides"


def test_a_figure_is_the_same_twice(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(CHAPTERS[1], monkeypatch) == run(CHAPTERS[1], monkeypatch)


@every_chapter
def test_a_link_to_a_name_opens_a_file_that_defines_it(chapter):
    named = re.findall(r"\[`([\w.]+)`\]\(([^)]+\.py)\)", chapter.read_text())
    assert named or chapter.stem.startswith("8"), "no statement is linked"
    for name, path in named:
        text = (chapter.parent / path).read_text()
        assert re.search(rf"^(?:def|class) {name}\b|^{name}\b.*=", text, re.M), f"{path} defines no {name}"


@every_chapter
def test_exercises_have_answers(chapter):
    exercises = chapter.read_text().partition("## Exercises")[2]
    asked = len(re.findall(r"^\*\*\d\.\*\*", exercises, re.M))
    assert asked >= 2 and exercises.count("<details>") == exercises.count("</details>") == asked


def javascript(code):
    done = subprocess.run([node(), "--eval", code], cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def test_the_interactive_picture_computes_what_the_reference_does():
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=n).tolist() for n in (1, 2, 2, 2, 3, 10)]
    code = "const p = require('./docs/_static/projection.js'); console.log(JSON.stringify(%s.map(p.centralize)))"
    for g, projected in zip(vectors, javascript(code % json.dumps(vectors)), strict=True):
        # Sums of at most ten numbers in any order, and one subtraction.
        bound = 2.0**-53 * (len(g) + 2) * np.abs(g).max()
        assert np.allclose(projected, gc_core.centralize(np.array(g), 0), rtol=0, atol=2 * bound)


def test_the_keyboard_moves_the_gradient_and_stays_in_the_picture():
    code = """
    const { moved } = require('./docs/_static/projection.js');
    console.log(JSON.stringify([
      moved([3, 1], "ArrowLeft", false), moved([3, 1], "ArrowUp", true), moved([3.5, 1], "ArrowRight", false),
      moved([3, 1], "Tab", false),
    ]))
    """
    assert javascript(code) == [[2.9, 1], [3, 2], [3.5, 1], None]

"""What can be dragged computes what gc_core does, can be copied as typed, and can be read."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from docs.extensions.notebooks import draws, for_readers
from gc_core import adam_init, adam_update, sgdm_init, sgdm_update, theory

from .tools import node

ROOT = Path(__file__).parents[2]


def javascript(file, code):
    done = subprocess.run(
        [node(), "--eval", f"const it = require('./docs/_static/{file}'); console.log(JSON.stringify({code}))"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def test_the_means_are_those_of_the_reference():
    runs = "[it.sgdm(false, t), it.sgdm(true, t), it.adam('gradient', t), it.adam('update', t)]"
    code = f"[0, 1, 40].map((t) => ({{t, runs: {runs}}}))"
    start, target, rate = javascript("sliders.js", "[it.START, it.TARGET, it.RATE]")
    for seen in javascript("sliders.js", code):
        rules = [
            (sgdm_update, sgdm_init, {"axis": None}), (sgdm_update, sgdm_init, {"axis": 0}),
            (adam_update, adam_init, {"axis": 0}), (adam_update, adam_init, {"axis": 0, "gc_on": "update"}),
        ]  # fmt: skip
        for (update, init, options), got in zip(rules, seen["runs"], strict=True):
            w = np.array(start)
            state = init(w)
            for _ in range(seen["t"]):
                w, state = update(w, w - target, state, lr=rate, **options)
            # Sums of three and a few products a step, each off by some roundings of numbers below 10.
            assert np.allclose(got, w, rtol=0, atol=2.0**-53 * 1000 * (seen["t"] + 1) * 10)
    rows = dict(javascript("sliders.js", "it.means(40)"))
    assert rows["SGDM with GC"] == pytest.approx(1, abs=1e-12) == rows["Adam, GC on the update"]
    assert abs(rows["SGDM, no GC"] - 1) > 0.1 and abs(rows["Adam, GC on the gradient"] - 1) > 0.01


def test_the_shifts_are_those_of_the_layers():
    weights, batch = map(np.array, javascript("sliders.js", "[it.WEIGHTS, it.BATCH]"))
    rows = [x for _, x in javascript("sliders.js", "it.shifts(1.5)")]
    z = batch @ weights
    standardized = theory.weight_standardization(weights[:, None])[:, 0]
    wanted = [1.5 * weights.sum(), 1.5 * standardized.sum(), 0, 1.5 * weights.sum() / z.std()]
    assert np.allclose(rows, wanted, rtol=0, atol=1e-13) and abs(rows[0]) > 1


@pytest.mark.parametrize("gc", [False, True])
def test_the_errors_are_those_of_the_reference(gc):
    found = javascript(
        "sliders.js", f"((p) => ({{...p, error: it.testError(p, {str(gc).lower()})}}))(it.problem(0.2, 3))"
    )
    x, y, teacher = (np.array(found[name]) for name in ("x", "y", "teacher"))
    assert teacher.mean() == pytest.approx(0.2, abs=1e-14)
    w = np.zeros(len(teacher))
    state = sgdm_init(w)
    for _ in range(150):
        w, state = sgdm_update(w, (x @ w - y) @ x / len(x), state, lr=0.05, axis=0 if gc else None)
    assert found["error"] == pytest.approx(((w - teacher) ** 2).sum(), rel=1e-9)


def test_what_is_copied_is_what_is_typed():
    asked = [
        ">>> a = 1\n>>> for _ in a:\n...     a\n2\n",
        "$ pip install .  # not run: why\nout\n$ make\n",
        "a = 1\n\nb\n",
    ]
    got = javascript("copy.js", f"{json.dumps(asked)}.map(it.typed)")
    assert got == ["a = 1\nfor _ in a:\n    a", "pip install .\nmake", "a = 1\n\nb"]


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    dark, light = sorted([luminance(a), luminance(b)])
    return (light + 0.05) / (dark + 0.05)


def test_coloured_texts_can_be_read():
    css = (ROOT / "docs/_static/site.css").read_text()
    light, dark, by_system = (
        dict(re.findall(r"--gc-(\w+): (#\w{6})", line)) for line in re.findall(r"\{ --gc-.*", css)
    )
    assert light.keys() == dark.keys() == {"blue", "orange", "grey"} and dark == by_system
    # The theme's papers: of the page, and of a table or a note on it.
    assert min(contrast(colour, paper) for colour in light.values() for paper in ("#ffffff", "#f8f9fb")) >= 4.5
    assert min(contrast(colour, paper) for colour in dark.values() for paper in ("#131416", "#1a1c1e")) >= 4.5
    assert contrast("#d9792b", "#ffffff") < 4.5  # what it was


def test_a_notebook_needs_nothing_of_this_folder(tmp_path):
    jupytext = pytest.importorskip("jupytext")
    notebook = for_readers(jupytext.read(ROOT / "docs/learn/2-projection.md"))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any("docs.learn" in cell.source for cell in code)
    hidden = [cell for cell in code if cell.metadata.get("jupyter", {}).get("source_hidden")]
    assert hidden and all(draws(cell.source) for cell in hidden) and len(hidden) < len(code)
    assert "matplotlib.use(" not in (ROOT / "docs/learn/drawing.py").read_text()

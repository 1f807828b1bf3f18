"""Everything in the paper has a row, and every name in a row exists."""

import ast
from pathlib import Path

import pytest

from docs.extensions import traceability

ROOT = Path(__file__).parents[2]
ROWS = traceability.rows()

# What the paper has, listed once more.
PAPER = {
    "equation-1", "equation-2", "projection", "weights-as-a-matrix", "algorithm-1", "algorithm-2", "decay-inside",
    "weight-space", "adam-does-not-conserve", "weight-standardization", "theorem-4.1", "theorem-4.2", "gradient-size",
    "z-scoring", "cost", "figure-operation", "figure-geometry", "figure-initial-means", "figure-gradient-norms",
    "mini-imagenet", "cifar-100", "imagenet", "fine-grained", "coco-faster", "coco-mask",
}  # fmt: skip

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])


def test_everything_in_the_paper_has_one_row():
    ids = [row["id"] for row in ROWS]
    assert sorted(ids) == sorted(PAPER)


@every_row
def test_every_name_exists(row):
    assert row.keys() <= {"id", "paper", "functions", "tests", "page", "why", "files"}
    for name in row.get("functions", []):
        assert callable(traceability.find(name)), name
    for test in row.get("tests", []):
        file, _, name = test.partition("::")
        defined = {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)}
        assert name in defined, test
    for path in [f"docs/{row['page']}", *row.get("files", [])]:
        assert (ROOT / path).is_file(), path


@every_row
def test_code_has_a_test_and_no_code_has_a_reason(row):
    if row.get("functions") or row.get("files"):
        assert row.get("tests"), "nothing tests it"
    else:
        assert row.get("why"), "no code, and no reason"


def test_the_page_is_what_the_data_says():
    assert traceability.PAGE.read_text() == traceability.render(), "run python -m docs.extensions.traceability"


def test_a_name_that_does_not_exist_is_found():
    with pytest.raises(AttributeError):
        traceability.find("gc_core.theory.theorem_5")

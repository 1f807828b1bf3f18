"""The page on precision has what was measured, and nothing else."""

import json
from pathlib import Path

from benchmarks import low_precision

PAGE = Path(__file__).parents[2] / "docs" / "precision.md"


def test_the_tables_are_those_of_the_file():
    measured = low_precision.tables(json.loads(low_precision.PATH.read_text(encoding="utf-8")))
    begin, end = "<!-- measured -->\n\n", "\n\n<!-- end -->"
    shown = PAGE.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0]
    assert shown == measured

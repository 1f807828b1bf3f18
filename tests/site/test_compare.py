"""The counts on the page that compares libraries are those that were measured."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
# A row of the comparison, and the ports that its counts are of, in order.
ROWS = {
    "the authors' code": ["the authors' repository: SGD_GC"],
    "[Ranger]": ["the first Ranger: ranger2020.py"],
    "pytorch_optimizer": ["pytorch_optimizer: Ranger", "pytorch_optimizer: Adan"],
    "optax.centralize": ["optax.centralize"],
    "the Keras example": ["Keras recipe: the override of get_gradients"],
    "torchium": ["torchium: GradientCentralization"],
    "torchzero": ["torchzero: Centralize(dim=0)", "torchzero: Centralize(dim=0, inverse_dims=True)"],
}


def test_the_counts_are_those_of_the_public_ports():
    measured = re.findall(r"^\| ([^|]+?) \| [^|]+ \| (\d+) \| (\d+) \| \d+ \|$", (DOCS / "ports.md").read_text(), re.M)
    counts = {name: (passed, failed) for name, passed, failed in measured}
    rows = [line for line in (DOCS / "compare.md").read_text().splitlines() if re.search(r"\| [^|]*\d+ / \d+", line)]
    assert len(rows) == len(ROWS)
    for (label, ports), row in zip(ROWS.items(), rows, strict=True):
        assert label in row
        shown = re.findall(r"(\d+) / (\d+)", row.split("|")[-2])
        assert shown == [counts[port] for port in ports], label

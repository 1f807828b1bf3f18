"""Writes docs/optimizers.md from what was found."""

from collections.abc import Iterable
from pathlib import Path

from examples.optimizers.found import Found, Verdict

PAGE = Path("docs/optimizers.md")
HEAD = """\
# GC with the optimizer you use

`gct.attach(optimizer, model)` puts GC in front of an optimizer of PyTorch, `gct.centralize_gradients(plan)` in front of
one in an Optax chain. Each optimizer below was really run so for some steps, by `python -m examples.optimizers`, which
writes this page. It *works* where the weights are those of the same optimizer on gradients centralized by hand.

*Drift* is how far the mean of a weight vector moved, at most, relative to the largest move of a weight, without decay.
Where it is no more than rounding, means are conserved: below 1e-9 in float64, in which all of this runs, but for
PyTorch's Muon, which computes in bfloat16 and rounds to 4e-3. Elsewhere GC is in what the optimizer reads, and nothing
holds the means of the weights; `gc_on="update"` of our own Adam and AdamW centralizes the step, and does.
"""
TAIL = """\
## Not run

- Optax: `dpsgd` and `differentially_private_aggregate` take one gradient for each example, which has one axis more than
  its weight; `galore` changes the shape of gradients, `sophia` needs Hessians, `reduce_on_plateau` and `normalize` are
  no optimizers of their own; `lbfgs` was run without its line search, which computes gradients of its own, on which
  there is no GC.
- Other libraries (optimi, pytorch_optimizer, schedulefree, torchao, bitsandbytes) were not installed: nothing is said
  about them here. `attach` refuses an optimizer that runs no step hooks, and says what to do instead.
"""


def write(of_torch: Iterable[Found], of_optax: Iterable[Found], versions: str, page: Path = PAGE) -> None:
    """The page: a table of each library."""
    lines = [HEAD, f"Written with {versions}.", "", "## PyTorch", ""]
    lines += ['| optimizer | `where="step"` | `where="backward"` | drift | what its step is |', "|---|---|---|--:|---|"]
    lines += [row(one) for one in of_torch]
    lines += ["", "## Optax", "", "| optimizer | in a chain | drift | what its step is |", "|---|---|--:|---|"]
    lines += [row(one) for one in of_optax]
    page.write_text("\n".join([*lines, "", TAIL]), encoding="utf-8")


def row(one: Found) -> str:
    """A line of a table."""
    drift = "" if one.drift is None else f"{one.drift:.0e}"
    what = one.step.value if one.step is not None and one.drift is not None else ""
    if Verdict.REFUSED in one.verdicts:
        what = one.error.replace("|", "/")
    cells = [f"`{one.name}`", *(verdict.value for verdict in one.verdicts), drift, what]
    return f"| {' | '.join(cells)} |"


def verdicts(page: Path = PAGE) -> dict[str, tuple[str, str]]:
    """What the page says of PyTorch's optimizers, in both places."""
    part = page.read_text(encoding="utf-8").partition("## PyTorch")[2].partition("## Optax")[0]
    rows = [line.split(" | ") for line in part.splitlines() if line.startswith("| `")]
    return {cells[0].strip("| `"): (cells[1], cells[2]) for cells in rows}

"""Writes docs/traceability.md from docs/traceability.toml: `python -m docs.extensions.traceability`."""

import importlib
import inspect
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/traceability.md"
HEAD = """# Traceability

Each equation, algorithm, theorem, figure and experiment of the paper (Yong, Huang, Hua, Zhang, *Gradient
Centralization*, ECCV 2020, [arXiv 2004.01461](https://arxiv.org/abs/2004.01461)): the function that computes it, the
test that checks it, the page that explains it. A row without code says why. This page is written from
`docs/traceability.toml`, and a test checks every name.

| the paper | function | test | page |
|---|---|---|---|
"""


def rows() -> list[dict]:
    """The rows of the data file."""
    return tomllib.loads(PAGE.with_suffix(".toml").read_text(encoding="utf-8"))["row"]


def find(name: str):
    """The object of a dotted name; an error if there is none."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def link_to_function(name: str) -> str:
    file = Path(inspect.getsourcefile(inspect.unwrap(find(name)))).relative_to(ROOT).as_posix()
    return f"[`{name.rpartition('.')[2]}`](../{file})"


def link_to_test(test: str) -> str:
    file, _, name = test.partition("::")
    return f"[`{name}`](../{file})"


def title(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def render() -> str:
    """The text of the page."""
    lines = []
    for row in rows():
        what = row["paper"] + (f". *{row['why']}*" if "why" in row else "")
        functions = ", ".join(map(link_to_function, row.get("functions", []))) or "none"
        files = "".join(f", [`{Path(file).name}`](../{file})" for file in row.get("files", []))
        tests = ", ".join(map(link_to_test, row.get("tests", []))) or "none"
        code = (functions + files).removeprefix("none, ")
        lines.append(f"| {what} | {code} | {tests} | [{title(row['page'])}]({row['page']}) |\n")
    return HEAD + "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")

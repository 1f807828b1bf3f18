"""The page of measured speeds: its tables and pictures are made of benchmarks/results/ when the site is built."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MARK = "<!-- the measured tables -->"
COMPUTED, COMPUTED_MARK = "computed_gpu", "<!-- the computed table -->"
# What a file is about; one that is not named here is called by its name.
HEADINGS = {
    "conformance": "What a run of the conformance suite takes",
    "conformance_trust": "How far the conformance suite can be trusted",
    "cpu_jax_step": "A step in JAX, on a CPU",
    "cpu_step": "A step in PyTorch, on a CPU",
    "import_time": "Importing a package, beside its framework",
    "plan_time": "Making a plan",
    "jax_plan_time": "Making a plan in JAX",
    "low_precision": "Weights in bfloat16",
    "torch_in_backward": "A step in backward, in PyTorch",
}


def words(about):
    """What was measured on, as one line."""
    flat = {**about, **about.get("versions", {})}
    flat.pop("versions", None)
    return ", ".join(f"{what} {word(value)}" for what, value in flat.items() if value not in (None, "", {}))


def word(value):
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:g}"
    return value


def table(case):
    """A case as a Markdown table."""
    lines = [f"**{case.name}**: {case.tensors:,} tensors, {case.numbers:,} elements\n"]
    lines += ["| peer | ms, median | ratio | 95 % interval | GB/s |", "|---|--:|--:|---|--:|"]
    for peer in case.seconds:
        low, high = case.interval(peer)
        ratio = ("1", "") if peer == case.base else (f"{case.ratio(peer):.2f}", f"{low:.2f} to {high:.2f}")
        speed = case.floor / case.median(peer) / 1e9
        lines.append(f"| {peer} | {1000 * case.median(peer):.2f} | {ratio[0]} | {ratio[1]} | {speed:.1f} |")
    return "\n".join(lines)


def picture(cases, base):
    """The ratios of all cases to their base, with intervals."""
    import matplotlib.pyplot as plt

    from docs.learn.drawing import show

    peers = list(dict.fromkeys(peer for case in cases for peer in case.seconds if peer != base))
    fig, ax = plt.subplots(figsize=(7.4, 0.6 + 0.16 * len(peers) * len(cases)))
    height = 0.8 / len(peers)
    for i, peer in enumerate(peers):
        there = [(j + i * height, case) for j, case in enumerate(cases) if peer in case.seconds]
        ratios = [case.ratio(peer) for _, case in there]
        intervals = [case.interval(peer) for _, case in there]
        below = [max(0, ratio - low) for ratio, (low, _) in zip(ratios, intervals, strict=True)]
        above = [max(0, high - ratio) for ratio, (_, high) in zip(ratios, intervals, strict=True)]
        errors = [below, above]
        ax.barh([place for place, _ in there], ratios, 0.9 * height, xerr=errors, label=peer, alpha=0.85)
    ax.axvline(1, color="#909090", lw=1)
    ax.set_yticks([j + 0.4 - height / 2 for j in range(len(cases))], [case.name for case in cases])
    ax.invert_yaxis()
    ax.set_xlabel(f"time, relative to {base}: shorter is faster")
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return show(
        fig, "Bars: the time of each peer relative to the base, with 95 % intervals; the numbers stand in the tables."
    )


def parts(found):
    """The cases of a result file, by the part that they belong to."""
    from benchmarks.harness import Case

    if "cases" in found:
        return {"": [Case(**case) for case in found["cases"]]}
    measured = {part: [Case(**case) for case in one.get("cases", ())] for part, one in found["speed"].items()}
    return {part: cases for part, cases in measured.items() if cases}


def flat(found, before=""):
    """What was found of one thing, one value for each column; what each repetition gave is left to the file."""
    cells = {}
    for name, value in found.items():
        name = f"{before}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            cells |= flat(value, f"{name}: ")
        elif not isinstance(value, list):
            cells[name] = value
    return cells


def shown(value):
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) >= 0.01 or not value else f"{value:.1e}"
    return f"{value:,}" if isinstance(value, int) else str(value or "")


def by_row(found):
    """Rows of figures as a Markdown table."""
    rows = [flat(one) for one in found]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [f"| {' | '.join(columns)} |", "|---|" + "--:|" * (len(columns) - 1)]
    lines += [f"| {' | '.join(shown(row.get(column)) for column in columns)} |" for row in rows]
    return "\n".join(lines)


def by_model(found, first="model"):
    """Figures of models, or of what `first` says, one row each."""
    return by_row({first: name} | one for name, one in found.items())


def in_parts(found):
    """Figures under several names: one line, or a table, for each."""
    for name, part in found.items():
        title = name.replace("_", " ")
        if isinstance(part, list):
            yield f"**{title}**\n\n{by_row(part)}\n"
        else:
            yield f"{title} {words(part) if isinstance(part, dict) else word(part)}.\n"


def heading(file):
    """What a file of results is about."""
    return HEADINGS.get(file.stem, file.stem.replace("_", " ").replace("-", " "))


def tables():
    """All results, file by file; Markdown."""
    from benchmarks import harness

    files = sorted(file for file in harness.RESULTS.glob("*.json") if file.stem != COMPUTED)
    text = []
    for file in files:
        found = json.loads(file.read_text(encoding="utf-8"))
        text.append(f"## {heading(file)}\n")
        if "machine" in found:
            text += in_parts(found)
            continue
        if "about" not in found:  # what plans cost
            text.append(f"{by_model(found)}\n")
            continue
        text.append(f"{words(found['about'])}.\n")
        if "rows" in found:  # what the conformance suite takes, and how far it can be trusted
            text.append(f"{by_model(found['rows'], 'what was judged')}\n")
            continue
        for part, cases in parts(found).items():
            text += [f"### {part}\n"] if part else []
            bases = {case.base for case in cases}
            if len(bases) == 1 and len(cases) <= 20:
                text.append(f"{picture(cases, *bases)._repr_html_()}\n")
            numbers = "\n\n".join(map(table, cases))
            text.append(f"<details><summary>The numbers: {len(cases)} workloads</summary>\n\n{numbers}\n\n</details>\n")
    if not files:
        text.append("No measurement is kept in that folder yet.\n")
    elif not any(file.stem.startswith("gpu") for file in files):
        text.append("None of these was measured on a GPU.\n")
    return "\n".join(text)


def computed():
    """What was computed of steps on a GPU, and measured by nobody; Markdown."""
    from benchmarks import harness

    found = json.loads((harness.RESULTS / f"{COMPUTED}.json").read_text(encoding="utf-8"))
    lines = ["| model, dtype, step, GC on the | launches | registers | spilled | warps | bytes an element (fewest) | "
             "issue slots | not reached |", "|---|--:|--:|--:|--:|--:|--:|---|"]  # fmt: skip
    for one in found["cases"]:
        cells = [
            f"{one['model']}, {one['dtype']}, {one['rule']}, {one['gc_on']}", one["launches"], one["registers"],
            one["spilled"], one["warps a multiprocessor"], f"{one['bytes an element']:g} ({one['fewest bytes']})",
            f"{100 * one['issue slots']:.0f} %", "; ".join(one["missed"]),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return f"{words(found['about'])}.\n\n" + "\n".join(lines)


def fill(app, docname, source):
    if COMPUTED_MARK in source[0]:
        sys.path.insert(0, str(ROOT))
        source[0] = source[0].replace(COMPUTED_MARK, computed())
    if MARK in source[0]:
        sys.path.insert(0, str(ROOT))
        source[0] = source[0].replace(MARK, tables())


def setup(app):
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

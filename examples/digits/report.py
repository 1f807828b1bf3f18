"""The table and the sentences at the end: every word of them depends on the numbers."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from examples.digits.statistics import Interval

LITTLE = 1.0  # points of accuracy, either way
NOTES = (
    "¹ ℓ2, of the weight gradients as the method uses them (after Φ where GC is on the gradient), mean over training",
    "² |mean(wᵗ) − mean(w⁰)|, mean over all weight vectors, at the end",
    "The seeds share 1797 images: an interval speaks of split, initial weights and order, not of other data. "
    "One interval in twenty is expected to miss.",
    "Digits are not the whole story: docs/results.md has natural images and text, docs/should-i-use-it.md what to do.",
)


def show(console: Console, metrics: Mapping[str, Any]) -> None:
    """Print the results of the finished seeds."""
    seeds, summary, differences = len(metrics["seeds"]), metrics["summary"], metrics["differences"]
    several = f"mean and 95 % interval over {seeds} seeds" if seeds > 1 else "one seed: no interval"
    table = Table(box=SIMPLE_HEAD, title=f"Test set after the last epoch, {several}", title_justify="left")
    for heading in ("", "accuracy, %", "loss", "gradient¹", "drift²"):
        table.add_column(heading, justify="left" if heading == "" else "right", overflow="fold")
    for method, found in summary.items():
        table.add_row(
            method,
            plus_minus(found["test_accuracy"], "{:.2f}"),
            plus_minus(found["test_loss"], "{:.3f}"),
            f"{found['gradient_norm'].mean:.3f}",
            f"{found['mean_drift'].mean:.1e}",
        )
    console.print(table)
    table = Table(
        box=SIMPLE_HEAD, title="What GC changes, GC minus plain, paired by seed, test set", title_justify="left"
    )
    for heading in ("", "accuracy, points", "loss"):
        table.add_column(heading, justify="left" if heading == "" else "right", overflow="fold")
    for row in differences:
        table.add_row(
            f"{row['gc']} − {row['plain']}",
            plus_minus(row["test_accuracy"], "{:+.2f}"),
            plus_minus(row["test_loss"], "{:+.4f}"),
        )
    console.print(table)
    for sentence in in_words(summary, differences):
        console.print(sentence, highlight=False)
    for note in NOTES:
        console.print(note, style="dim", highlight=False)


def in_words(summary: Mapping[str, Any], differences: list[dict[str, Any]]) -> list[str]:
    """What the numbers say, and no more."""
    sentences = []
    for row in differences:
        gc, plain = summary[row["gc"]], summary[row["plain"]]
        norm = 100 * (gc["gradient_norm"].mean / plain["gradient_norm"].mean - 1)
        drift = f"{plain['mean_drift'].mean:.1e} → {gc['mean_drift'].mean:.1e}"
        sentences.append(
            f"{row['gc']}: test accuracy {verdict(row['test_accuracy'])}, test loss {verdict(row['test_loss'])}; "
            f"gradient norm {signed(norm, '{:+.0f}')} %, drift of the weight means {drift}."
        )
    accuracy = [row["test_accuracy"] for row in differences]
    if all(found.half_width is not None for found in accuracy):
        most = max(abs(bound) for found in accuracy for bound in (found.low, found.high))
        size = "on these digits GC changes little" if most < LITTLE else "too wide to say that GC changes little"
        sentences.append(f"The intervals of accuracy end within {most:.2f} points of no change: {size}.")
    return sentences


def verdict(difference: Interval) -> str:
    """Whether the interval shows a difference."""
    if difference.half_width is None:
        return "one seed shows nothing"
    if difference.low > 0:
        return "higher"
    if difference.high < 0:
        return "lower"
    return "no difference shown"


def plus_minus(value: Interval, form: str) -> str:
    """mean ± half width"""
    mean = signed(value.mean, form)
    return mean if value.half_width is None else f"{mean} ± {form.replace('+', '').format(value.half_width)}"


def signed(value: float, form: str) -> str:
    """A number with a real minus sign."""
    return form.format(value).replace("-", "−")

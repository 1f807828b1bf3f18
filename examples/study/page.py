"""docs/results.md, from the numbers of a run: every word that judges depends on them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from examples.digits.report import signed
from examples.digits.statistics import Interval, interval
from examples.study.experiment import PLACES, RULES, SETTINGS, STEPS, Setting

COMPARED = [(rule, place) for rule in RULES for place in PLACES[rule] if place]
NAMES = {"off": "without GC", "gradient": "with GC on the gradient", "update": "with GC on the update"}
TITLES = {
    ("SGDM", "gradient"): "GC-SGDM − SGDM",
    ("Adam", "gradient"): "GC-Adam (gradient) − Adam",
    ("Adam", "update"): "GC-Adam (update) − Adam",
}


FAILED = 0.5  # a test accuracy below it: the run has not learned
HOW = """\
A network 64-width-width/2-10 with ReLU, written in NumPy (`examples/study/network.py`), takes {steps} steps of 64
images, without weight decay. The learning rates ({rates}) are those of the demo; they were tuned for no setting,
neither with GC nor without. It is tested on 359 images after the last step; batch normalization then uses the
statistics of the training images. Both sides of a difference have the same split, initial weights and order of
batches, seed by seed; intervals are Student's over the seeds. The seeds share the 1797 images of scikit-learn's
digits: an interval speaks of split, weights and order, not of other data."""


class Difference(NamedTuple):
    """What GC changes in one setting: GC minus plain, paired by seed."""

    setting: Setting
    place: str
    accuracy: Interval  # points
    loss: Interval


def differences(runs: dict[str, Any]) -> Iterator[Difference]:
    """One for every setting and place of GC."""
    for setting in SETTINGS:
        for place in PLACES[setting.rule]:
            if place:
                off, gc = runs[setting.key]["off"], runs[setting.key][place]
                accuracy, loss = (np.subtract(gc[name], off[name]) for name in ("test_accuracy", "test_loss"))
                yield Difference(setting, place, interval(100 * accuracy), interval(loss))


def failed(runs: dict[str, Any], setting: Setting) -> dict[str, int]:
    """How many runs of a setting have not learned, by place of GC."""
    return {place: sum(a < FAILED for a in found["test_accuracy"]) for place, found in runs[setting.key].items()}


def shown(found: Interval, form: str) -> str:
    """mean ± half width, bold where the interval does not hold zero."""
    text = f"{signed(found.mean, form)} ± {form.replace('+', '').format(found.half_width)}"
    return f"**{text}**" if found.low > 0 or found.high < 0 else text


def counted(found: list[Interval], better: str) -> str:
    """How many intervals leave zero out, and on which side; better is "higher" or "lower"."""
    above, below = (sum(test) for test in ([i.low > 0 for i in found], [i.high < 0 for i in found]))
    good, bad = (above, below) if better == "higher" else (below, above)
    return f"{good} show it better, {bad} worse, {len(found) - good - bad} show nothing"


def write(metrics: dict[str, Any]) -> str:
    """The page."""
    runs, seeds = metrics["runs"], metrics["seeds"]
    found = list(differences(runs))
    chance = f"{0.05 * len(found):.1f}"
    lines = [
        "# What GC changes on the digits",
        "",
        f"Small networks on the 8×8 digits, with GC and without: {len(SETTINGS)} settings, {seeds} seeds.",
        "One command repeats it and writes this page:",
        "",
        "```console",
        "$ make study",
        "```",
        "",
        "![Test accuracy with GC minus without, for every setting.](pictures/results.png)",
        "",
        "## What was found",
        "",
        f"Of {len(found)} differences between training with GC and without, the 95 % intervals say:",
        "",
        f"- test accuracy: {counted([d.accuracy for d in found], 'higher')};",
        f"- test loss: {counted([d.loss for d in found], 'lower')}.",
        "",
        f"If GC did nothing at all, about {chance} of {len(found)} intervals would leave zero out by chance.",
        "",
    ]
    for rule, place in COMPARED:
        own = [d for d in found if d.setting.rule == rule and d.place == place]
        for normalized in (False, True):
            part = [d for d in own if d.setting.normalized == normalized]
            mean = signed(float(np.mean([d.accuracy.mean for d in part])), "{:+.2f}")
            lines.append(
                f"- {TITLES[rule, place]}, {'with' if normalized else 'without'} batch normalization: {mean} points on "
                f"average over {len(part)} settings. Accuracy: {counted([d.accuracy for d in part], 'higher')}. "
                f"Loss: {counted([d.loss for d in part], 'lower')}."
            )
    sound = [d for d in found if not any(failed(runs, d.setting).values())]
    most = max(abs(d.accuracy.mean) for d in sound)
    lines += [
        "",
        f"Where every run has learned ({len(sound)} of {len(found)} differences), GC changes the mean accuracy by at "
        f"most {most:.2f} points. Elsewhere some runs end below {100 * FAILED:.0f} % and rule the mean:",
        "",
    ]
    for setting in SETTINGS:
        if any(counts := failed(runs, setting).values()):
            places = ", ".join(
                f"{count} {NAMES[place]}" for place, count in zip(runs[setting.key], counts, strict=True)
            )
            normalization = f"{'with' if setting.normalized else 'no'} batch normalization"
            lines.append(
                f"- {setting.rule}, {normalization}, width {setting.width}, {setting.images} images: "
                f"of {seeds} runs {places}."
            )
    lines += [
        "",
        "## How",
        "",
        HOW.format(steps=STEPS, rates=" and ".join(f"{rule} at {lr:g}" for rule, (_, lr) in RULES.items())),
        "",
        "## Every number",
        "",
        "Accuracy without GC in per cent, and what GC changes, in points of accuracy and in test loss; bold where the "
        "interval leaves zero out.",
    ]
    for rule, place in COMPARED:
        lines += [
            "",
            f"### {TITLES[rule, place]}",
            "",
            "| BN | width | images | accuracy without | accuracy, points | loss |",
            "|---|---|---|---|---|---|",
        ]
        for difference in found:
            setting = difference.setting
            if (setting.rule, difference.place) == (rule, place):
                plain = interval(100 * np.array(runs[setting.key]["off"]["test_accuracy"]))
                cells = [
                    "yes" if setting.normalized else "no",
                    setting.width,
                    setting.images,
                    f"{plain.mean:.2f}",
                    shown(difference.accuracy, "{:+.2f}"),
                    shown(difference.loss, "{:+.4f}"),
                ]
                lines.append(f"| {' | '.join(map(str, cells))} |")
    versions = ", ".join(f"{name} {version}" for name, version in metrics["versions"].items())
    lines += ["", f"Measured with {versions}. The results of every seed are in `docs/results.json`."]
    return "\n".join(lines) + "\n"

"""docs/digits.md, from the numbers of a run: every word that judges depends on them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from examples.digits.report import signed
from examples.digits.statistics import Interval, interval
from examples.study.experiment import PLACES, RULES, SETTINGS, STEPS, Setting

FAILED = 0.5  # a test accuracy below it: the run has not learned
COMPARED = [(rule, place) for rule in RULES for place in PLACES[rule] if place]
NAMES = {"off": "without GC", "gradient": "with GC on the gradient", "update": "with GC on the update"}
TITLES = {
    ("SGDM", "gradient"): "GC-SGDM − SGDM",
    ("Adam", "gradient"): "GC-Adam (gradient) − Adam",
    ("Adam", "update"): "GC-Adam (update) − Adam",
}
PAGE = """\
# What GC changes on the digits

Small networks on the 8×8 digits, with GC and without: {settings} settings, {seeds} seeds. One command repeats it, and
writes this page into `runs/study/`:

```console
$ make study
```

Natural images and text: [what GC changes in training](results.md).

![Test accuracy with GC minus without, for every setting.](pictures/digits.png)

## What was found

{found} differences between training with GC and without. So many of them have a 95 % interval that shows GC to be
better or worse:

{overview}

If GC did nothing at all, about {chance:.1f} of {found} intervals would leave zero out by chance. The averages are over
the {sound} differences in whose settings every run has learned. There GC changes the mean accuracy by at most
{most:.2f} points.

{failures}## How

A network 64-width-width/2-10 with ReLU, written in NumPy (`examples/study/network.py`), takes {steps} steps of 64
images, without weight decay. The learning rates ({rates}) are those of the demo; they were tuned for no setting,
neither with GC nor without. It is tested on 359 images after the last step; batch normalization then uses the
statistics of the training images. Both sides of a difference have the same split, initial weights and order of batches,
seed by seed; intervals are Student's over the seeds. The seeds share the 1797 images of scikit-learn's digits: an
interval speaks of split, weights and order, not of other data.

## Every number

Accuracy without GC in per cent, and what GC changes, in points of accuracy and in test loss; bold where the interval
leaves zero out.

{tables}

Measured with {versions}. The results of every seed are in `docs/results/digits.jsonl`.
"""  # fmt: skip


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


def write(metrics: dict[str, Any]) -> str:
    """The page."""
    runs = metrics["runs"]
    found = list(differences(runs))
    sound = [d for d in found if not any(failed(runs, d.setting).values())]
    return PAGE.format(
        settings=len(SETTINGS),
        seeds=metrics["seeds"],
        found=len(found),
        overview=overview(found, sound),
        chance=0.05 * len(found),
        sound=len(sound),
        most=max(abs(d.accuracy.mean) for d in sound),
        failures=failures(runs, metrics["seeds"]),
        steps=STEPS,
        rates=" and ".join(f"{rule} at {lr:g}" for rule, (_, lr) in RULES.items()),
        tables="\n\n".join(table(runs, found, *compared) for compared in COMPARED),
        versions=", ".join(f"{name} {version}" for name, version in metrics["versions"].items()),
    )


def overview(found: list[Difference], sound: list[Difference]) -> str:
    """How often GC was better or worse."""
    parts = {"all": found}
    for compared in COMPARED:
        for normalized in (False, True):
            name = f"{TITLES[compared]}, {normalization(normalized)}"
            parts[name] = [
                d for d in found if (d.setting.rule, d.place) == compared and d.setting.normalized == normalized
            ]
    rows = []
    for name, part in parts.items():
        mean = float(np.mean([d.accuracy.mean for d in part if d in sound]))
        verdicts = counted([d.accuracy for d in part], "higher"), counted([d.loss for d in part], "lower")
        rows.append((name, len(part), signed(mean, "{:+.2f}"), *verdicts))
    return markdown(("", "settings", "points of accuracy, average", "accuracy", "loss"), rows)


def failures(runs: dict[str, Any], seeds: int) -> str:
    """The settings in which some run has not learned, if there are any."""
    lines = []
    for setting in SETTINGS:
        counts = failed(runs, setting)
        if any(counts.values()):
            places = ", ".join(f"{count} {NAMES[place]}" for place, count in counts.items())
            about = f"{setting.rule}, {normalization(setting.normalized)}, width {setting.width}"
            lines.append(f"- {about}, {setting.images} images: of {seeds} runs {places}.")
    if not lines:
        return ""
    return "\n".join(
        [f"Elsewhere some runs end below {100 * FAILED:.0f} %, and dominate the mean:", "", *lines, "", ""]
    )


def table(runs: dict[str, Any], found: list[Difference], rule: str, place: str) -> str:
    """Every setting of one comparison."""
    rows = []
    for setting, at, accuracy, loss in found:
        if (setting.rule, at) == (rule, place):
            plain = interval(100 * np.array(runs[setting.key]["off"]["test_accuracy"]))
            cells = f"{plain.mean:.2f}", shown(accuracy, "{:+.2f}"), shown(loss, "{:+.4f}")
            rows.append(("yes" if setting.normalized else "no", setting.width, setting.images, *cells))
    heading = ("BN", "width", "images", "accuracy without", "accuracy, points", "loss")
    return f"### {TITLES[rule, place]}\n\n{markdown(heading, rows)}"


def counted(found: list[Interval], better: str) -> str:
    """How many intervals leave zero out, and on which side; better is "higher" or "lower"."""
    above, below = sum(i.low > 0 for i in found), sum(i.high < 0 for i in found)
    good, bad = (above, below) if better == "higher" else (below, above)
    return f"{good} better, {bad} worse, {len(found) - good - bad} neither"


def shown(found: Interval, form: str) -> str:
    """mean ± half width, bold where the interval does not hold zero."""
    text = f"{signed(found.mean, form)} ± {form.replace('+', '').format(found.half_width)}"
    return f"**{text}**" if found.low > 0 or found.high < 0 else text


def normalization(normalized: bool) -> str:
    return f"{'with' if normalized else 'no'} batch normalization"


def markdown(heading: tuple, rows: list[tuple]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (heading, ("---",) * len(heading), *rows))

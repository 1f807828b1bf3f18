"""One picture for each question, from the lines that are there."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from examples.digits.figure import LOOK
from examples.digits.statistics import interval
from examples.evidence import answers, resnet
from examples.evidence.answers import Answer, Runs
from examples.evidence.questions import ADAMW, BUDGETS, METHODS, SGD, with_gc
from examples.evidence.settings import Images, Text

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLORS = {"off": "#777777", "gradient": "#D55E00", "update": "#0072B2"}
BY_METHOD = {("SGD", "gradient"): "#E69F00", ("AdamW", "gradient"): "#D55E00", ("AdamW", "update"): "#0072B2"}
SEVERAL = 3  # seeds: fewer have no band


def draw(question: int, runs: Runs, path: Path) -> bool:
    """Write the picture of a question as a PNG; False, and nothing is written, where no pair has been run."""
    if not wanted(question, runs):
        return False
    with mpl.rc_context(LOOK):
        compose(question, runs).savefig(path, dpi=110, metadata={"Software": None})
    return True


def wanted(question: int, runs: Runs) -> bool:
    """Whether a pair that the picture shows has been run."""
    shown = [*answers.ALL[question](runs), *(answers.mechanism(runs) if question == 6 else [])]
    return any(answer.by_seed for answer in shown)


def compose(question: int, runs: Runs) -> Figure:
    return DRAWN[question](runs)


def intervals(panel: Any, found: Sequence[Answer], colors: Sequence[str], labels: Sequence[str] | None = None) -> None:
    """Differences as intervals around zero, the first on top: a dot for each seed, mean and interval above the dots."""
    if any(answer.by_seed for answer in found):
        panel.axvline(0, color="#555555", linewidth=0.9, zorder=1)
    else:
        empty(panel)
    for place, (answer, color) in enumerate(zip(found, colors, strict=True)):
        panel.scatter(answer.by_seed, [place + 0.12] * len(answer.by_seed), s=13, color=color, alpha=0.5, linewidths=0)
        if answer.interval is not None:
            panel.errorbar(answer.interval.mean, place - 0.14, xerr=answer.interval.half_width, fmt="o", color=color,
                           capsize=3, markersize=5, elinewidth=1.7, zorder=3)  # fmt: skip
    named = [
        f"{label}  ({len(answer.by_seed)}/{answer.planned})"
        for answer, label in zip(found, labels or [answer.name for answer in found], strict=True)
    ]
    panel.set(yticks=range(len(found)), ylim=(len(found) - 0.4, -0.6))
    panel.set_yticklabels(named, fontsize=8.5)
    panel.grid(visible=False, axis="y")


def empty(panel: Any) -> None:
    """A panel of which nothing has been run."""
    panel.text(0.5, 0.5, "not run yet", transform=panel.transAxes, ha="center", va="center", color="#777777")
    panel.set(xticks=[], yticks=[])


def band(panel: Any, x: Any, rows: list[list[float]], color: str, label: str, **style: Any) -> None:
    """Mean over seeds, and its 95 % interval."""
    values = np.array([[np.nan if value is None else value for value in row] for row in rows], float)
    mean = np.nanmean(values, 0)
    panel.plot(x, mean, color=color, label=label, **style)
    if len(values) >= SEVERAL:
        half = np.array([interval(column[np.isfinite(column)]).half_width or 0.0 for column in values.T])
        panel.fill_between(x, mean - half, mean + half, color=color, alpha=0.15, linewidth=0)


def legend(panel: Any, **style: Any) -> None:
    if panel.lines:
        panel.legend(frameon=False, **style)
    else:
        empty(panel)


def methods(base: Images) -> list[tuple[str, Images]]:
    """Without GC, and every place of it."""
    return [("off", base), *((gc, with_gc(base, gc)) for rule, gc in METHODS if rule.rule == base.rule)]


def label_of(gc: str) -> str:
    return "no GC" if gc == "off" else f"GC on the {gc}"


def caption(figure: Figure, text: str) -> None:
    figure.text(0.012, 0.018, text, fontsize=8.8, color="#555555", linespacing=1.4)


def of_together(question: int) -> str:
    return (
        f"Intervals of {answers.COUNTED[question]} comparisons, which hold together at 95 %; dots are seeds; in "
        "parentheses, seeds run / planned."
    )


# ---- 1


def first(runs: Runs) -> Figure:
    figure = Figure(figsize=(14, 9))
    top, bottom = figure.subplots(2, 3)
    figure.subplots_adjust(left=0.115, right=0.985, top=0.94, bottom=0.1, wspace=0.55, hspace=0.34)
    found = answers.budgets(runs)
    for panel, (base, gc) in zip(top, METHODS, strict=True):
        own = [found[base.rule, gc, images, epochs] for images, epochs in sorted(BUDGETS)]
        labels = [f"{images:,} im., {epochs} ep." for images, epochs in sorted(BUDGETS)]
        if base.rule == "SGD":
            own, labels = [*own, answers.pilot(runs)], [*labels, "one cycle, 20 ep."]
        intervals(panel, own, [BY_METHOD[base.rule, gc]] * len(own), labels)
        panel.set(title=answers.method_name(base.rule, gc), xlabel="test accuracy, points, GC minus none")
    for panel, base in zip(bottom, (SGD, ADAMW), strict=False):
        for gc, setting in methods(base):
            rows = [found["loss"] for found in runs.all(setting, 8)]
            if rows:
                band(panel, np.arange(setting.epochs) + 0.5, rows, COLORS[gc], label_of(gc))
        panel.set(title=f"{base.rule}, 20 epochs: training loss", xlabel="epoch", ylabel="cross-entropy")
        legend(panel)
    panel = bottom[2]
    for base, line in ((SGD, "-"), (ADAMW, "--")):
        for gc, setting in methods(base):
            points = [
                (epochs, np.mean(got))
                for images, epochs in sorted(BUDGETS)
                if images == setting.images and (got := runs.accuracies(replace(setting, epochs=epochs), 8))
            ]
            if points:
                panel.plot(*zip(*points, strict=True), line, marker="o", markersize=4, color=COLORS[gc],
                           label=f"{base.rule}, {label_of(gc)}")  # fmt: skip
    panel.set(title="2,000 images: test accuracy", xlabel="epochs of training", ylabel="per cent", xscale="log")
    ticks = [epochs for images, epochs in BUDGETS if images == SGD.images]
    panel.set_xticks(ticks, [str(tick) for tick in ticks])
    panel.minorticks_off()
    panel.legend(frameon=False, fontsize=8)
    caption(
        figure, f"{of_together(1)} Bands: 95 % interval of the mean. Lower right: means of the seeds that are there."
    )
    return figure


# ---- 2


def second(runs: Runs) -> Figure:
    figure = Figure(figsize=(14.5, 9))
    panels = figure.subplots(2, 4, width_ratios=(1, 1, 0.38, 1))
    figure.subplots_adjust(left=0.05, right=0.985, top=0.94, bottom=0.1, wspace=0.25, hspace=0.34)
    for room in panels[:, 2]:  # for the names at its right
        room.set_axis_off()
    for row, norm in enumerate(("batch", "none")):
        for panel, base in zip(panels[row], (SGD, ADAMW), strict=False):
            for gc, _ in methods(base):
                own = [
                    (s.lr, got) for s in answers.middle(base, norm) if (got := runs.accuracies(replace(s, gc=gc), 5))
                ]
                if own:
                    fewest = min(len(got) for _, got in own)
                    rows = [[got[seed] for _, got in own] for seed in range(fewest)]
                    band(panel, [lr for lr, _ in own], rows, COLORS[gc], label_of(gc), marker="o", markersize=4)
            panel.set(title=f"{base.rule}, {'batch' if norm == 'batch' else 'no'} normalization", xscale="log",
                      xlabel="learning rate", ylabel="test accuracy, %")  # fmt: skip
            legend(panel)
    titles = "At each method's own best", "Learning rates that collapse"
    for panel, found, title in zip(panels[:, 3], answers.rates(runs), titles, strict=True):
        colors = [BY_METHOD[base.rule, gc] for base, gc in METHODS] * 2
        names = [answer.name.replace(", GC on the ", ", ").replace(" normalization", " norm.") for answer in found]
        intervals(panel, found, colors, names)
        panel.set(title=title, xlabel="points, GC minus none")
    caption(figure, f"{of_together(2)} Left: the middle decay; bands are 95 % intervals of the mean.")
    return figure


# ---- 3 and 4


def differences(question: int, title: str, xlabel: str) -> Callable[[Runs], Figure]:
    def figure_of(runs: Runs) -> Figure:
        found = answers.ALL[question](runs)
        height = 1.4 + 0.55 * len(found)
        figure = Figure(figsize=(11, height))
        panel = figure.subplots()
        figure.subplots_adjust(left=0.47, right=0.98, top=1 - 0.5 / height, bottom=0.9 / height)
        intervals(panel, found, ["#D55E00"] * len(found))
        panel.set(title=title, xlabel=xlabel)
        caption(figure, of_together(question))
        return figure

    return figure_of


# ---- 5


def fifth(runs: Runs) -> Figure:
    figure = Figure(figsize=(14.5, 4.8))
    curves, apart, room, paired = figure.subplots(1, 4, width_ratios=(1, 1, 0.36, 0.9))
    figure.subplots_adjust(left=0.045, right=0.985, top=0.9, bottom=0.2, wspace=0.28)
    room.set_axis_off()  # for the names at its right
    plain = runs.all(Text(), 5)
    for gc in questions_of_text():
        rows = runs.all(gc, 5)
        if rows:
            line = dict(linestyle="--" if gc.embeddings else "-")
            name = label_of(gc.gc) + (", embeddings too" if gc.embeddings else "")
            band(curves, rows[0]["moments"], [row["watched_bits"] for row in rows], COLORS[gc.gc], name, **line)
            if gc != Text() and plain:
                both = [
                    list(np.subtract(one["watched_bits"], none["watched_bits"]))
                    for seed in range(5)
                    if (one := runs.found(gc, seed)) and (none := runs.found(Text(), seed))
                ]
                if both:
                    band(apart, rows[0]["moments"], both, COLORS[gc.gc], name, **line)
    curves.set(title="Validation text, some of it", xlabel="step", ylabel="bits per character")
    apart.set(title="The same, GC minus none", xlabel="step", ylabel="bits per character")
    apart.axhline(0, color="#555555", linewidth=0.9)
    legend(curves, fontsize=8)
    found = answers.text(runs)
    colors = [COLORS["gradient"]] * 2 + [COLORS["update"]] * 2
    intervals(paired, found, colors, [f"{one.name.split(', ')[0][10:]}, {one.name.split(', ')[1]}" for one in found])
    paired.set(title="At the end, all of it", xlabel="bits per character, GC minus none")
    paired.tick_params(axis="x", labelsize=8)
    caption(figure, f"{of_together(5)} Bands: 95 % interval of the mean.")
    return figure


def questions_of_text() -> list[Text]:
    return [Text(), *(Text(gc=gc, embeddings=e) for gc in ("gradient", "update") for e in (False, True))]


# ---- 6


def sixth(runs: Runs) -> Figure:
    figure = Figure(figsize=(14, 13))
    panels = figure.subplots(3, 3)
    figure.subplots_adjust(left=0.095, right=0.985, top=0.955, bottom=0.085, wspace=0.42, hspace=0.36)
    shades = mpl.colormaps["viridis"](np.linspace(0.05, 0.92, len(resnet.LAYERS)))
    plain, centralized = runs.all(SGD, 8), runs.all(with_gc(SGD), 8)
    moments = next((found["moments"] for found in (*plain, *centralized)), [])
    for (title, ylabel, take), panel in zip(WATCHED, panels.flat, strict=False):
        for gc, setting in methods(SGD):
            rows = [take(found) for found in runs.all(setting, 8)]
            if rows:
                band(panel, moments, rows, COLORS[gc], label_of(gc))
        panel.set(title=title, xlabel="step", ylabel=ylabel)
        legend(panel, fontsize=8)
    if rows := [found["used_norm"] for found in centralized]:
        band(panels[0, 0], moments, rows, COLORS["gradient"], "the same, after Φ", linestyle="--")
        legend(panels[0, 0], fontsize=8)
    panel = panels[1, 1]
    for name, color in zip(resnet.LAYERS, shades, strict=True):
        if plain:
            panel.plot(moments, np.mean([found["share"][name] for found in plain], 0), color=color, label=name)
    panel.set(title="What GC would remove, no GC", xlabel="step", ylabel="share of ‖g‖²", ylim=(0, 1))
    legend(panel, fontsize=7, ncols=2)
    panel = panels[1, 2]
    share = answers.shares(runs)
    found = answers.layers(runs)
    for name, color in zip(resnet.LAYERS, shades, strict=True):
        alone = found[name][0]
        if alone.by_seed and share[name]:
            half = interval(alone.by_seed).half_width
            panel.errorbar(
                np.mean(share[name]), np.mean(alone.by_seed), yerr=half, fmt="o", color=color, capsize=3, label=name
            )
    if panel.containers:
        panel.axhline(0, color="#555555", linewidth=0.9)
    else:
        empty(panel)
    panel.set(title="Does the share say where it helps?", xlabel="share of ‖g‖² that GC would remove",
              ylabel="points, GC there alone minus none")  # fmt: skip
    alone, others, by_hand = panels[2]
    intervals(alone, [found[name][0] for name in resnet.LAYERS], shades, list(resnet.LAYERS))
    alone.set(title="GC on one layer alone, minus none", xlabel="test accuracy, points")
    intervals(others, [found[name][1] for name in resnet.LAYERS], shades, list(resnet.LAYERS))
    others.set(title="GC on all, minus all but one", xlabel="test accuracy, points")
    centred = answers.mechanism(runs)
    labels = ["GC − none", "centred − none", "GC − centred", "GC − none,\npixels raw"]
    intervals(by_hand, centred, ["#777777", "#0072B2", "#009E73", "#D55E00"], labels)
    by_hand.set(title="Inputs of layers centred by hand", xlabel="test accuracy, points")
    caption(
        figure,
        f"{of_together(6)} Bands, and bars middle right: 95 % interval of one mean.\nSGD, 2,000 images, 20 epochs.",
    )
    return figure


def smoothness(found: dict[str, Any]) -> list[float]:
    """How far apart the losses along the gradient are, at each moment."""
    return [max(0.0, *losses) - min(0.0, *losses) for losses in found["along"]]


WATCHED: tuple[tuple[str, str, Callable[[dict[str, Any]], list[float]]], ...] = (
    ("Length of the gradient", "ℓ2, before Φ", lambda found: found["gradient_norm"]),
    ("Largest element of the gradient", "magnitude, before Φ", lambda found: found["gradient_largest"]),
    ("Loss along the gradient", "largest minus smallest", smoothness),
    ("Drift of the weight means", "mean over layers", lambda found: list(np.mean(list(found["drift"].values()), 0))),
)
DRAWN: dict[int, Callable[[Runs], Figure]] = {
    1: first,
    2: second,
    3: differences(3, "GC beside other methods", "test accuracy, points"),
    4: differences(4, "Fine-tuning on five new classes", "test accuracy, points"),
    5: fifth,
    6: sixth,
}

"""docs/pictures/digits.png: the difference that GC makes to test accuracy in every setting, with its interval."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from examples.digits.figure import LOOK
from examples.study.experiment import SIZES, WIDTHS
from examples.study.page import COMPARED, FAILED, TITLES, differences, failed

COLORS = dict(zip(WIDTHS, ("#E69F00", "#0072B2", "#009E73"), strict=True))
MARKERS = dict(zip(WIDTHS, ("o", "s", "D"), strict=True))


def draw(metrics: dict[str, Any], path: Path) -> None:
    """Write the figure as a PNG."""
    compose(metrics).savefig(path, dpi=130, metadata={"Software": None})


@mpl.rc_context(LOOK)
def compose(metrics: dict[str, Any]) -> Figure:
    """Columns: what is compared; rows: without and with batch normalization."""
    figure = Figure(figsize=(11, 6.4))
    panels = figure.subplots(2, len(COMPARED), sharex=True, sharey="row")
    figure.subplots_adjust(left=0.085, right=0.99, top=0.84, bottom=0.145, wspace=0.08, hspace=0.2)
    low, high = ([], []), ([], [])  # of the settings in which every run has learned, for each row
    for difference in differences(metrics["runs"]):
        setting = difference.setting
        panel = panels[int(setting.normalized), COMPARED.index((setting.rule, difference.place))]
        learned = not any(failed(metrics["runs"], setting).values())
        if learned:
            low[int(setting.normalized)].append(difference.accuracy.low)
            high[int(setting.normalized)].append(difference.accuracy.high)
        x = SIZES.index(setting.images) + 0.22 * (WIDTHS.index(setting.width) - 1)
        panel.errorbar(
            x, difference.accuracy.mean, yerr=difference.accuracy.half_width, fmt=MARKERS[setting.width],
            color=COLORS[setting.width], markersize=5.5, capsize=3, elinewidth=1.6, zorder=3,
            markerfacecolor=COLORS[setting.width] if learned else "white", alpha=1.0 if learned else 0.6,
        )  # fmt: skip
    for row, name in enumerate(("no batch normalization", "batch normalization")):
        panels[row, 0].set_ylabel(f"points, {name}")
        room = 0.15 * (max(high[row]) - min(low[row]))
        panels[row, 0].set_ylim(min(low[row]) - room, max(high[row]) + room)
        for panel in panels[row]:
            panel.axhline(0, color="#555555", linewidth=0.9, zorder=1)
            panel.grid(visible=False, axis="x")
            panel.set_xticks(range(len(SIZES)), [f"{size:,}" for size in SIZES])
            panel.set_xlim(-0.5, len(SIZES) - 0.5)
    for panel, compared in zip(panels[0], COMPARED, strict=True):
        panel.set_title(TITLES[compared])
    for panel in panels[1]:
        panel.set_xlabel("training images")
    figure.text(0.012, 0.945, "What GC changes: test accuracy on the digits", fontsize=14, fontweight="bold")
    figure.legend(
        handles=[
            Line2D([], [], linestyle="", marker=MARKERS[width], color=COLORS[width], label=f"width {width}")
            for width in WIDTHS
        ],
        loc="upper right", bbox_to_anchor=(0.995, 0.985), ncols=len(WIDTHS), frameon=False, fontsize=11,
    )  # fmt: skip
    figure.text(
        0.012, 0.025,
        f"GC minus plain, paired by seed: mean and 95 % interval over {metrics['seeds']} seeds. "
        f"If GC did nothing, one in twenty would miss zero. Hollow: some runs end below {100 * FAILED:.0f} %.",
        fontsize=9.5, color="#555555",
    )  # fmt: skip
    return figure

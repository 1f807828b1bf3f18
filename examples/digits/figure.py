"""The figure: what GC does to training, to the gradients and to the weights, from the metrics of a run."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import t

from examples.digits.statistics import CONFIDENCE, interval

# Okabe and Ito's colours, which colour-blind readers tell apart. Dashed: without GC.
STYLE = {
    "SGDM": dict(color="#56B4E9", linestyle=(0, (4, 1.5))),
    "GC-SGDM": dict(color="#0072B2", linestyle="-"),
    "Adam": dict(color="#E69F00", linestyle=(0, (4, 1.5))),
    "GC-Adam (gradient)": dict(color="#D55E00", linestyle="-"),
    "GC-Adam (update)": dict(color="#009E73", linestyle="-"),
}
LOOK = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.8,
    "axes.labelcolor": "#333333",
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
}


def draw(metrics: dict[str, Any], path: Path) -> None:
    """Write the figure of a run's metrics (what metrics.json holds) as a PNG."""
    compose(metrics).savefig(path, dpi=150)


@mpl.rc_context(LOOK)
def compose(metrics: dict[str, Any]) -> Figure:
    """The figure: eight panels; each line bears the name of its method as its gid."""
    curves, steps, n = metrics["curves"], metrics["steps_per_epoch"], len(metrics["seeds"])
    figure = Figure(figsize=(15, 8.2))
    figure.subplots_adjust(left=0.05, right=0.985, top=0.83, bottom=0.135, wspace=0.26, hspace=0.44)
    (loss, accuracy, norm, largest), (drift, shift_sgdm, shift_adam, paired) = figure.subplots(2, 4)

    lines(loss, by_epoch(curves, "loss", steps), of_logarithms=True)
    loss.set(title="Training loss", yscale="log", ylabel="cross-entropy")
    lines(accuracy, after_epochs(curves, "test_accuracy", scale=100))
    accuracy.set(title="Test accuracy", ylabel="per cent")
    zoom(accuracy, after_epochs(curves, "test_accuracy", scale=100))
    lines(norm, by_epoch(curves, "gradient_norm", steps))
    norm.set(title="Length of the gradient", ylabel="ℓ2 norm", ylim=(0, None))
    lines(largest, by_epoch(curves, "gradient_max", steps))
    largest.set(title="Largest element of the gradient", ylabel="magnitude", ylim=(0, None))

    lines(drift, after_epochs(curves, "mean_drift"))
    drift.set(title="Drift of the weight means", ylabel="|mean(wᵗ) − mean(w⁰)|")
    name_conserved(drift, after_epochs(curves, "mean_drift"))
    shift(shift_sgdm, curves, ("SGDM", "GC-SGDM"))
    shift(shift_adam, curves, ("Adam", "GC-Adam (gradient)", "GC-Adam (update)"))
    gamma = f"{metrics['options']['gamma']:g}"
    shift_sgdm.set(title=f"Output shift, x + {gamma}·1, SGDM", ylabel=f"{gamma}·1ᵀw, single units of layer 1")
    shift_adam.set(title=f"Output shift, x + {gamma}·1, Adam")
    shift_adam.sharey(shift_sgdm)
    for panel in (loss, accuracy, norm, largest, drift, shift_sgdm, shift_adam):
        panel.set_xlabel("epoch")
        panel.margins(x=0.02)
    differences(paired, metrics["differences"])

    figure.text(0.012, 0.95, "Gradient Centralization on handwritten digits", fontsize=15.5, fontweight="bold")
    figure.legend(
        handles=[Line2D([], [], label=method, linewidth=2.4, **STYLE[method]) for method in curves],
        loc="upper left", bbox_to_anchor=(0.004, 0.938), ncols=5, frameon=False, fontsize=11, handlelength=2.6,
        columnspacing=2.4,
    )  # fmt: skip
    spread = "Lines are means over seeds (of the loss: geometric), bands their 95 % intervals. " if n > 1 else ""
    figure.text(
        0.012, 0.022,
        f"8 × 8 digits of scikit-learn, network {'-'.join(map(str, metrics['options']['sizes']))}, "
        f"{metrics['backend']} backend, {n} seed{'s'[: n > 1]}. {spread}"
        "Drift: mean over all units. Output shift: the first seed.\n"
        "Loss and gradients are means of each epoch. Gradients are those of all weights as the method uses them: "
        "after Φ where GC is on the gradient.",
        fontsize=9.5, color="#555555", linespacing=1.5,
    )  # fmt: skip
    return figure


Series = dict[str, tuple[np.ndarray, np.ndarray]]  # by method: epochs, and values (seeds, epochs)


def after_epochs(curves: dict[str, Any], name: str, scale: float = 1.0) -> Series:
    """What was measured before the first and after every epoch."""
    values = {method: scale * np.array(curve[name]) for method, curve in curves.items()}
    return {method: (np.arange(of_seeds.shape[1]), of_seeds) for method, of_seeds in values.items()}


def by_epoch(curves: dict[str, Any], name: str, steps: int) -> Series:
    """What was measured at every step, as the mean over each epoch, at the epoch's middle."""
    found = {}
    for method, curve in curves.items():
        values = np.array(curve[name])
        means = values.reshape(len(values), -1, steps).mean(2)
        found[method] = np.arange(means.shape[1]) + 0.5, means
    return found


def lines(panel: Any, series: Series, *, of_logarithms: bool = False) -> None:
    """Mean over seeds with its 95 % interval; of logarithms, where the panel's axis is one of them."""
    for method, (x, values) in series.items():
        shown, back = (np.log(values), np.exp) if of_logarithms else (values, lambda y: y)
        mean, n = shown.mean(0), len(values)
        panel.plot(x, back(mean), gid=method, zorder=3, **STYLE[method])
        if n > 1:
            half = t.ppf((1 + CONFIDENCE) / 2, n - 1) * shown.std(0, ddof=1) / np.sqrt(n)
            panel.fill_between(
                x, back(mean - half), back(mean + half), color=STYLE[method]["color"], alpha=0.13, linewidth=0
            )


def zoom(panel: Any, series: Series) -> None:
    """Leave out the climb of the first epochs, in which nothing could be told apart."""
    means = np.array([values.mean(0) for _, values in series.values()])
    late = means[:, means.shape[1] // 6 :]
    room = 0.15 * (late.max() - late.min()) + 0.2
    panel.set_ylim(late.min() - room, min(late.max() + room, 100))


def name_conserved(panel: Any, series: Series) -> None:
    """Name the lines that lie on zero, one over the other, and say what zero is."""
    largest = {method: values.max() for method, (_, values) in series.items()}
    conserved = [method for method, value in largest.items() if value < 1e-12]
    if conserved:
        most = max(largest[method] for method in conserved)
        panel.set_yticks([tick for tick in panel.get_yticks() if tick >= 0][::2])
        panel.set_ylim(-0.3 * panel.get_ylim()[1], None)
        panel.text(0.98, 0.04, f"{' and '.join(conserved)}:\nno drift (at most {most:.0e}, rounding)",
                   transform=panel.transAxes, ha="right", va="bottom", fontsize=8.5, color="#333333",
                   linespacing=1.4)  # fmt: skip
    for line in panel.get_lines():
        if line.get_gid() in conserved[:1]:  # the lower one shows on both sides of the upper one
            line.set_linewidth(4.5)


def shift(panel: Any, curves: dict[str, Any], methods: tuple[str, ...]) -> None:
    """The output shift of single units in the first seed."""
    for method in methods:
        panel.plot(np.array(curves[method]["output_shift"][0]), gid=method, linewidth=1.2, **STYLE[method])


def differences(panel: Any, rows: list[dict[str, Any]]) -> None:
    """Accuracy with GC minus without: a dot for each seed, and the mean with its interval."""
    panel.axvline(0, color="#555555", linewidth=0.9, zorder=1)
    for place, row in enumerate(rows):
        color = STYLE[row["gc"]]["color"]
        by_seed = np.array(row["test_accuracy_by_seed"]).round(6)
        height = np.zeros(len(by_seed))
        for value in np.unique(by_seed):  # equal values above each other, so that every seed is seen
            same = np.flatnonzero(by_seed == value)
            height[same] = 0.07 * (np.arange(len(same)) - (len(same) - 1) / 2)
        panel.scatter(by_seed, place + height, s=15, color=color, alpha=0.5, linewidths=0, zorder=2)
        mean = interval(by_seed)
        panel.errorbar(mean.mean, place + 0.34, xerr=mean.half_width, fmt="o", color=color, capsize=4, markersize=6.5,
                       elinewidth=2, zorder=3)  # fmt: skip
        panel.text(0.0, place - 0.36, f"{row['gc']} − {row['plain']}", transform=panel.get_yaxis_transform(),
                   va="center", fontsize=9, color="#333333")  # fmt: skip
    panel.set(title="Test accuracy, GC minus plain", xlabel="points (dots: seeds; bars: mean, 95 % interval)")
    panel.set(ylim=(len(rows) - 0.4, -0.55), yticks=[])
    panel.spines["left"].set_visible(False)

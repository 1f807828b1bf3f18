"""The picture at the top of the README: `python docs/pictures/gc.py` writes gc.png beside this file.

Every number in it comes from `gc_core`, and is kept in the PNG as well (its "Description"), where a test reads it.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import gc_core as gct

FILE = Path(__file__).with_name("gc.png")
INK, FAINT, BLUE, RED = "#222222", "#6B6B6B", "#0072B2", "#D55E00"
LOOK = {"font.size": 11, "mathtext.fontset": "cm", "figure.facecolor": "white", "text.color": INK}


def numbers() -> dict[str, Any]:
    """What is drawn: a gradient and its means, and points of the plane with their projections."""
    grad = np.array([[3.0, 1.0, 2.0, 0.0, 4.0], [-1.0, -4.0, 1.0, -3.0, -3.0], [0.0, 4.0, -2.0, 2.0, 1.0]])
    centralized = gct.centralize(grad, gct.fan_in_axes(grad.shape, "out_first"))
    points = np.array([[2.5, 0.7], [-0.3, 2.1], [0.6, -2.5], [-2.6, 0.6]])
    return {
        "grad": grad.tolist(),
        "means": (grad - centralized).mean(1).tolist(),
        "centralized": centralized.tolist(),
        "points": points.tolist(),
        "projected": (points @ gct.projection_matrix(2).T).tolist(),
    }


def compose(drawn: dict[str, Any]) -> Figure:
    """The picture of these numbers."""
    figure = Figure(figsize=(11, 3.7))
    matrices = figure.add_axes((0.0, 0.0, 0.66, 1.0))
    matrices.set(xlim=(0, 16.2), ylim=(-2.75, 5.51), aspect="equal")
    matrices.set_axis_off()
    values = {name: np.array(drawn[name]) for name in drawn}
    cells(matrices, 0.9, values["grad"], "{:.0f}")
    cells(matrices, 7.25, values["means"][:, None], "{:.0f}")
    cells(matrices, 9.6, values["centralized"], "{:.0f}")
    for x, text in ((6.55, "−"), (8.95, "=")):
        matrices.text(x, 1.5, text, fontsize=20, ha="center", va="center")
    for x, name, note in (
        (3.4, r"$\nabla_W L$", "gradient: a row for each unit"),
        (7.75, "mean", ""),
        (12.1, r"$\Phi(\nabla_W L)$", "every row sums to 0"),
    ):
        matrices.text(x, 3.5, name, fontsize=15, ha="center", va="bottom")
        matrices.text(x, -0.35, note, color=FAINT, ha="center", va="top")
    matrices.annotate("", (5.9, -1.3), (0.9, -1.3), arrowprops={"arrowstyle": "->", "color": FAINT})
    matrices.text(3.4, -1.55, "the weights that feed one unit", color=FAINT, ha="center", va="top")

    plane = figure.add_axes((0.665, 0.03, 0.33, 0.82))
    plane.set(xlim=(-3.4, 3.4), ylim=(-2.75, 2.75), aspect="equal")
    plane.set_axis_off()
    for x, text in ((0.037, "From each row its mean is subtracted"), (0.675, "which is a projection")):
        figure.text(x, 0.93, text, fontsize=13, fontweight="bold", va="center")
    plane.plot([-2.7, 2.7], [2.7, -2.7], color=BLUE, linewidth=2.2, zorder=1)
    plane.text(-0.12, -0.12, "vectors that sum to 0", color=BLUE, ha="center", va="top", rotation=-45,
               rotation_mode="anchor")  # fmt: skip
    normal = np.array([1.0, 1.0]) / np.sqrt(2)
    plane.annotate("", 1.15 * normal, (0, 0), arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.4})
    plane.text(0.95, 0.62, r"$e$", fontsize=16, ha="left", va="center")
    for i, (point, projected) in enumerate(zip(values["points"], values["projected"], strict=True)):
        plane.plot(*zip(point, projected, strict=True), color=RED, linewidth=1.3, linestyle=(0, (3, 2)), zorder=2)
        plane.plot(*point, "o", color=RED, markersize=7, zorder=3)
        plane.plot(*projected, "o", color=BLUE, markersize=7, zorder=3)
        if i == 0:
            plane.text(point[0] + 0.15, point[1] + 0.2, r"$g$", color=RED, fontsize=16, ha="left", va="bottom")
            plane.text(
                projected[0] + 0.18, projected[1] - 0.05, r"$\Phi(g)$", color=BLUE, fontsize=15, ha="left", va="center"
            )
    return figure


def cells(panel: Any, left: float, values: np.ndarray, form: str) -> None:
    """A matrix as coloured squares with their numbers; red is above zero, blue below."""
    colours = mpl.colormaps["RdBu_r"]
    rows, columns = values.shape
    for i in range(rows):
        for j in range(columns):
            x, y = left + j, rows - 1 - i
            colour = colours(0.5 + 0.09 * values[i, j])
            panel.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white", linewidth=2))
            text = form.format(values[i, j] + 0.0).replace("-", "−")
            panel.text(
                x + 0.5, y + 0.5, text, ha="center", va="center", color="white" if abs(values[i, j]) > 3.5 else INK
            )


def main(path: Path = FILE) -> None:
    drawn = numbers()
    with mpl.rc_context(LOOK):
        # Without the version of Matplotlib in it, the file changes only when the picture does.
        compose(drawn).savefig(path, dpi=140, metadata={"Description": json.dumps(drawn), "Software": None})


if __name__ == "__main__":
    main()

"""What the chapters draw with: figures that take the colours of their page."""

import hashlib
import html
import io
import re

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

STYLE = {
    "axes.prop_cycle": matplotlib.cycler(
        color=["#2f7fc4", "#d9792b", "#3f9b57", "#a95fb8"]
    ),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "legend.frameon": False,
    "savefig.transparent": True,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "gc",  # the same figure is the same file
}
matplotlib.rcParams.update(STYLE)

UNITS = ("#2f7fc4", "#d9792b", "#3f9b57", "#a95fb8")
"""A colour for each output unit, readable on white and on black."""


TEXTS = {"#2f7fc4": "blue", "#d9792b": "orange", "#808080": "grey"}
"""Colours of texts, and the variables in which a page has its own of more contrast."""


class Drawing:
    """An SVG picture with a description for those who cannot see it."""

    def __init__(self, svg: str, says: str):
        self.svg, self.says = svg, says

    def _repr_html_(self) -> str:
        says = html.escape(self.says)
        return f'<div class="drawing" role="img" aria-label="{says}">{self.svg}</div>'

    def __repr__(self) -> str:
        return f"[{self.says}]"


def show(figure: matplotlib.figure.Figure, says: str) -> Drawing:
    """The figure for the page: black becomes the page's own text colour."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    width = float(re.search(r'width="([\d.]+)pt"', svg)[1]) * 4 / 3
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    # On a phone it may be scrolled, so that its text stays readable.
    least = min(0.75 * width, 480)
    size = f"width: 100%; max-width: {width:.0f}px; min-width: {least:.0f}px"
    style = f'style="{size}; height: auto" fill="currentColor" aria-hidden="true"'
    svg = svg.replace("<svg ", f"<svg {style} ", 1)
    svg = svg.replace("stroke: #000000", "stroke: currentColor")
    svg = re.sub(
        r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--font-stack, sans-serif)", svg
    )
    for colour, name in TEXTS.items():  # text needs more contrast than lines do
        svg = re.sub(
            rf"(<text\b[^>]*fill: ){colour}", rf"\1var(--gc-{name}, {colour})", svg
        )
    # Names inside one picture are not to meet those of the next on the page.
    own = "d" + hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\1{own}-", svg)
    return Drawing(svg, says)


def output_units(shape, axes) -> np.ndarray:
    """The number of the output unit that each element of a tensor feeds; −1: none."""
    if axes is None:
        return np.full(shape, -1)
    axes = (axes,) if isinstance(axes, int) else axes
    index = np.arange(
        np.prod([n for i, n in enumerate(shape) if i not in axes], dtype=int)
    )
    kept = [1 if i in axes else n for i, n in enumerate(shape)]
    return np.broadcast_to(index.reshape(kept), shape)


def cells(ax, values, units, title="", digits=0) -> None:
    """A matrix, or a 4-d tensor as a matrix of matrices, in the colours of its units."""
    values, units = np.asarray(values), np.asarray(units)
    if values.ndim == 2:
        values, units = values[:, :, None, None], units[:, :, None, None]
    rows, columns, height, width = values.shape
    gap = 0.35 if height * width > 1 else 0
    for r, c, i, j in np.ndindex(values.shape):
        x, y = c * (width + gap) + j, -(r * (height + gap) + i)
        unit = units[r, c, i, j]
        colour = UNITS[unit % len(UNITS)] if unit >= 0 else "#909090"
        ax.add_patch(
            plt.Rectangle(
                (x, y - 1), 1, 1, facecolor=colour, alpha=0.38, edgecolor="none"
            )
        )
        ax.add_patch(
            plt.Rectangle(
                (x, y - 1), 1, 1, facecolor="none", edgecolor=colour, linewidth=1
            )
        )
        text = f"{values[r, c, i, j] + 0.0:.{digits}f}".replace("-", "−")
        ax.text(x + 0.5, y - 0.5, text, ha="center", va="center", fontsize=9)
    ax.set(
        xlim=(-0.1, columns * (width + gap) - gap + 0.1),
        ylim=(-(rows * (height + gap) - gap) - 0.1, 0.1),
        aspect="equal",
    )
    ax.set_title(title, fontsize=10)
    ax.axis("off")


def arrow(ax, start, end, colour, label="", **text) -> None:
    """An arrow in the plane from one point to another, named at its head."""
    ax.annotate(
        "",
        end,
        start,
        arrowprops={
            "arrowstyle": "-|>",
            "color": colour,
            "lw": 2,
            "shrinkA": 0,
            "shrinkB": 0,
        },
    )
    if label:
        ax.annotate(
            label,
            end,
            **{"xytext": (6, 4), "textcoords": "offset points", "color": colour, **text},
        )

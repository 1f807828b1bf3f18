"""How much of each gradient GC removes: the paper's figure of gradients, on the user's own model."""

import math
import shutil
import textwrap
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gc_core.output import printable
from gc_core.plan import Overrides, Row, wrapped
from gc_torch import sharded
from gc_torch.arrays import widen
from gc_torch.model_plan import ModelPlan
from gc_torch.operator import center
from gc_torch.plan import quiet_plan


class ReportRow(NamedTuple):
    """What GC does to the gradient of one parameter.

    >>> ReportRow("fc", (1, 2), 2, norm=2.0, norm_after=3**0.5, largest=1.5, largest_after=1.25, removed=1.0).share
    0.25
    """

    name: str
    shape: tuple[int, ...]
    fan_in: int
    norm: float  # Euclidean, of the gradient g
    norm_after: float  # of Φ(g)
    largest: float  # magnitude of an element of g
    largest_after: float  # of Φ(g)
    removed: float  # Euclidean norm of g − Φ(g): the means

    @property
    def share(self) -> float:
        """How much of ‖g‖² lies along the means, and is removed: ‖g − Φ(g)‖² / ‖g‖². Of a zero gradient, 0."""
        return (self.removed / self.norm) ** 2 if self.norm else 0.0


class Report:
    """What GC does to the gradients of a model; made by `report`. Print it to read it.

    `rows` has one ReportRow for each centralized parameter with a gradient, `without_gradient` the names of the others;
    `to_dicts()` is the same as data, `plot()` a figure.

    >>> Report([ReportRow("fc.weight", (1, 2), 2, 5.0, 3.0, 4.5, 2.5, 4.0)]).total.norm
    5.0
    """

    def __init__(self, rows: Iterable[ReportRow], without_gradient: Iterable[str] = ()):
        self.rows = tuple(rows)
        self.without_gradient = tuple(without_gradient)

    @property
    def total(self) -> ReportRow:
        """The same of all these gradients as one long vector."""
        norm, norm_after, removed = (
            math.hypot(*(getattr(row, field) for row in self.rows)) for field in ("norm", "norm_after", "removed")
        )
        largest, after = (max(getattr(row, f) for row in self.rows) for f in ("largest", "largest_after"))
        size = sum(math.prod(row.shape) for row in self.rows)
        return ReportRow("all of these", (size,), 0, norm, norm_after, largest, after, removed)

    def to_dicts(self) -> list[dict[str, Any]]:
        """The rows as plain dicts, for JSON or a data frame."""
        return [{**row._asdict(), "share": row.share} for row in self.rows]

    def __str__(self) -> str:
        return printable(self.to_text())

    def __repr__(self) -> str:
        return printable(self.to_text())

    def to_text(self, width: int | None = None) -> str:
        """The report as a table no wider than `width` characters (the terminal's, when not given).

        The widest columns go last, and stay out where there is no room for them.
        """
        width = max(width or shutil.get_terminal_size((100, 24)).columns, 40)
        titles = ("parameter", "removed", "norm", "after GC", "largest", "after GC", "mean over")
        columns = min(len(titles), 1 + (width - 20) // 10)
        table = [titles[:columns], *(_cells(row)[:columns] for row in (*self.rows, self.total))]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        widths[0] = min(widths[0], width - sum(widths[1:]) - 2 * (columns - 1))
        lines = []
        for name, *cells in table:
            first, *more = wrapped(name, widths[0])
            right = [cell.rjust(size) for cell, size in zip(cells, widths[1:], strict=True)]
            lines += ["  ".join([first.ljust(widths[0]), *right]).rstrip(), *more]
        head = (
            f"GC removes {100 * self.total.share:.3g} % of ‖g‖², the squared norm of the gradients of these "
            f"{len(self.rows)} parameters. 'removed' is that share for each of them: what lies along the means. 'norm' "
            "and 'largest' (magnitude of an element) are those of g, and after GC."
        )
        if self.without_gradient:
            head += f" Without a gradient: {textwrap.shorten(', '.join(self.without_gradient), 200, placeholder=' …')}."
        return "\n".join([*textwrap.wrap(head, min(width, 100)), "", *lines])

    def plot(self) -> Any:
        """A matplotlib Figure: for each parameter the share that GC removes, and the norm before and after.

        Raises:
            ImportError: matplotlib is not installed.
        """
        figure, (share, norm, largest) = _figure(1, 3, (11, 1.6 + 0.24 * len(self.rows)), sharey=True)
        places, names = range(len(self.rows)), [row.name for row in self.rows]
        share.barh(places, [100 * row.share for row in self.rows], color=_AFTER, height=0.6)
        share.set(title="Removed by GC", xlabel="% of ‖g‖²", yticks=list(places), yticklabels=names)
        for axes, before, after, title in (
            (norm, "norm", "norm_after", "Norm"),
            (largest, "largest", "largest_after", "Largest magnitude"),
        ):
            pairs = [(getattr(row, before), getattr(row, after)) for row in self.rows]
            axes.hlines(places, [b for _, b in pairs], [a for a, _ in pairs], color="#BBBBBB", zorder=1)
            axes.scatter([a for a, _ in pairs], places, color=_BEFORE, s=26, label="gradient", zorder=2)
            axes.scatter([b for _, b in pairs], places, color=_AFTER, s=26, marker="D", label="after GC", zorder=3)
            axes.set(title=title, xscale="log")
            _label(axes.xaxis)
        share.invert_yaxis()
        norm.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncols=2, frameon=False)
        return figure


def report(model: nn.Module, overrides: Overrides | None = None, *, plan: ModelPlan | None = None) -> Report:
    """After a backward pass: how much of each gradient GC removes. It changes nothing.

    Formula, with the means of all weight vectors of a parameter in g − Φ(g)::

        ‖g‖² = ‖Φ(g)‖² + ‖g − Φ(g)‖²        share = ‖g − Φ(g)‖² / ‖g‖²

    Args:
        model: one with gradients in `p.grad`: call it before `zero_grad`, and before a step that has `attach`ed GC has
            changed them. Scaling them (GradScaler) leaves the shares as they are. Sharded gradients are gathered: every
            process must call it.
        overrides, plan: as for `attach`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: no centralized parameter has a gradient; errors of `plan`.

    >>> layer = nn.Linear(4, 1, bias=False)
    >>> layer.weight.grad = torch.tensor([[3.0, 1.0, -1.0, 1.0]])
    >>> print(report(layer).to_text(80))
    GC removes 33.3 % of ‖g‖², the squared norm of the gradients of these 1
    parameters. 'removed' is that share for each of them: what lies along the means.
    'norm' and 'largest' (magnitude of an element) are those of g, and after GC.
    <BLANKLINE>
    parameter     removed   norm  after GC  largest  after GC  mean over
    weight         33.3 %  3.464     2.828        3         2  4 weights
    all of these   33.3 %  3.464     2.828        3         2

    Source: Yong et al., Gradient Centralization (arXiv 2004.01461), section 4.1: the norm and the largest value of
    gradients with and without GC.
    """
    plan = _plan(model, overrides, plan)
    found, without = _gradients(model, plan)
    return Report(_rows([row for row, _ in found], _measured(found)), without)


class Recorder:
    """Records over training what `report` shows at one moment.

    Call it after each backward pass, or let the optimizer do so: `optimizer.register_step_pre_hook(recorder)`, before
    `attach` if that is used. Numbers stay on the device until they are asked for: recording does not wait for it.

    Args:
        model, overrides, plan: as for `report`.
        every: record the first of this many calls.

    Raises:
        TypeError, ValueError: as `report`; every is not an int >= 1.

    >>> model = nn.Linear(4, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> recorder = Recorder(model)
    >>> _ = optimizer.register_step_pre_hook(recorder)
    >>> for _ in range(3):
    ...     optimizer.zero_grad()
    ...     model(torch.ones(2, 4)).sum().backward()
    ...     optimizer.step()
    >>> [(step, f"{one.total.share:.3f}") for step, one in recorder.reports]
    [(0, '1.000'), (1, '1.000'), (2, '1.000')]
    """

    def __init__(
        self,
        model: nn.Module,
        overrides: Overrides | None = None,
        *,
        plan: ModelPlan | None = None,
        every: int = 1,
    ):
        is_int = isinstance(every, int) and not isinstance(every, bool)
        if not is_int or every < 1:
            raise (ValueError if is_int else TypeError)(f"every must be an int >= 1; got {every!r}")
        self.model, self.plan, self.every, self.calls = model, _plan(model, overrides, plan), every, 0
        self._kept: list[tuple[int, list[Row], Tensor, list[str]]] = []

    def __call__(self, *_: Any) -> None:
        """Record the gradients as they are now. Arguments, which hooks and callbacks give, make no difference."""
        step, self.calls = self.calls, self.calls + 1
        if step % self.every == 0:
            found, without = _gradients(self.model, self.plan)
            self._kept.append((step, [row for row, _ in found], _measured(found), without))

    @property
    def reports(self) -> list[tuple[int, Report]]:
        """What was recorded: (number of the call, Report)."""
        return [(step, Report(_rows(rows, values), without)) for step, rows, values, without in self._kept]

    def to_dicts(self) -> list[dict[str, Any]]:
        """One plain dict for each parameter and step."""
        return [{"step": step, **one} for step, report in self.reports for one in report.to_dicts()]

    def plot(self, name: str | None = None) -> Any:
        """A matplotlib Figure of norm, largest magnitude and removed share over the steps.

        Args:
            name: of one parameter; None: all of them as one vector.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: nothing was recorded, or no parameter of that name.
        """
        series = [
            (step, next((r for r in one.rows if r.name == name), None) if name else one.total)
            for step, one in self.reports
        ]
        series = [(step, row) for step, row in series if row is not None]
        if not series:
            known = ", ".join(repr(row.name) for row in self.plan.rows if row.axes is not None)
            raise ValueError(f"nothing was recorded of {name or 'this model'!r}; centralized are {known}")
        steps = [step for step, _ in series]
        figure, (norm, largest, share) = _figure(1, 3, (11, 3.4))
        for axes, before, after, title in (
            (norm, "norm", "norm_after", "Norm"),
            (largest, "largest", "largest_after", "Largest magnitude"),
        ):
            axes.plot(
                steps, [getattr(row, before) for _, row in series], color=_BEFORE, ls=(0, (4, 1.5)), label="gradient"
            )
            axes.plot(steps, [getattr(row, after) for _, row in series], color=_AFTER, label="after GC")
            axes.set(title=title, xlabel="step", yscale="log")
            _label(axes.yaxis)
        norm.legend(frameon=False)
        share.plot(steps, [100 * row.share for _, row in series], color=_AFTER)
        share.set(title="Removed by GC", xlabel="step", ylabel="% of ‖g‖²")
        share.set_ylim(bottom=0)
        figure.suptitle(name or f"{type(self.model).__name__}: all centralized gradients", x=0.01, ha="left")
        return figure


def _plan(model: Any, overrides: Overrides | None, plan: Any) -> ModelPlan:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__qualname__}")
    if plan is None:
        plan = quiet_plan(model, overrides)
    elif not isinstance(plan, ModelPlan):
        raise TypeError(f"plan must be what gc_torch.plan(model) gives, or None; got {type(plan).__qualname__}")
    elif overrides is not None:
        raise TypeError("give overrides to the plan that you give: plan=gc_torch.plan(model, overrides)")
    return plan


def _gradients(model: nn.Module, plan: ModelPlan) -> tuple[list[tuple[Row, Tensor]], list[str]]:
    found, without = [], []
    for p in model.parameters():
        row = plan.row_of(p)
        if row is None or row.axes is None:
            continue
        if p.grad is None:
            without.append(row.name)
        else:
            found.append((row, p.grad.detach()))
    if not found:
        raise ValueError(
            f"none of the model's {len(without)} centralized parameters has a gradient: make the report after "
            "backward(), and before zero_grad()"
            if without
            else f"the plan centralizes nothing of this model:\n{plan}"
        )
    return found, without


def _measured(found: list[tuple[Row, Any]]) -> Tensor:
    """A row of five numbers for each gradient, in the order of ReportRow."""
    measured = []
    for row, grad in found:
        g = widen(grad.full_tensor() if sharded.is_sharded(grad) else grad).reshape(row.view)
        after = center(g, row.axes)
        both = [torch.linalg.vector_norm(g), torch.linalg.vector_norm(after), g.abs().max(), after.abs().max()]
        measured.append(torch.stack([*both, torch.linalg.vector_norm(g - after)]))
    return torch.stack([x.to(measured[0].device, torch.float32) for x in measured])


def _rows(rows: list[Row], values: Tensor) -> list[ReportRow]:
    return [
        ReportRow(row.name, row.shape, row.fan_in or 0, *numbers)
        for row, numbers in zip(rows, values.tolist(), strict=True)
    ]


def _cells(row: ReportRow) -> tuple[str, ...]:
    numbers = (f"{x:.4g}" for x in (row.norm, row.norm_after, row.largest, row.largest_after))
    return row.name, f"{100 * row.share:.3g} %", *numbers, f"{row.fan_in:,} weights" if row.fan_in else ""


_BEFORE, _AFTER = "#E69F00", "#0072B2"  # of Okabe and Ito's colours, which colour-blind readers tell apart


def _figure(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plots need matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, **options)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E4E4E4", linewidth=0.7)
        axes.set_axisbelow(True)
    return figure, panels


def _label(axis: Any) -> None:
    """Plain numbers on a logarithmic axis, also where it spans less than a decade."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=5))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())

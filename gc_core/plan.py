"""The plan: what GC will do to each parameter of a model, one row each, to be read before training.

A backend finds the rows; what a plan is, how it prints and how a row is overridden is the same everywhere.
"""

import math
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from gc_core import checks, layouts
from gc_core.output import printable
from gc_core.patterns import collapsed
from gc_core.reasons import Reason, Verification, Why, name_of, reason_of

Overrides = Mapping[str, int | tuple[int, ...] | layouts.View | None]


class Row(NamedTuple):
    """One parameter of a plan.

    >>> Row("fc.bias", (10,), (10,), None, "bias").axes is None
    True
    """

    name: str
    shape: tuple[int, ...]  # as stored
    view: tuple[int, ...]  # as GC sees it: a reshape of the stored shape, nearly always the same
    axes: tuple[int, ...] | None  # fan-in axes of the view; None: the gradient is left alone
    why: str
    verification: str = ""  # what running the model has shown of it; empty if nobody asked
    frozen: bool = False  # it does not train

    @property
    def fan_in(self) -> int | None:
        """Elements of each weight vector; None where GC does nothing."""
        return None if self.axes is None else math.prod(self.view[axis] for axis in self.axes)

    @property
    def mean_over(self) -> str:
        """Along which axes the mean is taken, over how many weights, and of which view if it is not the stored shape.

        >>> Row("up.weight", (8, 3, 2, 2), (2, 4, 3, 2, 2), (1, 3, 4), "").mean_over
        'axes 1,3,4 (16) of 2×4×3×2×2'
        """
        if self.axes is None:
            return "-"
        axes = f"{'axis' if len(self.axes) == 1 else 'axes'} {','.join(map(str, self.axes))} ({self.fan_in:,})"
        return axes if self.view == self.shape else f"{axes} of {'×'.join(map(str, self.view))}"


class Plan(Mapping[str, Row]):
    """Rows by parameter name. Print it to read it; `rows` and `to_dicts()` are the same as data.

    Args:
        rows: one Row per parameter, in the model's order.

    >>> plan = Plan([Row("fc.weight", (10, 64), (10, 64), (1,), "Linear"), Row("fc.bias", (10,), (10,), None, "bias")])
    >>> plan["fc.weight"].axes
    (1,)
    >>> print(plan.to_text(80))
    GC applies to 1 of 2 tensors (640 of 650 elements): per output unit, the
    gradient's mean over the listed axes is subtracted.
    <BLANKLINE>
    parameter  shape  mean over    why
    fc.weight  10×64  axis 1 (64)  Linear
    fc.bias    10     -            bias
    """

    def __init__(self, rows: Iterable[Row]):
        self.rows: tuple[Row, ...] = tuple(rows)
        self._by_name = {row.name: row for row in self.rows}

    def __getitem__(self, name: str) -> Row:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self.rows)

    def to_dicts(self) -> list[dict[str, Any]]:
        """The rows as plain data, of `why` and `verification` the sentence and its reason's name.

        >>> layout = layouts.out_first((10, 64))
        >>> one = Plan([Row("fc.weight", (10, 64), *layout)]).to_dicts()[0]
        >>> one["why"], one["reason"], one["verification"], one["shown"]
        ('stored (out, in…)', 'STORED', '', None)
        """
        return [
            {
                **row._asdict(),
                "why": str(row.why),
                "reason": name_of(row.why),
                "verification": str(row.verification),
                "shown": name_of(row.verification),
                "fan_in": row.fan_in,
            }
            for row in self.rows
        ]

    def matches(self, pattern: str) -> list[str]:
        """The names that a pattern of `override` stands for: a parameter's own name for it alone."""
        if pattern in self._by_name:
            return [pattern]
        return [name for name in self._by_name if fnmatchcase(name, pattern)]

    def override(self, overrides: Overrides | None) -> "Plan":
        """A plan with some rows replaced.

        Args:
            overrides: name pattern (`*`, `?`, `[…]` as in file names) -> fan-in axes of the stored shape, a `View`,
                or None to leave the gradient alone. The last pattern that matches a name wins.

        Raises:
            TypeError: overrides is not a mapping of strings, or a value is none of these.
            ValueError: a pattern matches no parameter, or the axes do not fit the shape.

        >>> rows = [Row("emb.weight", (9, 4), (9, 4), None, "embedding")]
        >>> row = Plan(rows).override({"emb.*": 1})["emb.weight"]
        >>> row.axes, row.why
        ((1,), "override 'emb.*'")
        """
        if overrides is None:
            return self
        if not isinstance(overrides, Mapping):
            raise TypeError(f"overrides must map name patterns to axes or None; got {type(overrides).__qualname__}")
        rows = dict(self._by_name)
        for pattern, value in overrides.items():
            if not isinstance(pattern, str):
                raise TypeError(f"overrides: a pattern must be a string; got {pattern!r}")
            names = self.matches(pattern)
            if not names:
                raise ValueError(
                    f"overrides: the pattern {pattern!r} matches no parameter; the names are "
                    + textwrap.shorten(", ".join(map(repr, rows)), 300, placeholder=" …")
                )
            for name in names:
                rows[name] = _overridden(rows[name], pattern, value)
        return Plan(rows.values())

    def __str__(self) -> str:
        return printable(self.to_text())

    def __repr__(self) -> str:
        return printable(self.to_text())

    def to_text(self, width: int | None = None) -> str:
        """The plan as a table no wider than `width` characters (the terminal's, when not given).

        Rows that differ only in numbers in their names (the layers of a stack) are shown as one, under a pattern that
        stands for exactly these: it can be given to `override`.
        """
        width = max(width or shutil.get_terminal_size((100, 24)).columns, 40)
        table = [("parameter", "shape", "mean over", "why"), *map(_cells, collapsed(self.rows))]
        return "\n".join([*textwrap.wrap(self._head(), min(width, 100)), "", *_aligned(table, width)])

    def _head(self) -> str:
        trained = [row for row in self.rows if not row.frozen]
        on = [row for row in trained if row.axes is not None]
        size, size_on = (sum(math.prod(row.shape) for row in rows) for rows in (trained, on))
        frozen = len(self.rows) - len(trained)
        of = f"{len(trained)} trainable ({frozen} frozen)" if frozen else f"{len(trained)}"
        head = (
            f"GC applies to {len(on)} of {of} tensors ({size_on:,} of {size:,} elements): per output unit, the "
            "gradient's mean over the listed axes is subtracted."
        )
        shown = {reason_of(row.verification) for row in self.rows if row.verification}
        if shown - {Verification.READ, Verification.NOT_REACHED} or shown == {Verification.NOT_REACHED}:
            verified = sum(reason_of(row.verification) in (Verification.VERIFIED, Verification.PARTLY) for row in on)
            head += f" Running the model has verified {verified} of these {len(on)}."
        elif Verification.READ in shown:
            read = sum(reason_of(row.verification) is Verification.READ for row in self.rows)
            head += f" {read} of {len(self.rows)} were read from what the model does with the batch."
        return head


def _overridden(row: Row, pattern: str, value: Any) -> Row:
    why = Why(Reason.OVERRIDE, pattern=pattern)
    if isinstance(value, layouts.View):
        if math.prod(value.shape) != math.prod(row.shape) or min(value.shape, default=0) < 0:
            raise ValueError(f"overrides[{pattern!r}]: {row.name} of shape {row.shape} cannot be seen as {value.shape}")
        axes = checks.axis(value.axes, value.shape, f"overrides[{pattern!r}]")
        return row._replace(view=value.shape, axes=axes, why=why, verification="")
    axes = checks.axis(value, row.shape, f"overrides[{pattern!r}] for {row.name!r}:")
    return row._replace(view=row.shape, axes=axes, why=why, verification="")


def _cells(shown: tuple[str, list[Row]]) -> tuple[str, ...]:
    name, (row, *others) = shown
    name += f" ({len(others) + 1} alike)" if others else ""
    shape = "×".join(map(str, row.shape)) or "scalar"
    why = f"{row.why} (frozen)" if row.frozen else row.why
    said = row.verification and reason_of(row.verification) is not Verification.READ
    return name, shape, row.mean_over, f"{why}; {row.verification}" if said else why


def _aligned(table: list[tuple[str, ...]], width: int) -> list[str]:
    """Columns two spaces apart; where that is too wide, the reasons wrap first, then the names, then the rest."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    over = sum(widths) + 2 * (len(widths) - 1) - width
    for i, least in ((3, 24), (0, 30), (2, 14), (1, 10), (3, 12), (0, 10), (2, 6), (1, 6)):
        cut = max(0, min(over, widths[i] - least))
        widths[i] -= cut
        over -= cut
    lines = []
    for cells in table:
        columns = [wrapped(cell, size) for cell, size in zip(cells, widths, strict=True)]
        for i in range(max(map(len, columns))):
            texts = (column[i] if i < len(column) else "" for column in columns)
            padded = (text.ljust(size) for text, size in zip(texts, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
    return lines


def wrapped(cell: str, width: int) -> list[str]:
    """A cell of a table in lines of at most `width`; a name breaks after a dot, a shape after a ×, if it can."""
    lines = []
    while len(cell) > width:
        cut = max(cell.rfind(mark, 0, width) for mark in " .×") + 1 or width
        lines.append(cell[:cut].rstrip())
        cell = cell[cut:].lstrip()
    return [*lines, cell]

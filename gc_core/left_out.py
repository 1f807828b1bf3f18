"""Nothing silent: a warning where GC applies to nothing that trains, or leaves out much that may be meant for it."""

import math
import warnings

from gc_core.patterns import collapsed
from gc_core.plan import Plan
from gc_core.reasons import GCWarning, Reason, reason_of

OPEN = {
    Reason.UNKNOWN, Reason.PARAMETRIZED, Reason.FUNCTION, Reason.PRODUCT, Reason.UNCLEAR, Reason.EQUATION,
    Reason.ELLIPSIS, Reason.BIAS_UNFIT, Reason.NAME_UNCLEAR, Reason.UNDECLARED, Reason.PARAMETERS, Reason.NOT_REACHED,
    Reason.DIFFERENT, Reason.NOT_LINEAR,
}  # fmt: skip
# What a program has said already.
_READ = {
    Reason.FUNCTION, Reason.PRODUCT, Reason.UNCLEAR, Reason.PARAMETERS, Reason.DIFFERENT, Reason.NOT_LINEAR,
}  # fmt: skip


def left_out(plan: Plan, ask: str) -> str | None:
    """What to warn of: nothing that trains is centralized, or unknown parameters hold over a tenth of what trains.

    What an override leaves alone is meant so, and is not counted.

    Args:
        plan: any plan.
        ask: how the model itself can be asked in this framework.

    >>> from gc_core import Row, layouts
    >>> plan = Plan([Row("mix", (8, 8), *layouts.left_alone((8, 8), layouts.UNKNOWN))])
    >>> print(left_out(plan, "plan(model, batch=…)")[:64])
    GC applies to nothing that trains: no fan-in is known of mix (8×
    """
    trained = [row for row in plan.rows if not row.frozen]
    meant = [row for row in trained if row.axes is None and reason_of(row.why) is Reason.OVERRIDE]
    asked = [row for row in trained if row not in meant]
    unknown = [row for row in asked if row.axes is None and reason_of(row.why) in OPEN]
    size, left = (sum(math.prod(row.shape) for row in rows) for rows in (trained, unknown))
    nothing = bool(asked) and all(row.axes is None for row in trained) and not any(len(row.shape) > 1 for row in meant)
    if not nothing and 10 * left <= size:
        return None
    what = "GC applies to nothing that trains" if nothing else f"GC leaves out {left / size:.0%} of what trains"
    if not unknown:
        return f"{what}: it has no weight of a known layer. Print the plan to see what is there"
    groups = collapsed(unknown, plan)
    shown = [f"{pattern} ({_size(rows)})" for pattern, rows in groups[:6]]
    more = f" and {len(groups) - 6} more" if len(groups) > 6 else ""
    read = all(reason_of(row.why) in _READ for row in unknown)
    how = "Say it" if read else f"{ask} reads it from what the model does; or say it"
    return (
        f"{what}: no fan-in is known of {', '.join(shown)}{more}. {how} with overrides={{{groups[0][0]!r}: axes}}, "
        "where None means to leave it alone"
    )


def _size(rows: list) -> str:
    shape = "×".join(map(str, rows[0].shape)) or "scalar"
    return shape if len(rows) == 1 else f"{shape}, {len(rows)} alike"


def warn_if_left_out(plan: Plan, ask: str, *, stacklevel: int = 2) -> None:
    """Give that warning, a `GCWarning`, if there is one to give.

    Args:
        plan, ask: as of `left_out`.
        stacklevel: as of `warnings.warn`: 2 is the caller of this function.
    """
    if text := left_out(plan, ask):
        warnings.warn(text, GCWarning, stacklevel=stacklevel)

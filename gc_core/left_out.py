"""The one warning of a plan: what trains is left alone because nobody knows what it is."""

import math
import textwrap
import warnings

from gc_core.plan import Plan, Row
from gc_core.reasons import GCWarning, Reason, reason_of

# For want of knowledge: of everything else it is known that GC is not for it, or the user has said so.
UNSURE = frozenset(
    {
        Reason.PARAMETRIZED,
        Reason.UNKNOWN,
        Reason.EQUATION,
        Reason.ELLIPSIS,
        Reason.BIAS_UNFIT,
        Reason.NAME_UNCLEAR,
        Reason.UNDECLARED,
        Reason.PRODUCT,
        Reason.NOT_LINEAR,
        Reason.SEVERAL_WAYS,
        Reason.IN_PARTS,
        Reason.UNREAD,
        Reason.NOT_REACHED,
    }
)


def unsure(plan: Plan) -> list[Row]:
    """The rows that are left alone because nobody knows what they are, the largest first.

    >>> from gc_core.reasons import Why
    >>> unsure(Plan([Row("theta", (3, 4), (3, 4), None, Why(Reason.UNKNOWN))]))[0].name
    'theta'
    """
    rows = [row for row in plan.rows if row.axes is None and reason_of(row.why) in UNSURE]
    return sorted(rows, key=lambda row: -math.prod(row.shape))


def warn_of_what_is_left_out(plan: Plan, remedy: str, stacklevel: int = 3) -> None:
    """Warn where nothing is centralized, or more than a tenth of the numbers is left alone for want of knowledge.

    Args:
        plan: of what trains.
        remedy: what a user can do, beside an override.
        stacklevel: as of `warnings.warn`; 3 is the caller's caller.

    >>> warn_of_what_is_left_out(Plan([Row("w", (3, 4), (3, 4), (1,), "Linear")]), "")
    """
    rows, size = unsure(plan), sum(math.prod(row.shape) for row in plan.rows)
    left = sum(math.prod(row.shape) for row in rows)
    nothing = all(row.axes is None and reason_of(row.why) is not Reason.OVERRIDE for row in plan.rows)
    if not plan.rows or (left * 10 <= size and not nothing):
        return
    text = "GC centralizes nothing here" if nothing else "GC leaves a part alone for want of knowledge"
    if rows:
        names = ", ".join(f"{row.name!r} ({'×'.join(map(str, row.shape))}: {row.why})" for row in rows[:3])
        names = textwrap.shorten(names, 300, placeholder=" …")
        text += (
            f": {len(rows)} of {len(plan.rows)} parameters, {left:,} of {size:,} numbers, are not known: {names}"
            f"{', …' if len(rows) > 3 else ''}. To settle it: {remedy}; or overrides={{{rows[0].name!r}: axes}}, and "
            "None for axes where that is meant"
        )
    else:
        text += ": there is no weight of a linear map among what trains. Print the plan to read why"
    warnings.warn(text, GCWarning, stacklevel=stacklevel)

"""What the optimizers say to people: how they print, and what they warn of."""

import textwrap
import warnings
from collections.abc import Sequence
from typing import Any

from gc_core import left_out
from gc_core.plan import Plan, Row
from gc_core.reasons import GCWarning, Reason, reason_of
from gc_torch import low_precision, path, prepare, sharded


def optimizer(one: Any, plain: str) -> str:
    """How an optimizer prints: as in PyTorch, and then what GC does in each group, and by which implementation.

    Args:
        one: the optimizer.
        plain: how PyTorch prints it.
    """
    lines = [plain.removesuffix(")")]
    for i, group in enumerate(one.param_groups):
        one.complete(group)
        rows = one._rows(i, shapes=True)
        params = [sharded.local(p) for p in group["params"]]
        first, otherwise = path.choose(group, params)
        found = set()
        for whole, p, row in zip(group["params"], params, rows, strict=True):
            kernel = None
            if first == path.FUSED:
                kernel = prepare.kernel_for(one.kind, group, p, sharded.row_of_shard(whole, row), p, (), ready=False)
            if kernel is not None:
                found.add(kernel[0].NAME)
            elif first == path.FUSED and not path.fused_is_right(one.kind, p, (), widened=not path.is_plain(group)):
                found.add(otherwise)
            else:
                found.add(first)
        why = path.why_no_kernel(group, params) if path.FUSED in found else None
        used = ", ".join(sorted(found)) + (f" ({why})" if why else "")
        lines.append(f"Group {i}: {_gc(group, rows)}; implementation: {used}\n")
        if said := low_precision.said(group, params):
            lines.append(f"  {said}\n")
    if "_in_backward" in vars(one):
        lines.append(f"{one._in_backward}\n")
    return "".join([*lines, ")"])


def _gc(group: dict[str, Any], rows: Sequence[Row]) -> str:
    if group["gc_on"] is None:
        return f"no GC on {len(rows)} parameters"
    on = [row for row in rows if row.axes is not None]
    guessed = sum(reason_of(row.why) is Reason.BY_SHAPE for row in on)
    by_shape = f" ({guessed} by shape alone)" if guessed else ""
    return f"GC on the {group['gc_on']} of {len(on)} of {len(rows)} parameters{by_shape}"


def warn_of_guesses(rows: Sequence[Row], stacklevel: int) -> None:
    """Say for which parameters nothing but their shape was known."""
    if rows:
        warnings.warn(
            f"GC applies the rule 'out_first' to {_names(rows)}, by shape alone: the layer that owns "
            f"{'it' if len(rows) == 1 else 'them'} was not found. The rule is wrong for transposed convolutions, "
            "embeddings and weights stored (in, out). Give the model, or plan=gc_torch.plan(model); or "
            "plan='out_first', which means this rule and is silent",
            GCWarning,
            stacklevel=stacklevel,
        )


def warn_of_lost(rows: Sequence[Row], stacklevel: int) -> None:
    """Say which parameters GC no longer applies to, whose layer has become one of an unknown class."""
    if rows:
        warnings.warn(
            f"GC no longer applies to {_names(rows)}: {rows[0].why}. If it is still the weight, say so: "
            "optimizer.plan = gc_torch.plan(model, overrides)",
            GCWarning,
            stacklevel=stacklevel,
        )


def warn_if_left_out(now: Plan, given: Any, stacklevel: int) -> None:
    """Say if GC is on and applies to nothing that trains, or leaves out much of it.

    Args:
        now: the plan of the optimizer's parameters.
        given: the plan that the user gave, which has been said already to leave them out, or means it so.
        stacklevel: as of `warnings.warn`.
    """
    if not any(len(row.shape) > 1 for row in now.rows):  # biases, norms: nobody expects GC there
        return
    nothing = all(row.axes is None for row in now.rows)
    if given is None or (nothing and isinstance(given, Plan) and any(row.axes is not None for row in given.rows)):
        left_out.warn_if_left_out(now, "gc_torch.plan(model, batch=…)", stacklevel=stacklevel)


def warn_if_idle(groups: Sequence[dict[str, Any]], stacklevel: int) -> None:
    """Say if an option for weights of low precision is set, and there are none."""
    asked = [group for group in groups if group["low_precision"] is not None]
    if asked and not any(low_precision.way_for(group, p) for group in asked for p in group["params"]):
        warnings.warn(low_precision.said(asked[0], asked[0]["params"]), GCWarning, stacklevel=stacklevel)


def warn_of_loaded(current: Sequence[dict[str, Any]], loaded: Sequence[dict[str, Any]]) -> None:
    """Say if a checkpoint puts GC in another place than the constructor did, or rounds weights in another way."""
    for i, (now, new) in enumerate(zip(current, loaded, strict=False)):
        for option in ("gc_on", "low_precision"):
            if now.get(option) != new.get(option):
                warnings.warn(
                    f"the state_dict has {option}={new.get(option)!r} for group {i}, which had {now.get(option)!r}: it "
                    "is loaded, like every option. To keep yours, set "
                    f"optimizer.param_groups[…][{option!r}] after loading",
                    GCWarning,
                    stacklevel=5,
                )


def _names(rows: Sequence[Row]) -> str:
    shown = ", ".join(f"{row.name} {row.shape}" for row in rows[:5])
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return textwrap.shorten(shown, 300, placeholder=" …") + more

"""PyTorch's own steps with GC: they are given temporaries, so that a gradient with GC is nowhere stored for long.

Parameters are taken piece by piece (module `pieces`). On a CPU the temporaries of a piece stay in the cache from when
they are written until the step has read them.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gc_core.plan import Row
from gc_torch import low_precision, path, sharded
from gc_torch.arrays import as_scalar, given, is_half
from gc_torch.pieces import Columns, Piece, Rows, inside, pieces, with_outs
from gc_torch.scratch import Scratch

if TYPE_CHECKING:
    from gc_torch.prepare import Batch

Lender = Callable[[Tensor, torch.dtype], Tensor | None]


class Steps:
    """Steps with GC of the same parameters, one after another: what pieces they are taken in is found once.

    Args:
        scratch: where temporaries come from.
    """

    def __init__(self, scratch: Scratch):
        self._scratch = scratch
        self._pieces: list[Piece] | None = None

    def step(self, torch_step: Callable[..., None], batch: "Batch", columns: Columns, found_inf: Tensor | None) -> None:
        """One step. States that are made by it are put into the columns.

        Args:
            torch_step: PyTorch's step, a function of (group, path, columns, grad_scale, found_inf).
            batch: the options, the path, one of PyTorch's, the parameters, what is centralized in each.
            columns: what this device holds of the parameters, of their gradients, states, steps and compensations.
            found_inf: of a GradScaler; where it is not 0, nothing changes.
        """
        group, taken, params, rows = batch.group, batch.path, batch.params, batch.rows
        w, grads, *states = columns
        stored = [w, *states]
        fresh = any(x is None for column in states for x in column)
        # Where autograd or a compiler is at work, every result is its own tensor.
        scratch = None if group["differentiable"] or torch.compiler.is_compiling() else self._scratch
        found = self._pieces
        if found is None or scratch is None or fresh:
            whole = scratch is None or fresh or taken != path.FUSED
            found = list(pieces(group, params, w, rows, whole=whole, together=scratch is not None))
            if scratch is not None and group["gc_on"] != "update":
                found = with_outs(found, w, scratch)
            self._pieces = None if scratch is None or fresh else found
        parts = [piece.of(stored) for piece in found]  # all of them, before the first one counts
        means = None
        for piece, part in zip(found, parts, strict=True):
            g = [grads[i] for i in piece.indices]
            if piece.cut is not None:
                if not piece.across:
                    means = None
                elif piece.cut[1] == 0:
                    i = piece.indices[0]
                    x = w[i].float() + states[-1][i] if batch.rounding == "kahan" else w[i]
                    means = [_mean_of_sum(group, g[0], x, piece.rows[0])]
                g = [g[0].narrow(*piece.cut)]
            if scratch is not None:
                scratch.clear()
            _step(torch_step, batch, piece, part, g, means if piece.across else None, found_inf, scratch)
            if fresh:
                for column, made in zip(states, part[1:], strict=True):
                    for i, x in zip(piece.indices, made, strict=False):
                        column[i] = x


def _step(
    torch_step: Callable[..., None],
    batch: "Batch",
    piece: Piece,
    stored: Columns,
    g: list[Tensor],
    means: Sequence[Tensor] | None,
    found_inf: Tensor | None,
    scratch: Scratch | None,
) -> None:
    """PyTorch's step on centralized gradients, or, with GC on the update, on zeros: that gives the update −ηd."""
    group, taken, rounding = batch.group, batch.path, batch.rounding
    rows, (w, *s), copied = piece.rows, stored, piece.half
    *s, steps, compensations = s
    lend: Lender = _lend_nothing if scratch is None else scratch.like
    if piece.half:
        w, g = [_widened(p, lend) for p in w], [_widened(x, lend) for x in g]
        s = [[x if x is None else _widened(x, lend) for x in column] for column in s]
    for p, c in zip(w, compensations, strict=True) if rounding == "kahan" else ():
        p.add_(c)  # of a copy
    if taken == path.FUSED and isinstance(rows[0], sharded.Split):  # then all are, with whatever strides
        w, copied = [x.contiguous() for x in w], True
        s = [[x if x is None else x.contiguous() for x in column] for column in s]

    options = {**group, "weight_decay": 0.0, "maximize": False} if given(inside(group)) else group
    if group["gc_on"] != "update":
        g = _gradients(group, w, g, piece, means, lend)
        torch_step(options, taken, [w, g, *s, steps], None, found_inf)
    else:
        temporaries = [lend(p, p.dtype) for p in w]
        g = [_laid_out_like(p, _with_decay(group, x, p, t)) for x, p, t in zip(g, w, temporaries, strict=True)]
        d = [lend(p, p.dtype) for p in w]
        d = [torch.zeros_like(p) if t is None else t.zero_() for p, t in zip(w, d, strict=True)]
        torch_step({**options, "weight_decay": 0.0}, taken, [d, g, *s, steps], None, found_inf)
        decay = group["weight_decay"]
        if given(decay) and group.get("decoupled_weight_decay", False):
            factor = -as_scalar(group["lr"]) * decay
            # Where an infinity was found d is zero, and so must the decay be.
            kept = w if found_inf is None else [torch.where(found_inf > 0, 0, p) for p in w]
            d = [_plus(x, factor, p, t) for x, p, t in zip(d, kept, temporaries, strict=True)]
        for p, x in zip(w, _centered(d, _means(d, rows), rows, temporaries), strict=True):
            p.add_(x)

    narrowed = list(zip(stored, [w, *s], strict=False)) if copied else []
    if rounding is not None:
        narrowed = narrowed[1:]
        for k, i in enumerate(piece.indices):
            bits = None
            if rounding == "stochastic":
                places = low_precision.places_in(batch.params[i], stored[0][k])
                bits = low_precision.random_bits(batch.streams[i], steps[k], places)
            low_precision.store(rounding, stored[0][k], w[k], compensations[k] if compensations else None, bits)
    for narrow, wide in narrowed:
        for i, x in enumerate(wide):
            if narrow[i] is None:
                narrow[i] = x if x is None else x.to(stored[0][i].dtype)
            elif narrow[i] is not x:
                narrow[i].copy_(x)


def _gradients(
    group: dict[str, Any],
    w: list[Tensor],
    g: list[Tensor],
    piece: Piece,
    means: Sequence[Tensor] | None,
    lend: Lender,
) -> list[Tensor]:
    """Φ(g), or Φ(±g + λw), each laid out like its parameter."""
    centered = list(g)
    for alike in piece.alike:
        x = torch.stack([g[i] for i in alike])
        if given(inside(group)):
            x = _with_decay(group, x, torch.stack([w[i] for i in alike]), x)
        x.sub_(x.mean([axis + 1 for axis in piece.rows[alike[0]].axes or ()], keepdim=True))
        for i, one in zip(alike, x.unbind(), strict=True):
            centered[i] = one
    g, w, rows = [g[i] for i in piece.others], [w[i] for i in piece.others], [piece.rows[i] for i in piece.others]
    outs = piece.outs or [lend(p, p.dtype) for p in w]
    g = [_with_decay(group, x, p, out) for x, p, out in zip(g, w, outs, strict=True)]
    g = _centered(g, _means(g, rows) if means is None else means, rows, outs)
    for i, x, p in zip(piece.others, g, w, strict=True):
        centered[i] = _laid_out_like(p, x)
    return centered


def _mean_of_sum(group: dict[str, Any], g: Tensor, w: Tensor, row: Row | sharded.Split) -> Tensor:
    """The means of ±g + λw, which are ±mean(g) + λ mean(w)."""
    return _with_decay(group, _mean(g, row), _mean(w, row) if given(inside(group)) else w, None)


def _with_decay(group: dict[str, Any], x: Tensor, w: Tensor, out: Tensor | None) -> Tensor:
    if not given(inside(group)):
        return x
    return _plus(-x if group["maximize"] else x, inside(group), w, out)


def _plus(x: Tensor, factor: Any, w: Tensor, out: Tensor | None) -> Tensor:
    if isinstance(factor, Tensor):
        return torch.add(x, factor * w, out=out)
    return torch.add(x, w, alpha=factor, out=out)


def _widened(x: Tensor, lend: Lender) -> Tensor:
    if not is_half(x):
        return x
    out = lend(x, torch.float32)
    return x.float() if out is None else out.copy_(x)


def _lend_nothing(p: Tensor, dtype: torch.dtype) -> None:
    return None


def _means(xs: list[Tensor], rows: Rows) -> Sequence[Tensor | None]:
    """Of each weight vector, as they are subtracted; None where there is no GC."""
    split = sharded.means(xs, rows)
    return [
        None if row.axes is None else split[i] if i in split else _mean(x, row)
        for i, (x, row) in enumerate(zip(xs, rows, strict=True))
    ]


def _mean(x: Tensor, row: Row | sharded.Split) -> Tensor:
    seen = x if row.view == row.shape else x.reshape(row.view)
    return seen.mean(row.axes, keepdim=True, dtype=torch.float32 if is_half(x) else None)


def _centered(
    xs: list[Tensor], means: Sequence[Tensor | None], rows: Rows, outs: Sequence[Tensor | None]
) -> list[Tensor]:
    """Each without its means, in the tensors that are given."""
    centered = []
    for x, mean, row, out in zip(xs, means, rows, outs, strict=True):
        if mean is None:
            centered.append(x)
        elif isinstance(row, sharded.Split) or row.view == row.shape:
            centered.append(torch.sub(x, mean, out=out))
        else:
            y = (x.reshape(row.view) - mean).reshape(row.shape)
            centered.append(y if out is None else out.copy_(y))
    return centered


def _laid_out_like(p: Tensor, x: Tensor) -> Tensor:
    """x with the strides of p, which PyTorch's fused step on a CPU takes for granted."""
    return x if x.stride() == p.stride() else torch.empty_like(p).copy_(x)

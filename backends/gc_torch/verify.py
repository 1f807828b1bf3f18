"""The verification of a plan: what each weight really does in the model, found by running it on a batch.

What is a weight vector can be seen in the operation where a parameter meets the data, whatever layer it stands in: the
weights that share an output there are one weight vector. For y = x Wᵀ these are the rows of W; for x W its columns.

The model runs once, and every operation that a parameter goes into is taken down: views, casts and sums of parameters
first, then the one that meets data. That one is run again by itself, on other numbers. For a weight a:

1. With all weights 0, and then with a alone 1: the outputs that differ are those that a feeds. In both runs the others
   are sums of exact zeros, the same in any precision and order of summation.
2. The gradient of a positive combination of these outputs, with positive data: it is zero, exactly, but for the weights
   that feed one of them. These must be the weight vector of a, all of it and nothing else.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from gc_core.layouts import View
from gc_core.plan import Row
from gc_core.reasons import Reason, Verification, Why, reason_of
from gc_core.uses import value_of
from gc_torch import compat
from gc_torch.program import Batch, beyond_one_operation
from gc_torch.watch import Call, Watch, is_float, positive, watched

SAMPLES = 4  # weights tried of each parameter: the first and the last that the batch reaches, and some between

_LOOKED_AT = {Reason.UNKNOWN, Reason.PARAMETRIZED, Reason.SCALE}


def verify(model: nn.Module, rows: tuple[Row, ...], parameters: Mapping[str, Tensor], batch: Batch) -> tuple[Row, ...]:
    """The rows, each with what the batch has shown about it.

    Args:
        model: the model of the plan. It runs once, in eval mode and without gradients; training flags, buffers,
            parameters and the states of random number generators are afterwards what they were, after an error too.
        rows: those of the plan. Verified are the centralized ones; of unknown parameters, candidates are looked for.
        parameters: by the names of the rows.
        batch: a tensor, a tuple of arguments, a mapping of keyword arguments, or a function that runs the model it is
            given.

    Raises:
        ValueError: a row is wrong: it says which, what was seen, and the override that is right; or parameters are
            sharded, quantized or without values.
        TypeError: the batch is none of these.
    """
    found = shown(model, rows, parameters, batch)
    wrong = [f"\n- {name}: {seen}" for name, (right, seen) in found.items() if not right]
    if wrong:
        raise ValueError(f"the plan is not what the model does with this batch:{''.join(wrong)}")
    return tuple(row._replace(verification=found[row.name][1]) if row.name in found else row for row in rows)


def shown(
    model: nn.Module, rows: tuple[Row, ...], parameters: Mapping[str, Tensor], batch: Batch
) -> dict[str, tuple[bool, str]]:
    """Of each row that is centralized or unknown, whether the batch agrees with it, and what it has shown."""
    asked = [row for row in rows if row.axes is not None or reason_of(row.why) in _LOOKED_AT]
    for name, parameter in parameters.items():
        if parameter.is_meta or compat.is_wrapper_subclass(parameter):
            kind = "on the meta device" if parameter.is_meta else f"a {type(parameter).__name__}"
            raise ValueError(f"verify needs parameters with values; {name} is {kind}: verify a plain model first")
    # The numbers of one factor say nothing about the weight vectors of their product.
    factors, later = beyond_one_operation(model, parameters, batch)
    watch = watched(model, {row.name: parameters[row.name] for row in asked}, batch, factors)
    found = {}
    for row in asked:
        if row.name in factors:
            found[row.name] = _factor(row, *factors[row.name])
        elif row.name in later:
            more = ": it is multiplied with the data element by element, and only then summed over"
            found[row.name] = True, Why(Verification.UNCLEAR, more)
        else:
            found[row.name] = _shown(row, watch)
    return found


def _factor(row: Row, near_input: bool, others: str) -> tuple[bool, str]:
    seen = Why(Verification.FACTOR, others=others)
    if near_input or row.axes is None:
        return True, seen
    return False, seen.plus(f", on the side of the output: overrides={{{row.name!r}: None}}")


# ---- Trying weights


class _Layer:
    """All uses of one parameter as a function of it."""

    def __init__(self, name: str, roots: dict[str, Tensor], uses: list[Call]):
        self.name, self.roots, self.uses = name, roots, uses
        self.weight = roots[name].detach()
        self.base = torch.zeros_like(self.weight)
        if not self._is_finite():
            self.base = self.weight.clone()  # it may be divided by its own size
        self.at_base = self.outputs(self.base)

    def _is_finite(self) -> bool:
        return all(bool(x.isfinite().all()) for x in [*self.outputs(self.base), self.gradient(self.base)])

    def outputs(self, weight: Tensor) -> list[Tensor]:
        values = {**self.roots, self.name: weight}
        outputs = [x for use in self.uses for x in use.run(values)]
        return [x for x in outputs if isinstance(x, Tensor) and is_float(x)]

    def gradient(self, weight: Tensor, of: list[Tensor] | None = None) -> Tensor:
        """That of a positive combination of the outputs where the masks `of` are true (None: everywhere)."""
        with torch.enable_grad():
            weight = weight.detach().requires_grad_()
            outputs = self.outputs(weight)
            total = [positive(x.shape, x.dtype, x.device) for x in outputs]
            if of is not None:
                total = [x * mask for x, mask in zip(total, of, strict=True)]
            pairs = [(x, t) for x, t in zip(outputs, total, strict=True) if x.requires_grad]
            (gradient,) = torch.autograd.grad([x for x, _ in pairs], weight, [t for _, t in pairs], allow_unused=True)
        return torch.zeros_like(weight) if gradient is None else gradient

    def together(self, index: int) -> np.ndarray:
        """The weights that share an output with a weight, by their places in the flattened parameter."""
        place = tuple(map(int, np.unravel_index(index, self.base.shape)))
        before = self.base[place].item()
        self.base[place] += 1
        fed = [x != y for x, y in zip(self.outputs(self.base), self.at_base, strict=True)]
        self.base[place] = before
        return self.gradient(self.base, fed).reshape(-1).nonzero().reshape(-1).numpy(force=True)

    def is_linear(self) -> bool:
        """Whether the outputs change in proportion to the weights: the gradient is the same wherever it is taken."""
        here = self.gradient(self.base)
        there = self.gradient(positive(here.shape, here.dtype, here.device))
        # Sums of at most n positive terms, each of them with a relative error of at most n roundings.
        n = sum(x.numel() for x in self.at_base)
        return bool(((here - there).abs() <= 2 * n * torch.finfo(here.dtype).eps * here.abs()).all())


def _shown(row: Row, watch: Watch) -> tuple[bool, str]:
    """Whether the batch agrees with a row, and what it has shown."""
    uses = list(watch.uses.get(row.name, {}).values())
    if row.name in watch.inputs:
        more = "" if row.axes is None else f": overrides={{{row.name!r}: None}}"
        return row.axes is None, Why(Verification.LOOKED_UP, more)
    if not uses:
        return True, Why(Verification.NOT_REACHED)
    try:
        layer = _Layer(row.name, watch.roots, uses)
        reached = (layer.gradient(layer.base) != 0).reshape(-1)
        places = range(len(reached)) if reached.all() else reached.nonzero().reshape(-1)
        if not len(places):
            return True, Why(Verification.NOT_REACHED)
        some = torch.randint(len(places), (SAMPLES - 2,), generator=torch.Generator().manual_seed(0)).tolist()
        samples = [int(places[i]) for i in [0, len(places) - 1, *some]]
        seen = [layer.together(index) for index in samples]
        linear = row.axes is not None or layer.is_linear()
    except RuntimeError as error:
        return True, Why(Verification.UNCLEAR, f": {str(error).splitlines()[0]}")
    found = _axes_of(seen, row.shape)
    if row.axes is None:
        if found is not None and found.axes is None:
            return True, Why(Verification.ALONE)
        if found is None or not linear:
            return True, Why(Verification.UNCLEAR)
        return True, Why(
            Verification.CANDIDATE, over=_over(row, found), value=value_of(row.shape, *found[:2]), view=found
        )
    for index, weights in zip(samples, seen, strict=True):
        differ = np.setxor1d(weights, _vector(row, index))
        if reached[torch.from_numpy(differ)].any():
            return False, f"the plan says {row.mean_over}, but {_otherwise(row, found, seen)}"
    if len(places) == len(reached):
        return True, Why(Verification.VERIFIED)
    counts = reached.reshape(row.view).sum(row.axes)
    whole = int((counts == row.fan_in).sum())
    if whole != int((counts > 0).sum()):
        return True, Why(Verification.PARTS)
    return True, Why(Verification.PARTLY, verified=whole, outputs=counts.numel())


def _vector(row: Row, index: int) -> np.ndarray:
    """The weight vector that a weight belongs to by the plan, by places in the flattened parameter."""
    place = np.unravel_index(index, row.view)
    along = [range(n) if axis in (row.axes or ()) else [int(place[axis])] for axis, n in enumerate(row.view)]
    return np.ravel_multi_index(np.ix_(*along), row.view).reshape(-1)


def _axes_of(sets: list[np.ndarray], shape: tuple[int, ...]) -> View | None:
    """The axes along which all these sets of weights lie, of a view where those of the stored shape cannot say it.

    Its axes are None if each set is one weight. None is returned if the sets are no boxes, or not of one kind.
    """
    if all(len(weights) == 1 for weights in sets):
        return View(shape, None)
    splits = {_split(weights, shape) for weights in sets}
    if len(splits) != 1 or (split := splits.pop()) is None:
        return None
    parts = [part for along in split for part in along]
    return View(tuple(size for size, _ in parts), tuple(axis for axis, (_, summed) in enumerate(parts) if summed))


def _split(weights: np.ndarray, shape: tuple[int, ...]) -> tuple[tuple[tuple[int, bool], ...], ...] | None:
    """For each axis the parts it falls into, with their sizes and whether the set runs along them; None if no box."""
    split, size = [], 1
    for n, places in zip(shape, map(np.unique, np.unravel_index(weights, shape)), strict=True):
        m, first = len(places), int(places[0])
        size *= m
        if m in (1, n):
            split.append(((n, m == n > 1),))
        elif n % m == 0 and first % m == 0 and (places == np.arange(first, first + m)).all():
            split.append(((n // m, False), (m, True)))  # a block, as of a group
        elif n % m == 0 and first < n // m and (places == np.arange(first, n, n // m)).all():
            split.append(((m, True), (n // m, False)))
        else:
            return None
    return tuple(split) if size == len(weights) else None


def _otherwise(row: Row, found: View | None, seen: list[np.ndarray]) -> str:
    if found is None:
        return f"an output sums over {len(seen[0]):,} weights, and no axes say which"
    override = f"overrides={{{row.name!r}: {value_of(row.shape, *found[:2])}}}"
    if found.axes is None:
        return f"each weight has outputs of its own: {override}"
    return f"an output sums over {_over(row, found)}: {override}"


def _over(row: Row, found: View) -> str:
    return row._replace(view=found.shape, axes=found.axes).mean_over

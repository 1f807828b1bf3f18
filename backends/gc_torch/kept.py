"""What steps have prepared, for later steps that do the same with tensors that are alike (module `signature`).

Most of a step's time on the host goes by where there are many small tensors: what can differ from one step to the next
is looked at, all of it, and nothing else. Of each group a few preparations are kept, for gradients that come in turns
(experts, layers that are dropped); the oldest goes first. They hold no parameter, gradient or state.
"""

import operator
from collections import defaultdict
from collections.abc import Mapping
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gc_core.plan import Row
from gc_torch import low_precision, prepare
from gc_torch.pieces import Columns
from gc_torch.prepare import Batch
from gc_torch.scratch import Scratch
from gc_torch.signature import Looks, Signature, signature

AT_MOST = 8  # preparations of a group


class Part(NamedTuple):
    """What a step is taken on: a group, or one parameter of it."""

    index: int  # of the group
    place: int | None  # of the parameter in the group
    group: dict[str, Any]  # the options, and the parameters
    state: Mapping[Tensor, dict[str, Any]]  # of these parameters, at least

    def of(self, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        """The rows of its parameters, of those of the group."""
        return rows if self.place is None else rows[self.place : self.place + 1]


class One(NamedTuple):
    """A preparation: its batches without their tensors, and where these are found in a later step."""

    signature: Signature
    batches: list[Batch]
    params: list[list[int]]  # of each batch, the places of its parameters in the group
    states: list[list[int]]  # and of their states in the optimizer's
    names: list[list[str]]  # of its columns of states; empty for one there is not
    looks: list[Looks]  # of all tensors of each batch


class Kept:
    """Preparations of an optimizer, by group."""

    def __init__(self) -> None:
        self._of_group: dict[Any, list[One]] = defaultdict(list)  # newest first

    def clear(self) -> None:
        """Forget everything."""
        self._of_group.clear()

    def find(
        self,
        part: Part,
        options: tuple[Any, ...],
        rows: tuple[Row, ...],
        grads: list[Tensor | None],
    ) -> list[Batch] | None:
        """Its batches, if a preparation that is kept was made from the same; else None."""
        known = self._of_group.get(part[:2])
        if not known or torch.compiler.is_compiling():
            return None
        now, owners, states = signature(options, rows, grads), list(part.state), list(part.state.values())
        for i, one in enumerate(known):
            if one.signature != now:
                continue
            batches = _batches(one, part.group, grads, owners, states)
            if batches is not None:
                if i:
                    known.insert(0, known.pop(i))
                return batches
        return None

    def prepare(
        self, optimizer: Any, part: Part, options: tuple[Any, ...], rows: tuple[Row, ...], scratch: Scratch
    ) -> list[Batch]:
        """Its batches, which are kept if the next step may do the same."""
        group = part.group
        params = group["params"]
        grads = [p.grad for p in params]
        with_grad = [row for row, grad in zip(rows, grads, strict=True) if grad is not None]
        streams: list[int] = []
        if group["low_precision"] == "stochastic":
            places = [i + (part.place or 0) for i, grad in enumerate(grads) if grad is not None]
            streams = low_precision.streams(part.index, group, places)
        batches = list(prepare.batches(optimizer, group, with_grad, scratch, streams))
        if torch.compiler.is_compiling() or not batches or not all(batch.may_be_kept for batch in batches):
            return batches
        names = (*optimizer.states, low_precision.STEP, low_precision.COMPENSATION)
        places = {id(p): i for i, p in enumerate(params)}
        owners = optimizer.state if part.place is None else params
        of_state = {id(p): i for i, p in enumerate(owners)}
        known = self._of_group[part[:2]]
        known.insert(
            0,
            One(
                signature(options, rows, grads),
                [batch._replace(group={}, params=[], columns=[]) for batch in batches],
                [[places[id(p)] for p in batch.params] for batch in batches],
                [[of_state.get(id(p), -1) for p in batch.params] for batch in batches],
                [
                    [name if column else "" for name, column in zip(names, batch.columns[2:], strict=False)]
                    for batch in batches
                ],
                [Looks(list(chain.from_iterable(batch.columns))) for batch in batches],
            ),
        )
        del known[AT_MOST:]
        return batches


def _batches(
    one: One, group: dict[str, Any], grads: list[Any], owners: list[Tensor], states: list[dict[str, Any]]
) -> list[Batch] | None:
    params, found = group["params"], []
    try:
        for batch, places, of_state, names, seen in zip(
            one.batches, one.params, one.states, one.names, one.looks, strict=True
        ):
            mine = [params[i] for i in places]
            columns: Columns = [mine, [grads[i] for i in places]]
            here: list[dict[str, Any]] = []
            if any(names):
                if not all(map(operator.is_, mine, [owners[i] for i in of_state])):
                    return None  # what hashing thousands of parameters would find out
                here = [states[i] for i in of_state]
            columns += [[state[name] for state in here] if name else [] for name in names]
            if not seen.are_of(list(chain.from_iterable(columns))):
                return None
            # Positions: `_replace` takes as long as a tensor's whole step.
            found.append(Batch(group, *batch[1:4], mine, columns, *batch[6:-1], True))
    except (IndexError, KeyError, TypeError, RuntimeError, NotImplementedError):
        # A state is missing, or no tensor; a sparse tensor has no strides.
        return None
    return found

"""What steps have prepared, for later steps that do the same with tensors that are alike (module `signature`).

Most of a step's time on the host goes by where there are many small tensors: what can differ from one step to the next
is looked at, all of it, and nothing else. Of each group a few preparations are kept, for gradients that come in turns
(experts, layers that are dropped); the oldest goes first. They hold no parameter, gradient or state.
"""

import operator
from collections import defaultdict
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gc_core.plan import Row
from gc_torch import prepare
from gc_torch.pieces import Columns
from gc_torch.prepare import Batch
from gc_torch.scratch import Scratch
from gc_torch.signature import Looks, Signature, signature

AT_MOST = 8  # preparations of a group


class One(NamedTuple):
    """A preparation: its batches without their tensors, and where these are found in a later step."""

    signature: Signature
    batches: list[Batch]
    params: list[list[int]]  # of each batch, the places of its parameters in the group
    states: list[list[int]]  # and of their states in the optimizer's
    names: list[str]  # of the columns of states; empty for one there is not
    looks: list[Looks]  # of all tensors of each batch


class Kept:
    """Preparations of an optimizer, by group."""

    def __init__(self) -> None:
        self._of_group: dict[int, list[One]] = defaultdict(list)  # newest first

    def clear(self) -> None:
        """Forget everything."""
        self._of_group.clear()

    def find(
        self,
        optimizer: Any,
        index: int,
        options: tuple[Any, ...],
        rows: tuple[Row, ...],
        grads: list[Tensor | None],
    ) -> list[Batch] | None:
        """The batches of a group, if a preparation that is kept was made from the same; else None."""
        known = self._of_group.get(index)
        if not known or torch.compiler.is_compiling():
            return None
        now, group = signature(options, rows, grads), optimizer.param_groups[index]
        owners, states = list(optimizer.state), list(optimizer.state.values())
        for i, one in enumerate(known):
            if one.signature != now:
                continue
            batches = _batches(one, group, grads, owners, states)
            if batches is not None:
                if i:
                    known.insert(0, known.pop(i))
                return batches
        return None

    def prepare(
        self, optimizer: Any, index: int, options: tuple[Any, ...], rows: tuple[Row, ...], scratch: Scratch
    ) -> list[Batch]:
        """The batches of a group, which are kept if the next step may do the same."""
        group = optimizer.param_groups[index]
        params = group["params"]
        grads = [p.grad for p in params]
        with_grad = [row for row, grad in zip(rows, grads, strict=True) if grad is not None]
        batches = list(prepare.batches(optimizer, group, with_grad, scratch))
        if torch.compiler.is_compiling() or not batches or not all(batch.may_be_kept for batch in batches):
            return batches
        names = (*optimizer.states, "step")
        names = [name if column else "" for name, column in zip(names, batches[0].columns[2:], strict=False)]
        places = {id(p): i for i, p in enumerate(params)}
        of_state = {id(p): i for i, p in enumerate(optimizer.state)}
        known = self._of_group[index]
        known.insert(
            0,
            One(
                signature(options, rows, grads),
                [batch._replace(group={}, params=[], columns=[]) for batch in batches],
                [[places[id(p)] for p in batch.params] for batch in batches],
                [[of_state.get(id(p), -1) for p in batch.params] for batch in batches],
                names,
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
        for batch, places, of_state, seen in zip(one.batches, one.params, one.states, one.looks, strict=True):
            mine = [params[i] for i in places]
            columns: Columns = [mine, [grads[i] for i in places]]
            here: list[dict[str, Any]] = []
            if any(one.names):
                if not all(map(operator.is_, mine, [owners[i] for i in of_state])):
                    return None  # what hashing thousands of parameters would find out
                here = [states[i] for i in of_state]
            columns += [[state[name] for state in here] if name else [] for name in one.names]
            if not seen.are_of(list(chain.from_iterable(columns))):
                return None
            # Positions: `_replace` takes as long as a tensor's whole step.
            found.append(Batch(group, *batch[1:4], mine, columns, *batch[6:-1], True))
    except (IndexError, KeyError, TypeError, RuntimeError, NotImplementedError):
        # A state is missing, or no tensor; a sparse tensor has no strides.
        return None
    return found

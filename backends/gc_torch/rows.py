"""Whose weight it is: the row of the plan of every parameter that an optimizer has now.

Parameters are replaced, added, unfrozen, moved and loaded by assignment while a model trains. A row is what the first
of these says that knows the parameter: the plan, by identity; the model of the plan as it is now; the living modules
that own it (module `owners`); what was in the same place of its group before, with the same shape; its shape alone.

Parameters are told apart by id(), and by the module that owns them: references would keep them alive, and PyTorch
swaps no tensor to which there are weak references.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple
from weakref import ref

from torch import Tensor, nn

from gc_core import layouts
from gc_core.left_out import OPEN
from gc_core.plan import Row
from gc_core.reasons import Reason, Why, reason_of
from gc_torch.model_plan import ModelPlan, parameter_of
from gc_torch.owners import own_parameters, owned_in, rows_by_owner
from gc_torch.tree import by_shape


class Source(Enum):
    """What said how GC sees a parameter."""

    PLAN = auto()
    OWNER = auto()
    PLACE = auto()
    SHAPE = auto()


class Known(NamedTuple):
    """What is known of the parameter in one place of a group."""

    identity: int | None  # id(); None: of a copy that has not been told its parameters
    owner: ref[nn.Module] | None
    local: str  # its name in the owner
    row: Row
    source: Source

    def is_of(self, p: Tensor) -> bool:
        """Whether it speaks of this parameter, as far as that can be seen at little cost."""
        if self.identity != id(p):
            return False
        if self.owner is None:
            return True
        owner = self.owner()  # if it lives no more, the same id() may be that of another parameter
        return owner is not None and parameter_of(owner, self.local) is p


class Found(NamedTuple):
    """What people must know of rows that were found."""

    guessed: list[Row]  # by shape alone, and not in the same place before
    lost: list[Row]  # of parameters that were centralized, and whose layer is now of an unknown class


class Rows:
    """The rows of an optimizer's parameters, by group and place.

    Args:
        plan: which is asked first; None: none was given.
        declared: the user has said that weights are stored "out_first": the shape is enough.
        only_plan: what neither the plan nor its model knows, nor stands in the place of such, is left alone.
    """

    def __init__(self, plan: ModelPlan | None = None, *, declared: bool = False, only_plan: bool = False):
        self.plan, self.declared, self.only_plan = plan, declared, only_plan
        self._groups: list[list[Known]] = []
        self._rows: list[tuple[Row, ...]] = []
        self._seen: list[tuple[list[int | None], list[tuple[int, ref[nn.Module], str]]]] = []

    def current(self, index: int, params: Sequence[Tensor], *, shapes: bool = False) -> tuple[Row, ...] | None:
        """The rows of a group, the same tuple while nothing has changed; None: `find` must be called.

        `shapes`: look at those as well.
        """
        if index >= len(self._rows):
            return None
        identities, owned = self._seen[index]
        if identities != list(map(id, params)):
            return None
        for place, owner, local in owned:  # as `Known.is_of`, for those alone that have an owner
            layer = owner()
            if layer is None or parameter_of(layer, local) is not params[place]:
                return None
        rows = self._rows[index]
        if shapes and any(row.shape != tuple(p.shape) for row, p in zip(rows, params, strict=True)):
            return None
        return rows

    def refuse_foreign(self, params: Sequence[Tensor]) -> None:
        """Raise if the plan speaks of none of these parameters."""
        plan = self.plan
        if plan is None or not plan.rows or not params or any(plan.row_of(p) is not None for p in params):
            return
        there = {id(p) for module in plan.modules for _, p in own_parameters(module)}
        if not there & {id(p) for p in params}:
            raise ValueError(
                f"plan must be made of the model whose parameters these are; it has {len(plan)}, and none of them is "
                "here (copying replaces parameters: make the plan of the copy)"
            )

    def find(self, groups: Sequence[dict[str, Any]], *, gc: bool = True) -> "Found":
        """Find the row of every parameter that is not known. `gc`: whether there is GC in any group.

        Raises:
            ValueError: a parameter has no shape yet, or has lost it; then what was known is as it was.
        """
        before = self._groups
        found = _still_known(before, groups)
        unknown = {id(p): p for group in groups for p in group["params"] if id(p) not in found}
        for source, owned in self._owned(unknown):
            for key, one in owned.items():
                owner = None if one.owner is None else ref(one.owner)
                found[key] = Known(key, owner, one.local, one.row, source)
                unknown.pop(key, None)
        guessed = []
        present, taken = set(found) | set(unknown), {one.row.name for one in found.values()}
        for known, p, name in _places(before, groups):
            if id(p) in found:
                continue
            if known is not None and known.identity != id(p) and known.identity in present:
                known = None  # what was in this place is in another one now
            one = None if known is None else _in_place(known, p)
            if one is None:
                row = (_foreign if self.only_plan else _row)(
                    _not_in(taken, name) if known is None else known.row.name, p
                )
                one = Known(id(p), None, "", row, Source.SHAPE)
                if known is None or known.source is not Source.SHAPE:
                    guessed.append(row)
            taken.add(one.row.name)
            found[id(p)] = one
        if gc and not self.only_plan:
            _refuse_lost(before, list(found.values()), guessed)
        self._groups = [[found[id(p)] for p in group["params"]] for group in groups]
        self._rows = [tuple(one.row for one in known) for known in self._groups]
        self._seen = [
            (
                [one.identity for one in known],
                [(i, one.owner, one.local) for i, one in enumerate(known) if one.owner is not None],
            )
            for known in self._groups
        ]
        if self.declared:
            guessed = []
        was_on = {one.identity for known in before for one in known if one.row.axes is not None}
        lost = [one.row for key, one in found.items() if key in was_on and reason_of(one.row.why) in OPEN]
        return Found([row for row in guessed if len(row.shape) > 1 or self.only_plan], lost)

    def _owned(self, unknown: dict[int, Tensor]) -> Iterator[tuple[Source, dict[int, Any]]]:
        """What the plan, its model and living modules say of parameters that are taken out of the dict."""
        if self.plan is not None and unknown:
            rows = {key: self.plan.row_of(p) for key, p in unknown.items()}
            known = {key: _Named(row) for key, row in rows.items() if row and row.shape == tuple(unknown[key].shape)}
            modules = self.plan.modules
            owned = owned_in(modules, self.plan, set(known))
            yield Source.PLAN, known | {id(parameter_of(one.owner, one.local)): one for one in owned}
            if unknown and modules:
                again = owned_in(modules, self.plan.again(), set(unknown))
                yield Source.OWNER, {id(parameter_of(one.owner, one.local)): one for one in again}
        if unknown and not self.declared and not self.only_plan:
            yield Source.OWNER, rows_by_owner(unknown.values())

    def recognize(self, groups: Sequence[dict[str, Any]]) -> None:
        """In a copy: its parameters are those that stand in these places now, whatever stands there later."""
        for known, group in zip(self._groups, groups, strict=False):
            for i, (one, p) in enumerate(zip(known, group["params"], strict=False)):
                if one.identity is None:
                    known[i] = one._replace(identity=id(p))

    def __getstate__(self) -> dict[str, Any]:
        # A copy of an optimizer has other parameters in the same places, and no model.
        groups = [[one._replace(identity=None, owner=None, local="") for one in known] for known in self._groups]
        return {**self.__dict__, "plan": None, "_groups": groups, "_rows": [], "_seen": []}


class _Named(NamedTuple):
    """What a plan says of a parameter whose owner is not known."""

    row: Row
    owner: None = None
    local: str = ""


def reshaped(row: Row, shape: tuple[int, ...]) -> Row | None:
    """The row of a parameter that has another shape now; None where its view cannot follow.

    >>> reshaped(Row("fc", (3, 4), (3, 4), (1,), "Linear"), (2, 4)).shape
    (2, 4)
    """
    if row.shape == shape:
        return row
    if row.view != row.shape or len(shape) != len(row.shape):
        return None
    view = layouts.View(shape, None, row.why)
    if row.axes is not None:
        view = layouts.weight(shape, row.axes, row.why)
    return row._replace(shape=shape, view=view.shape, axes=view.axes, why=view.why)


def _in_place(known: Known, p: Tensor) -> Known | None:
    """What was known in the place of a parameter, if that says anything of it: its data, or it itself, is new."""
    same = known.identity == id(p)
    if known.source is Source.SHAPE or not (same or known.row.shape == tuple(p.shape)):
        return None
    row = reshaped(known.row, tuple(p.shape))
    return None if row is None else Known(id(p), None, "", row, known.source if same else Source.PLACE)


def _still_known(before: list[list[Known]], groups: Sequence[dict[str, Any]]) -> dict[int, Known]:
    by_identity = {one.identity: one for known in before for one in known}
    found = {}
    for known, p, _ in _places(before, groups):
        if known is None or known.identity != id(p):
            known = by_identity.get(id(p))
        if known is not None and known.is_of(p) and known.row.shape == tuple(p.shape):
            found[id(p)] = known
    return found


def _places(before: list[list[Known]], groups: Sequence[dict[str, Any]]) -> Iterator[tuple[Known | None, Tensor, str]]:
    """Every parameter, with what was known in its place, and a name for it."""
    for index, group in enumerate(groups):
        known = before[index] if index < len(before) else []
        names = group.get("param_names", ())
        for place, p in enumerate(group["params"]):
            name = names[place] if place < len(names) else f"group{index}.{place}"
            yield (known[place] if place < len(known) else None), p, name


def _row(name: str, p: Tensor) -> Row:
    view = by_shape(name, p)
    return Row(name, tuple(p.shape), view.shape, view.axes, view.why)


def _foreign(name: str, p: Tensor) -> Row:
    return Row(name, tuple(p.shape), *layouts.left_alone(p.shape, Why(Reason.FOREIGN)))


def _not_in(taken: set[str], name: str) -> str:
    while name in taken:
        name += "'"
    return name


def _refuse_lost(before: list[list[Known]], now: Iterable[Known], guessed: list[Row]) -> None:
    """Where everything was replaced by what no rule centralizes, GC would be off from now on."""
    was_on = any(one.row.axes is not None for known in before for one in known)
    now = list(now)
    if not was_on or len(guessed) < len(now) or any(len(one.row.shape) > 1 for one in now):
        return
    shapes = ", ".join(str(row.shape) for row in guessed[:3])
    raise ValueError(
        "the plan knows none of the parameters that are in the optimizer now: something has replaced them all, by "
        f"others of shapes {shapes} …, as ZeRO engines do, which flatten them. Flattened parameters lose their shape, "
        "so the fan-in cannot be found. Use fully_shard (FSDP2) or ZeroRedundancyOptimizer, which keep shapes; or an "
        'optimizer without GC, after gc_torch.attach(None, model, where="backward") before the model is wrapped'
    )

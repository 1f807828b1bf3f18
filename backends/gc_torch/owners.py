"""The living modules that own parameters: whose weight it is, where an optimizer is given nothing but the parameters.

They are looked for among all objects that Python's garbage collector knows, which takes some ten milliseconds in a
large program. It needs nothing to have happened before: a hook on the registration of parameters would miss models
built before this package is imported. Objects hidden by `gc.freeze()` are not found.
"""

import gc
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from typing import NamedTuple

from torch import Tensor, nn

from gc_core.plan import Row
from gc_core.reasons import Reason, Why, reason_of
from gc_torch.model_plan import ModelPlan, parameter_of, plan_by_layers

# They hold parameters, and do nothing with them: alone they say no more than a list.
CONTAINERS = (nn.ParameterList, nn.ParameterDict)


class Owned(NamedTuple):
    """A parameter that a living module owns."""

    row: Row
    owner: nn.Module
    local: str  # its name in the owner


def rows_by_owner(parameters: Iterable[Tensor]) -> dict[int, Owned]:
    """The rows of those parameters that living modules own, by id().

    Each row is that of the plan of the outermost module. A parameter that several of them read in different ways is
    left alone.

    Raises:
        ValueError: a parameter has lost its shape to an engine that flattens, or has none yet.
    """
    wanted = {id(p) for p in parameters}
    found: dict[int, Owned] = {}
    roots = _roots(wanted)
    for root in roots:
        made = _plan_of(root, wanted)
        for one in () if made is None else owned_in(list(root.modules()), made, wanted):
            if len(roots) > 1:
                one = one._replace(row=one.row._replace(name=f"{type(root).__name__}.{one.row.name}"))
            key = id(parameter_of(one.owner, one.local))
            before = found.setdefault(key, one)
            if before.row[2:4] != one.row[2:4]:  # view and axes
                found[key] = before._replace(row=_of_both(before.row, one.row))
    return found


def _of_both(one: Row, other: Row) -> Row:
    """Of a parameter that two models see in different ways."""
    table = any(reason_of(row.why) in (Reason.EMBEDDING, Reason.SHARED_TABLE) for row in (one, other))
    why = Why(Reason.SHARED_TABLE if table else Reason.SHARED, names=f"{one.name}, {other.name}")
    return one._replace(view=one.shape, axes=None, why=why)


def owned_in(modules: Sequence[nn.Module], made: ModelPlan, wanted: set[int]) -> Iterator[Owned]:
    """Those of the wanted parameters that these modules own, with their rows in a plan."""
    for module in modules:
        for local, p in own_parameters(module):
            row = made.row_of(p) if id(p) in wanted else None
            if row is not None and row.shape == tuple(p.shape):
                yield Owned(row, module, local)


def _plan_of(root: nn.Module, wanted: set[int]) -> ModelPlan | None:
    try:
        return plan_by_layers(root)
    except ValueError:
        # Another parameter of a model that is not ours has no shape yet; of ours it is an error.
        for module in root.modules():
            if any(id(p) in wanted for _, p in own_parameters(module)) and module is not root:
                plan_by_layers(module)
        return None


def _roots(wanted: set[int]) -> list[nn.Module]:
    """The outermost living modules below which these parameters are."""
    modules = list(_living())
    parents: dict[int, list[nn.Module]] = {}
    for module in modules:
        for child in module.__dict__.get("_modules", {}).values():
            if child is not None:
                parents.setdefault(id(child), []).append(module)
    roots: dict[int, nn.Module] = {}
    seen: set[int] = set()
    above = [module for module in modules if any(id(p) in wanted for _, p in own_parameters(module))]
    while above:
        module = above.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        over = parents.get(id(module), [])
        if not over and not isinstance(module, CONTAINERS):
            roots[id(module)] = module
        above += over
    return list(roots.values())


def own_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A module's own parameters."""
    try:
        return ((local, p) for local, p in module._parameters.items() if p is not None)
    except AttributeError:  # it is being made
        return iter(())


def _living() -> Iterator[nn.Module]:
    # All of it in C: a large program has millions of objects. type() and not isinstance, which asks the object.
    objects = gc.get_objects()
    kinds = {kind for kind in set(map(type, objects)) if issubclass(kind, nn.Module)}
    return compress(objects, map(kinds.__contains__, map(type, objects)))

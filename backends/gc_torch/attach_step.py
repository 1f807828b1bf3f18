"""GC in front of an optimizer, in step(): the gradients that it reads are changed in place, just before."""

import functools
import re
import warnings
from collections.abc import Callable
from typing import Any
from weakref import ref

import torch

from gc_core import checks
from gc_core.plan import Row
from gc_core.reasons import GCWarning, Reason, reason_of
from gc_torch import printed, sharded
from gc_torch.arrays import TORCH, widen
from gc_torch.in_place import Kept, Prepared
from gc_torch.model_plan import ModelPlan
from gc_torch.rows import Rows


class AtStep:
    """Hooks of an optimizer on its step, and on its methods that are steps of their own.

    Raises:
        ValueError: the optimizer has none of the model's parameters, or there is nothing to centralize.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, plan: ModelPlan):
        self._optimizer = ref(optimizer)
        self._name = type(optimizer).__name__
        self._rows = Rows(plan, only_plan=True)
        self._kept = Kept()
        self._rows.find(optimizer.param_groups)
        rows = self._all_rows(optimizer)
        if all(reason_of(row.why) is Reason.FOREIGN for row in rows):
            shapes = ", ".join(str(tuple(p.shape)) for p in optimizer.param_groups[0]["params"][:3])
            raise ValueError(
                f"the optimizer has none of the model's {len(plan)} parameters; its own have shapes {shapes}. If an "
                'engine has flattened or partitioned them, attach with where="backward" before the model is wrapped'
            )
        if all(row.axes is None for row in rows):
            raise ValueError(f"there is nothing to centralize among the optimizer's {len(rows)} parameters:\n{plan}")
        self._handle = optimizer.register_step_pre_hook(self._before_step)
        self._wrapped = [name for name in dir(type(optimizer)) if _is_step(type(optimizer), name)]
        for name in self._wrapped:
            setattr(optimizer, name, self._as_step(getattr(optimizer, name)))

    def remove(self) -> None:
        """Take the hooks away."""
        self._handle.remove()
        optimizer = self._optimizer()
        for name in self._wrapped if optimizer is not None else ():
            vars(optimizer).pop(name, None)

    def __repr__(self) -> str:
        optimizer = self._optimizer()
        rows = [] if optimizer is None else self._all_rows(optimizer)
        on = sum(row.axes is not None for row in rows)
        foreign = sum(reason_of(row.why) is Reason.FOREIGN for row in rows)
        others = f"; {foreign} are not the model's" if foreign else ""
        return f"GC in front of {self._name}: {on} of its {len(rows)} parameters, in step(){others}"

    def _all_rows(self, optimizer: torch.optim.Optimizer) -> list[Row]:
        found = []
        for i, group in enumerate(optimizer.param_groups):
            rows = self._rows.current(i, group["params"], shapes=True)
            if rows is None:
                self._find(optimizer)
                rows = self._rows.current(i, group["params"])
                assert rows is not None
            found += rows
        return found

    def _find(self, optimizer: torch.optim.Optimizer) -> None:
        found = self._rows.find(optimizer.param_groups)
        printed.warn_of_lost(found.lost, stacklevel=6)
        if found.guessed:
            names = ", ".join(f"{row.name} {row.shape}" for row in found.guessed[:5])
            warnings.warn(
                f"GC in front of {self._name} leaves {names} alone: the model has no such parameters. If they are "
                "weights of another model, attach to that as well, with an optimizer of its own; if something has put "
                'them in the place of the model\'s, attach again, or with where="backward"',
                GCWarning,
                stacklevel=6,
            )

    def _before_step(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Centralize now; and each time that a closure has computed gradients inside the step."""
        self._centralize(optimizer)
        return after_closure(args, kwargs, lambda: self._centralize(optimizer))

    def _as_step(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """A method that is called instead of `step`. `step` may call it too: Φ of what is centralized is the same."""

        @functools.wraps(method)
        def centralized(*args: Any, **kwargs: Any) -> Any:
            optimizer = self._optimizer()
            if optimizer is not None:
                self._centralize(optimizer)
            return method(*args, **kwargs)

        return centralized

    @torch.no_grad()
    def _centralize(self, optimizer: torch.optim.Optimizer) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        if self._kept.centralize_(self._rows_now(optimizer), params):
            return
        every = self._all_rows(optimizer)
        found = [i for i, row in enumerate(every) if row.axes is not None and params[i].grad is not None]
        for i in found:
            checks.array(TORCH, f"the gradient of {every[i].name}", params[i].grad)
        grads: list[Any] = [sharded.local_grad(params[i], params[i].grad) for i in found]
        rows: list[Any] = [sharded.row_of_shard(params[i], every[i]) for i in found]
        some_split = any(isinstance(row, sharded.Split) for row in rows)
        split = sharded.means([widen(grad) for grad in grads], rows) if some_split else {}
        for i, mean in split.items():
            grads[i].copy_(widen(grads[i]) - mean)
        whole = [i for i in range(len(found)) if i not in split]
        mine = [params[found[i]] for i in whole]
        prepared = Prepared([grads[i] for i in whole], [rows[i] for i in whole])
        self._kept.keep(self._rows_now(optimizer), params, [found[i] for i in whole], prepared)
        prepared.centralize_(mine, [grads[i] for i in whole])
        for i, grad in zip(found, grads, strict=True):
            p = params[i]
            if sharded.is_sharded(p) and p.grad.placements != p.placements:  # type: ignore[union-attr]
                p.grad = sharded.sharded_like(p, grad)

    def _rows_now(self, optimizer: torch.optim.Optimizer) -> list[Any]:
        return [self._rows.current(i, group["params"]) for i, group in enumerate(optimizer.param_groups)]


def after_closure(args: tuple, kwargs: dict[str, Any], then: Callable[[], None]) -> Any:
    """The arguments of a step, whose closure is followed by something each time; None: there is no closure."""
    closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer
    if closure is None:
        return None

    @functools.wraps(closure)
    def followed(*args: Any, **kwargs: Any) -> Any:
        loss = closure(*args, **kwargs)
        then()
        return loss

    if len(args) > 1:
        return (args[0], followed, *args[2:]), kwargs
    return args, {**kwargs, "closure": followed}


def _is_step(cls: type, name: str) -> bool:
    """Whether a public method of an optimizer's class is a step of its own, which runs no hooks."""
    if name.startswith("_") or name == "step" or not re.search(r"(^|_)step($|_)", name):
        return False
    return not hasattr(torch.optim.Optimizer, name) and callable(getattr(cls, name, None))

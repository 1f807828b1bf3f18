"""Tensors without values that a model kept when it was read on shapes alone: in caches of functions, and in dicts.

A model that met one later would train on it, and write nothing but what happened to be in memory.
"""

import functools
import gc
import types
import warnings
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.weak import TensorWeakRef

from gc_core.reasons import GCWarning
from gc_torch.compat import pytree

_DEEP = 6  # objects between a cache and what it holds
_MANY = 10_000  # of them that are looked at
_BOUNDS = (types.FrameType, types.ModuleType, types.FunctionType, type)  # beyond them anything refers to anything


class Shapes(FakeTensorMode):
    """Tensors are shapes alone; it knows which of them still live, without a look at everything else that does."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._made: list[TensorWeakRef] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self._made += [TensorWeakRef(x) for x in pytree.tree_leaves(out) if type(x) is FakeTensor]
        return out

    def from_tensor(self, *args: Any, **kwargs: Any) -> FakeTensor:
        made = super().from_tensor(*args, **kwargs)
        self._made.append(TensorWeakRef(made))
        return made

    def alive(self) -> list[Tensor]:
        """Those that were made, and have not died."""
        return list({id(x): x for made in self._made if (x := made()) is not None}.values())


def clear(mode: Shapes) -> list[tuple[int, ...]]:
    """Empty the caches of functions, and take out the entries of dicts, that hold a tensor of this mode.

    Returns:
        The shapes of those that are kept elsewhere.
    """
    if mode.alive():
        gc.collect()
    if mode.alive():
        _let_go_of_all(mode)
    return [tuple(x.shape) for x in mode.alive()]


def warn(shapes: list[tuple[int, ...]], stacklevel: int) -> None:
    """Say that the model has kept such tensors."""
    if shapes:
        some = ", ".join(map(str, shapes[:5]))
        warnings.warn(
            f"the model has kept {len(shapes)} tensors without values, of shapes {some}, from being read on the batch: "
            "read the plan of another instance of it, made in a process of its own, or without batch=",
            GCWarning,
            stacklevel=stacklevel,
        )


def _let_go_of_all(mode: Shapes) -> None:
    found = {id(x) for x in mode.alive()}
    for one in gc.get_objects():
        if type(one) is functools._lru_cache_wrapper and _holds(one, found):
            one.cache_clear()
    left = mode.alive()
    found = {id(x) for x in left}
    for one in gc.get_referrers(*left) if left else ():
        if type(one) is dict:
            for key in [key for key, value in list(one.items()) if id(value) in found]:
                del one[key]


def _holds(cache: Any, found: set[int]) -> bool:
    """Whether the cache of a function holds one of these, or something made of them that is not far inside."""
    seen, now = {id(cache)}, [cache]
    for _ in range(_DEEP):
        now = [x for x in gc.get_referents(*now) if id(x) not in seen and not isinstance(x, _BOUNDS)][:_MANY]
        seen |= set(map(id, now))
        if not found.isdisjoint(seen):
            return True
    return False

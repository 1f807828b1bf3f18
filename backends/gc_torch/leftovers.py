"""Tensors without values that a model kept when it was read on shapes alone: in caches of functions, and in dicts.

A model that met one later would train on it, and write nothing but what happened to be in memory.
"""

import functools
import gc
import types
import warnings
from typing import Any

from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from gc_core.reasons import GCWarning

_DEEP = 6  # objects between a cache and what it holds
_MANY = 10_000  # of them that are looked at
_BOUNDS = (types.FrameType, types.ModuleType, types.FunctionType, type)  # beyond them anything refers to anything


def clear(mode: FakeTensorMode) -> list[tuple[int, ...]]:
    """Empty the caches of functions, and take out the entries of dicts, that hold a tensor of this mode.

    Returns:
        The shapes of those that are kept elsewhere.
    """
    if _there(mode):
        gc.collect()
        _let_go_of_all(mode)
    return [tuple(x.shape) for x in _there(mode)]


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


def _let_go_of_all(mode: FakeTensorMode) -> None:
    found = {id(x) for x in _there(mode)}
    for one in gc.get_objects():
        if type(one) is functools._lru_cache_wrapper and _holds(one, found):
            one.cache_clear()
    for x in _there(mode):
        for one in gc.get_referrers(x):
            if type(one) is dict:
                for key in [key for key, value in list(one.items()) if value is x]:
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


def _there(mode: FakeTensorMode) -> list[FakeTensor]:
    return [one for one in gc.get_objects() if type(one) is FakeTensor and one.fake_mode is mode]


def _let_go(x: Any, path: list[Any], deep: int) -> None:
    """Follow who refers to a tensor up to the caches of functions, and take it out of the dicts on the way."""
    for one in gc.get_referrers(x):
        if isinstance(one, functools._lru_cache_wrapper):
            one.cache_clear()
        elif type(one) is dict and x is path[0]:
            for key in [key for key, value in list(one.items()) if value is x]:
                del one[key]
        elif deep and not isinstance(one, _BOUNDS) and not any(one is seen for seen in path):
            _let_go(one, [*path, one], deep - 1)

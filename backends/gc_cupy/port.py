"""gc_cupy as the conformance suite asks for it: all of its functions, and its optimizers by their kind.

gc-conformance run gc_cupy.port
"""

from types import SimpleNamespace
from typing import Any

from gc_cupy import (
    SGD,
    Adam,
    AdamW,
    adam_init,
    adam_update,
    arrays,
    centralize,
    fan_in_axes,
    from_numpy,
    sgdm_init,
    sgdm_update,
    to_numpy,
)

__all__ = [
    "adam_init",
    "adam_update",
    "centralize",
    "dtypes",
    "fan_in_axes",
    "from_numpy",
    "name",
    "optimizer",
    "sgdm_init",
    "sgdm_update",
    "to_numpy",
]

name = "gc_cupy"
dtypes = arrays.DTYPES


def optimizer(kind: str, params: dict[str, Any], axes: Any, **hyper: Any) -> SimpleNamespace:
    """The optimizer of this kind, with `step(grads)` and `params()`.

    >>> import cupy as cp
    >>> training = optimizer("sgd", {"w": cp.array([[1.0, 3.0]])}, {"w": 1}, lr=0.5)
    >>> training.step({"w": cp.array([[2.0, 4.0]])})
    >>> training.params()
    {'w': array([[1.5, 2.5]])}
    """
    made = {"sgd": SGD, "adam": Adam, "adamw": AdamW}[kind](params, axes, **hyper)
    return SimpleNamespace(step=made.step, params=lambda: made.params)

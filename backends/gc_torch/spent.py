"""What is left in the place of a gradient that was used and freed: whoever asks for it later is told what happened."""

from collections.abc import Iterable, Iterator
from typing import Any
from weakref import ref

import torch
from torch import Tensor


class Spent(Tensor):
    """Stands in the place of a gradient that was used and freed: it has a shape and no memory."""

    called: str
    _owner: Any

    @staticmethod
    def __new__(cls, p: Tensor, name: str) -> "Spent":
        self = Tensor._make_wrapper_subclass(cls, p.shape, strides=p.stride(), dtype=p.dtype, device=p.device)
        self.called, self._owner = name, ref(p)
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        spent = list(_spent_in([*args, *(kwargs or {}).values()]))
        operation = function.overloadpacket.__name__
        if operation in ("zero_", "_foreach_zero_", "detach", "detach_"):  # zero_grad(set_to_none=False)
            for one in spent if "zero" in operation else ():
                if (p := one._owner()) is not None:
                    p.grad = None
            return args[0]
        other = (f"{operation}() comes too late", "read it in a hook on the parameter, register_hook")
        what, remedy = next((wanted for part, wanted in _WANTED.items() if part in operation), other)
        raise RuntimeError(
            f"the gradient of {spent[0].called} was used for its step in backward, and freed: {what}. Instead: "
            f"{remedy}; or remove() the step in backward"
        )

    def __repr__(self, *args: Any, **kwargs: Any) -> str:  # type: ignore[override]
        return f"<the gradient of {self.called}, used for its step in backward, and freed>"


# By a part of the operation's name: what was wanted, and what to do.
_WANTED = {
    "add": (
        "gradients cannot be accumulated over several backward passes, and optimizer.step() or zero_grad() must be "
        "called after each",
        "larger batches",
    ),
    "norm": (
        "clipping by norm needs all gradients at once",
        "clip by the norm of each, in a hook on the parameter, register_hook",
    ),
    "clamp": ("clipping comes too late", "clip in a hook on the parameter, register_hook"),
    "_amp_": ("a GradScaler needs all gradients at once", "bfloat16, which needs no scaling"),
}


def _spent_in(values: Iterable[Any]) -> Iterator["Spent"]:
    for value in values:
        if isinstance(value, Spent):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _spent_in(value)

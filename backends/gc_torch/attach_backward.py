"""GC during backward: each gradient is centralized before it is added to `p.grad`."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gc_core import checks
from gc_core.plan import Row
from gc_torch import compat, sharded
from gc_torch.arrays import TORCH
from gc_torch.in_place import phi
from gc_torch.model_plan import ModelPlan
from gc_torch.rows import reshaped


class Hook(NamedTuple):
    """A hook on the gradient of one tensor."""

    row: Row
    of: "InBackward"
    on: int | None = None  # what autograd hooked: `torch.utils.swap_tensors` leaves a parameter's list of hooks behind

    def __call__(self, grad: Tensor) -> Tensor:
        checks.array(TORCH, f"the gradient of {self.row.name}", grad)
        row = reshaped(self.row, tuple(grad.shape))  # its data may have another shape by now
        if row is None:
            raise ValueError(
                f"the gradient of {self.row.name} has shape {tuple(grad.shape)}, and the plan sees {self.row.shape} as "
                f"{self.row.view}: remove() GC, and attach it to the model as it is now"
            )
        return grad if row.axes is None else phi(grad, row)


class InBackward:
    """Hooks on the gradients of a model's parameters, of frozen ones as well.

    Before each forward pass, parameters that were replaced or added since then get theirs.

    Raises:
        ValueError: there is nothing to centralize, GC is attached already, or a parameter is sharded.
    """

    def __init__(self, model: nn.Module, plan: ModelPlan):
        self._model, self._plan = ref(model), plan
        self._handles: list[RemovableHandle] = []
        self._layers: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()  # names of parameters that have one
        found = list(self._to_centralize(model))
        for _, _, p, row in found:
            if (hook := _hook_of(p)) is not None:
                raise ValueError(f"GC is attached already ({hook.of}): remove() that first")
            if sharded.is_sharded(p):
                raise ValueError(f'{row.name} is sharded in its own shape: attach to its optimizer, with where="step"')
        if not found:
            raise ValueError(f"there is nothing to centralize among the model's parameters:\n{plan}")
        self._cover(model)
        self._handles.append(model.register_forward_pre_hook(self._before_forward))

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __repr__(self) -> str:
        model = self._model()
        params = [] if model is None else list(nn.Module.parameters(model))
        on = sum(_hook_of(p) is not None for p in params)
        return f"GC on the gradients of {on} of the model's {len(params)} parameters, in backward"

    def __reduce__(self) -> Any:
        # A copy of the model has parameters of its own, which have no hooks: attach to it.
        return _without_hooks, ()

    def _before_forward(self, model: nn.Module, args: Any) -> None:
        if self._handles:
            self._cover(model)

    def _to_centralize(self, model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor, Row]]:
        """Parameters without a hook of this attachment, with the layer that owns each, and its name in it."""
        again = None
        for module in model.modules():
            for local, p in module._parameters.items():
                hook = None if p is None else _hook_of(p)
                if p is None or (hook is not None and hook.of is self):
                    continue
                row = self._plan.row_of(p)
                if row is None:  # it was not there when the plan was made
                    again = _again(self._plan) if again is None else again
                    row = again.row_of(p)
                if row is not None and row.axes is not None and (p.is_floating_point() or p.is_complex()):
                    yield module, local, p, row

    def _cover(self, model: nn.Module) -> None:
        found = list(self._to_centralize(model))
        if found:
            self._handles = [handle for handle in self._handles if handle.id in (handle.hooks_dict_ref() or ())]
        for module, local, p, row in found:
            if _hook_of(p) is None and not sharded.is_sharded(p):
                self._hook(p, row)
            names = self._layers.setdefault(module, set())
            if local not in names:
                names.add(local)
                self._handles.append(module.register_forward_pre_hook(partial(self._before_layer, local, row)))

    def _hook(self, p: Tensor, row: Row) -> None:
        trains = p.requires_grad
        p.requires_grad_(True)  # a frozen one takes no hook, and keeps one
        if (hooks := p._backward_hooks) is not None:  # swapped: autograd is told of those that are still wanted
            for key in [key for key, hook in hooks.items() if _is_left_behind(hook, p)]:
                del hooks[key]
            p._backward_hooks = None
            p._backward_hooks = hooks
        self._handles.append(p.register_hook(Hook(row, self, compat.identity(p))))
        p.requires_grad_(trains)

    def _before_layer(self, local: str, row: Row, module: nn.Module, args: Any) -> None:
        """A layer may run outside the model, with a new parameter.

        An engine that flattens parameters puts views of its own in their place, new ones for each forward pass.
        """
        if not self._handles:
            return
        x = getattr(module, local, None)
        if not isinstance(x, Tensor) or tuple(x.shape) != row.shape:
            return
        if not x.is_leaf and not hasattr(x, "_has_gc"):
            x._has_gc = True  # type: ignore[attr-defined]
            x.register_hook(Hook(row, self))
        elif isinstance(x, nn.Parameter) and _hook_of(x) is None and torch.is_grad_enabled():
            self._hook(x, row)


def _again(plan: ModelPlan) -> ModelPlan:
    try:
        return plan.again()
    except ValueError:  # an engine has flattened parameters: of those, their views have hooks
        return plan


def _without_hooks() -> InBackward:
    one = InBackward.__new__(InBackward)
    one._handles = []
    return one


def _hook_of(p: Tensor) -> Hook | None:
    """The hook of an attachment that a parameter has."""
    hooks = (p._backward_hooks or {}).values()
    return next((hook for hook in hooks if isinstance(hook, Hook) and not _is_left_behind(hook, p)), None)


def _is_left_behind(hook: Any, p: Tensor) -> bool:
    return isinstance(hook, Hook) and hook.on is not None and hook.on != compat.identity(p)

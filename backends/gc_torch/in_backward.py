"""The step in backward: each parameter is updated as soon as its gradient is complete, and the gradient is freed.

Then there is never more than one layer's gradient at a time. One optimizer drives all of it, with its own state,
groups and schedules. What is left in a gradient's place has no memory, and raises where somebody would use it.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any
from weakref import WeakSet, ref

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gc_torch import compat, sharded
from gc_torch.attach import attached_at_step
from gc_torch.attach_step import after_closure
from gc_torch.kept import Part
from gc_torch.spent import Spent
from gc_torch.step import CentralizingOptimizer

# Optimizers of torch.optim of which each parameter's step hangs on its own gradient and state alone.
EACH_ALONE = {
    "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "Muon", "NAdam", "RAdam", "RMSprop", "Rprop",
    "SGD", "SparseAdam",
}  # fmt: skip

_active: WeakSet["StepInBackward"] = WeakSet()


class StepInBackward:
    """Steps of an optimizer within backward, until `remove()`; made by `step_in_backward`."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        # The optimizer keeps this alive, and the parameters' hooks keep neither: PyTorch could not free such a cycle.
        self._optimizer, me = ref(optimizer), ref(self)
        self._name, self._ours = type(optimizer).__name__, isinstance(optimizer, CentralizingOptimizer)
        names = {id(p): name for name, p in model.named_parameters()}
        self._spent: dict[int, Spent] = {}
        self._places: dict[int, tuple[int, int]] = {}  # by id(): the group of a parameter, and its place there
        self._rows: dict[tuple[int, int], Any] = {}  # of groups, by which plan, in one backward pass
        self._handles: list[Any] = []
        for i, group in enumerate(optimizer.param_groups):
            for k, p in enumerate(group["params"]):
                if p.requires_grad:
                    self._spent[id(p)] = Spent(p, names.get(id(p), f"group{i}.{k}"))
                    self._handles.append(p.register_post_accumulate_grad_hook(functools.partial(_on_gradient, me)))
        self._handles.append(optimizer.register_step_pre_hook(self._before_step))
        optimizer._in_backward = self  # type: ignore[attr-defined]
        _active.add(self)
        compat.guard_scaling(_refuse_scaled)

    def remove(self) -> None:
        """From now on gradients are kept, and `step()` takes the step, as ever. A second time does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if (optimizer := self._optimizer()) is not None:
            self._end(optimizer)
            vars(optimizer).pop("_in_backward", None)
        _active.discard(self)
        if not _active:
            compat.guard_scaling(None)

    def __repr__(self) -> str:
        removed = "" if self._handles else "removed: "
        return f"{removed}{self._name} steps in backward, on {len(self._spent)} parameters"

    def has(self, p: Tensor) -> bool:
        """Whether this parameter is updated in backward."""
        return id(p) in self._spent

    def _before_step(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict[str, Any]) -> Any:
        """There is nothing left to do; nor will there be when a closure has computed gradients."""
        self._end(optimizer)
        return after_closure(args, kwargs, lambda: self._end(optimizer))

    def _end(self, optimizer: torch.optim.Optimizer) -> None:
        """The next gradients may come."""
        self._rows.clear()
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None and type(p.grad) is Spent:
                    p.grad = None

    def _place_of(self, optimizer: torch.optim.Optimizer, p: Tensor) -> tuple[int, int] | None:
        """The group of a parameter, and its place there, now; None: the optimizer no longer has it."""
        groups = optimizer.param_groups
        index, place = self._places.get(id(p), (-1, 0))
        if 0 <= index < len(groups) and place < len(groups[index]["params"]) and groups[index]["params"][place] is p:
            return index, place
        self._rows.clear()
        self._places = {id(q): (i, k) for i, group in enumerate(groups) for k, q in enumerate(group["params"])}
        return self._places.get(id(p))

    def step(self, optimizer: Any, p: Tensor) -> bool:
        """Update a parameter, if the optimizer still has it."""
        found = self._place_of(optimizer, p)
        if found is not None:
            (self._step_ours if self._ours else self._step_any)(optimizer, *found, p)
        return found is not None

    def _step_ours(self, optimizer: Any, index: int, place: int, p: Tensor) -> None:
        options = optimizer._options(index, optimizer.param_groups[index])
        rows = self._rows.get((index, optimizer._plans))
        if rows is None or len(rows) != len(optimizer.param_groups[index]["params"]):
            rows = self._rows[index, optimizer._plans] = optimizer._rows(index)
        group, state = {**optimizer.param_groups[index], "params": [p]}, optimizer.state
        part = Part(index, place, group, {p: state[p]} if p in state else state)
        optimizer._step_parts([part], [options], [rows[place : place + 1]])

    def _step_any(self, optimizer: Any, index: int, place: int, p: Tensor) -> None:
        groups, step = optimizer.param_groups, type(optimizer).step
        if getattr(step, "hooked", False):  # hooks are for the step that is called
            step = step.__wrapped__
        optimizer.param_groups = [{**groups[index], "params": [p]}]
        try:
            step(optimizer)
        finally:
            optimizer.param_groups = groups


def _on_gradient(me: Any, p: Tensor) -> None:
    """A gradient is complete."""
    one: StepInBackward | None = me()
    optimizer = None if one is None else one._optimizer()
    if one is None or optimizer is None:  # nobody would have called its step
        return
    spent = one._spent[id(p)]
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{spent.called}: backward was called with create_graph=True, which needs the gradient afterwards, and the "
            "step in backward frees it: remove() the step in backward for this"
        )
    if not one.step(optimizer, p):
        return
    if (spent.shape, spent.dtype, spent.device) != (p.shape, p.dtype, p.device):  # its data is new
        spent = one._spent[id(p)] = Spent(p, spent.called)
    p.grad = spent


def step_in_backward(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, independent: bool = False
) -> StepInBackward:
    """Have every parameter updated during backward, as soon as its gradient is complete, and the gradient freed.

    The numbers are those of steps after backward, to the last bit; the gradients' share of the memory is gone. The
    loop stays: `zero_grad()`, `backward()`, `step()`, schedulers. `step()` must still be called after each backward,
    and does nothing but end it. Parameters that are added or unfrozen later are updated in `step()`, as ever.

    What needs all gradients at once is refused by name: accumulation over several backward passes, clipping and
    anything else that reads `p.grad` after backward, a GradScaler, DistributedDataParallel, sharded models, LBFGS.

    Args:
        model: whose parameters these are.
        optimizer: one of gc_torch, or of torch.optim. GC in front of another one is had by
            `attach(optimizer, model, where="backward")`.
        independent: for an optimizer from elsewhere, your word that it updates each parameter from its own gradient and
            state alone, and changes no option of a group.

    Returns:
        What can be removed again, with `remove()`.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or this cannot be done with it; nothing has changed.
        RuntimeError: later, from what needs all gradients at once.

    >>> layer = nn.Linear(3, 1)
    >>> from gc_torch import SGD
    >>> optimizer = SGD(layer, lr=0.5)
    >>> in_backward = step_in_backward(layer, optimizer)
    >>> in_backward
    SGD steps in backward, on 2 parameters
    >>> _ = nn.init.zeros_(layer.bias)
    >>> layer(torch.ones(1, 3)).sum().backward()
    >>> layer.bias.data, layer.bias.grad
    (tensor([-0.5000]), <the gradient of bias, used for its step in backward, and freed>)
    >>> optimizer.step()  # there is nothing left to do
    >>> layer.bias.data, layer.bias.grad
    (tensor([-0.5000]), None)
    >>> in_backward.remove()

    Source: Lv et al., Full Parameter Fine-tuning for Large Language Models with Limited Resources (arXiv 2306.09782).
    """
    _check(model, optimizer, independent)
    return StepInBackward(model, optimizer)


def _check(model: Any, optimizer: Any, independent: bool) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module; got {type(model).__qualname__}")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer; got {type(optimizer).__qualname__}")
    kind, name = type(optimizer), type(optimizer).__name__
    known = isinstance(optimizer, CentralizingOptimizer) or (
        kind.__module__.startswith("torch.optim.") and name in EACH_ALONE
    )
    if name == "LBFGS":
        raise ValueError("LBFGS needs all gradients at once, several times in a step: it cannot step in backward")
    if not (known or independent):
        raise ValueError(
            f"{name} is not known to update each parameter from its own gradient and state alone. If it does, and "
            "changes no option of its groups, say so: step_in_backward(model, optimizer, independent=True)"
        )
    if attached_at_step(optimizer):
        raise ValueError(
            f"GC is attached to the step of {name}, which is not called for single parameters: remove() it, and "
            'attach(optimizer, model, where="backward")'
        )
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise ValueError(
            f"there are {dist.get_world_size()} processes: DistributedDataParallel and sharded models average "
            "gradients after they are complete, and the step must come later. Call optimizer.step() after backward"
        )
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if any(group.get("differentiable") for group in optimizer.param_groups):
        raise ValueError("differentiable must be False: what a step in backward has used is freed")
    if any(map(sharded.is_sharded, params)):
        raise ValueError("parameters are sharded (DTensor), and complete gradients come later: step() after backward")
    if any(one.has(p) for one in _active for p in params):
        raise ValueError("steps are taken in backward already: remove() that first")
    mine = {id(p) for p in model.parameters()}
    if not any(id(p) in mine for p in params):
        raise ValueError("the optimizer has none of the model's parameters")
    if any(p.grad is not None for p in params):
        raise ValueError("there are gradients already, which no step would use: call step() or zero_grad() first")


def _refuse_scaled(outputs: Any) -> None:
    """Raise if a loss that a GradScaler is about to scale leads to a parameter that is updated in backward."""
    found, todo = set(), [x.grad_fn for x in _tensors(outputs) if x.grad_fn is not None and _active]
    while todo:
        node = todo.pop()
        if node in found:
            continue
        found.add(node)
        p = getattr(node, "variable", None)
        if p is not None and any(one.has(p) for one in _active):
            raise RuntimeError(
                "a GradScaler scales the loss, and unscales all gradients at once after backward: the step in backward "
                "would take them scaled. Use bfloat16, which needs no scaling, or remove() the step in backward"
            )
        todo += [following for following, _ in node.next_functions if following is not None]


def _tensors(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Iterable):
        for one in outputs:
            yield from _tensors(one)

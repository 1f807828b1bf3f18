"""What a step checks before anything changes: whatever would spoil the weights, of options, gradients and states."""

from typing import Any

import torch
from torch import Tensor, nn

from gc_core import checks
from gc_core.plan import Row
from gc_torch import compat, low_precision, memory, sharded
from gc_torch.arrays import TORCH, as_scalar

# What optimizers of torch.optim that are no SGD keep of a parameter.
OF_OTHERS = {"exp_avg", "exp_avg_sq", "exp_inf", "square_avg", "acc_delta", "sum", "prev", "ax", "variance"}


def group(optimizer: Any, options: dict[str, Any], rows: tuple[Row, ...]) -> None:
    """Check what a step will read of a group: parameters, their gradients, and their states.

    Args:
        optimizer: whose `kind`, `states` and `state` they are.
        options: of the group.
        rows: of the plan.

    Raises:
        TypeError, ValueError: with the name of the parameter.
    """
    for p, row in zip(options["params"], rows, strict=True):
        if p.grad is not None:
            try:
                _tensors(optimizer, options, row, p, p.grad, optimizer.state.get(p))
            except (TypeError, ValueError) as error:
                raise type(error)(f"{row.name}: {error}") from None


def _tensors(optimizer: Any, options: dict[str, Any], row: Row, p: Tensor, grad: Tensor, state: Any) -> None:
    with_gc = options["gc_on"] is not None
    sharded.check_like(p, "the gradient", grad)
    if (with_gc and row.axes is not None) or (grad.layout != torch.strided and optimizer.kind == "adam"):
        checks.array(TORCH, "the gradient", grad, allow_complex=optimizer.kind == "sgd")
    if with_gc:
        _like(p, "the gradient", grad)
    if compat.is_fake(grad) and not compat.is_fake(p):
        raise TypeError("the gradient must have values; it is a FakeTensor, which a model kept from being traced")
    _memory("it", p)
    _memory("the gradient", grad)
    if not state:
        return
    state_of(optimizer, state)
    kept = state.get(low_precision.COMPENSATION)
    if kept is not None and low_precision.way_for(options, p) == "kahan":
        sharded.check_like(p, "the state's compensation", kept)
        _like(p, "the state's compensation", kept)
        _memory("the state's compensation", kept)
    for name in optimizer.states:
        value = state.get(name)
        if name == "max_exp_avg_sq":
            if not options["amsgrad"]:
                continue
            checks.amsgrad_state(True, value)
        if value is not None or optimizer.kind == "adam":
            sharded.check_like(p, f"the state's {name}", value)
            _like(p, f"the state's {name}", value)
            _memory(f"the state's {name}", value)
            if value is not None and value.layout not in (torch.strided, grad.layout):
                checks.array(TORCH, f"the state's {name}", value)
    if optimizer.kind == "adam" or (low_precision.way_for(options, p) == "stochastic" and "step" in state):
        step = state["step"]
        if not isinstance(step, Tensor) or step.numel() != 1:
            raise TypeError(f"the state's step must be a torch.Tensor of one number; got {step!r}")


def state_of(optimizer: Any, state: dict[str, Any]) -> None:
    """Check that a state is that of such an optimizer."""
    # Wrappers keep something of their own beside it; PyTorch's SGD takes what it finds.
    needed = ("step", "exp_avg", "exp_avg_sq") if optimizer.kind == "adam" else ()
    another = optimizer.kind == "sgd" and not OF_OTHERS.isdisjoint(state)
    if another or any(name not in state for name in needed):
        names = ", ".join(needed or optimizer.states)
        raise TypeError(f"its state must be that of {type(optimizer).__name__}, with {names}; it has {sorted(state)}")


def _like(p: Tensor, name: str, value: Any) -> None:
    if not isinstance(value, Tensor) or (value.shape, value.dtype, value.device) != (p.shape, p.dtype, p.device):
        checks.array(TORCH, name, value)
        checks.like(TORCH, p, name, value)


def _memory(name: str, x: Any) -> None:
    if isinstance(x, Tensor) and not torch.compiler.is_compiling() and (beyond := memory.outside(x)):
        raise ValueError(f"{name} must lie in its storage; {beyond}")


def read(number: Any) -> Any:
    """What an option must be checked for: a tensor on a CPU is read, one elsewhere would be waited for."""
    here = type(number) in (Tensor, nn.Parameter) and number.device.type == "cpu" and number.numel() == 1
    here = here and number.is_floating_point()
    return number.item() if here and not torch.compiler.is_compiling() else as_scalar(number)


def place(gc_on: Any) -> str:
    """The place of GC as the checks of the rules want it, which know no None."""
    checks.place(gc_on, optional=True)
    return gc_on or checks.PLACES[0]

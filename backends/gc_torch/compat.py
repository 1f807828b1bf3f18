"""What differs between releases of PyTorch, and every private name of it that is used, each with a way without.

Each entry says from which release on it can go. The oldest release is that of `gc_core.versions`.
"""

# pyright: reportPrivateUsage=false

import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from gc_core import versions

versions.require("gc_torch", "torch")  # before anything else of it is looked for

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.utils import parametrizations  # noqa: E402
from torch.optim.adam import adam as _adam  # noqa: E402
from torch.optim.adamw import adamw as _adamw  # noqa: E402


def _private(page: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(page), name, None)
    except ImportError:
        return None


# ---- Optimizers

# Stays: PyTorch's own choice of a step has no public name.
_choose = _private("torch.optim.optimizer", "_default_to_fused_or_foreach")
# Stays: no public name. It also tells torch.compile how much of a step to look into.
_decorate = _private("torch.optim.optimizer", "_use_grad_for_differentiable")
# From 2.11 on the first; the second can go with 2.10.
_CAPTURE_CHECKS = ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check")


def fused_or_foreach(params: list[Tensor], differentiable: bool, *, use_fused: bool) -> tuple[bool, bool]:
    """Whether PyTorch itself would take its fused step, or its foreach step, for these parameters."""
    if _choose is None:
        return False, False  # the loop takes everything
    return _choose(params, differentiable, use_fused=use_fused)


def use_grad_for_differentiable(step: Callable[..., Any]) -> Callable[..., Any]:
    """The decorator of an optimizer's `step`: gradients are recorded where the optimizer is differentiable."""
    if _decorate is not None:
        return _decorate(step)

    @functools.wraps(step)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *args, **kwargs)

    return wrapped


def graph_capture_health_check(optimizer: torch.optim.Optimizer) -> None:
    """Raise, or warn, if a step that cannot be captured in a CUDA graph is about to be."""
    for name in _CAPTURE_CHECKS:
        if check := getattr(optimizer, name, None):
            check()
            return


# Can go with 2.6: Adam then takes decoupled_weight_decay, and AdamW is an Adam.
_ONE_ADAM = "decoupled_weight_decay" in inspect.signature(torch.optim.Adam).parameters


def adam_options(decoupled_weight_decay: bool) -> dict[str, Any]:
    """What the constructor of `torch.optim.Adam` takes of this option; before 2.7 only `adam` here knows it."""
    return {"decoupled_weight_decay": decoupled_weight_decay} if _ONE_ADAM else {}


def adam(*columns: list[Tensor], decoupled_weight_decay: bool, **options: Any) -> None:
    """`torch.optim.adam.adam` of 2.7 and later."""
    plain: Any = _adam
    decoupled: Any = _adamw
    if _ONE_ADAM:
        plain(*columns, decoupled_weight_decay=decoupled_weight_decay, **options)
    elif decoupled_weight_decay:
        decoupled(*columns, **options)
    else:
        plain(*columns, **options)


def init_adam_group(optimizer: torch.optim.Optimizer, group: dict[str, Any], columns: list[list[Any]]) -> None:
    """Fill the columns of Adam or AdamW: parameters, gradients, states. Stays: `_init_group` has no public name."""
    if _ONE_ADAM:
        optimizer._init_group(group, *columns)  # type: ignore[attr-defined]
    else:
        torch.optim.Adam._init_group(optimizer, group, *columns)  # type: ignore[arg-type]


def divide_(tensors: list[Tensor], number: float) -> None:
    """Divide tensors in place, in one call where there is one. Stays: `_foreach_div_` has no public name."""
    if divide := getattr(torch, "_foreach_div_", None):
        divide(tensors, number)
    else:
        for x in tensors:
            x.div_(number)


def copy_(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    """Copy others into tensors, in one call where there is one. Stays: `_foreach_copy_` has no public name."""
    if copy := getattr(torch, "_foreach_copy_", None):
        copy(tensors, others)
    else:
        for x, y in zip(tensors, others, strict=True):
            x.copy_(y)


_scale: Any = torch.amp.GradScaler.scale


def guard_scaling(check: Callable[[Any], None] | None) -> None:
    """Have every loss looked at that an enabled GradScaler is about to scale; None: no more. Stays: it has no hooks."""
    if check is None:
        torch.amp.GradScaler.scale = _scale
        return

    @functools.wraps(_scale)
    def scale(self: Any, outputs: Any) -> Any:
        if self.is_enabled():
            outputs = outputs if isinstance(outputs, Tensor) else tuple(outputs)
            check(outputs)
        return _scale(self, outputs)

    torch.amp.GradScaler.scale = scale


# Stays: no public name for tensors that have no values.
_FAKE = _private("torch._subclasses.fake_tensor", "FakeTensor")


def is_fake(x: Any) -> bool:
    """Whether a tensor has a shape and no values."""
    return _FAKE is not None and isinstance(x, _FAKE)


def identity(x: Tensor) -> int | None:
    """Of what is behind a tensor, and changes when two are swapped; None: unknown. Stays: it has no public name."""
    return getattr(x, "_cdata", None)


def tensor_check(tensors: Sequence[Tensor]) -> Callable[..., bool] | None:
    """A function of as many tensors: whether class, dispatch keys, dtype, device, shape and strides are those of these.

    It is what torch.compile guards its inputs with, at a tenth of a microsecond each, and holds none of them. Stays: no
    public name. None: this release has none, and the attributes must be compared one by one.
    """
    try:
        guards = importlib.import_module("torch._C._dynamo.guards").TensorGuards
        check = guards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
        return check if check(*tensors) else None
    except (ImportError, AttributeError, TypeError, RuntimeError):
        return None


# ---- Modules

# Stay: bases that have no public name. Without them, those of their subclasses that have one.
NORM = _private("torch.nn.modules.batchnorm", "_NormBase") or (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip
CONV_TRANSPOSED: Any = _private("torch.nn.modules.conv", "_ConvTransposeNd") or (
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
CONV = _private("torch.nn.modules.conv", "_ConvNd") or (nn.Conv1d, nn.Conv2d, nn.Conv3d, *CONV_TRANSPOSED)
# Stay: what torch.nn.utils.parametrizations registers. A parametrization that is not known is left alone, and said so.
WEIGHT_NORM = getattr(parametrizations, "_WeightNorm", None)
SPECTRAL_NORM = getattr(parametrizations, "_SpectralNorm", None)
ORTHOGONAL = getattr(parametrizations, "_Orthogonal", None)


def forward_pre_hooks(module: nn.Module) -> list[Any]:
    """The hooks that run before the forward of a module. Stays: there is no public way to list them."""
    return list(getattr(module, "_forward_pre_hooks", {}).values())


# ---- Operations that are watched while a plan is proved


class _Operations:
    """`torch.ops.aten`; where this release has no such operation, an object that no operation is equal to."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(torch.ops.aten, name, None) or object()
        setattr(self, name, found)
        return found


# Stays: many of its names are private. `_grouped_mm` came with 2.8.
aten: Any = _Operations()


def is_watched() -> bool:
    """Whether a mode of `__torch_dispatch__` is at work. Stays: there is no public name; without it, never said."""
    length = getattr(torch._C, "_len_torch_dispatch_stack", None)
    return length is not None and length() > 0


def is_mutable(operation: Any) -> bool:
    """Whether an operation of `torch.ops` writes into one of its arguments. Stays: schemas have no public name."""
    return operation._schema.is_mutable


def written(operation: Any, args: tuple[Any, ...]) -> list[Any]:
    """The arguments that an operation of `torch.ops` writes into. Stays, as `is_mutable`."""
    return [
        x
        for argument, x in zip(operation._schema.arguments, args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


class _NoDispatchMode:
    def __init__(self) -> None:
        raise NotImplementedError(f"PyTorch {torch.__version__} has no TorchDispatchMode: a plan cannot be proved here")


# Stay: pages that are private, though what stands on them is documented.
TorchDispatchMode: Any = _private("torch.utils._python_dispatch", "TorchDispatchMode") or _NoDispatchMode
is_wrapper_subclass: Callable[[Tensor], bool] = _private(
    "torch.utils._python_dispatch", "is_traceable_wrapper_subclass"
) or (lambda x: hasattr(x, "__tensor_flatten__"))
try:
    pytree: Any = importlib.import_module("torch.utils._pytree")
except ImportError:
    pytree = importlib.import_module("torch.utils.pytree")

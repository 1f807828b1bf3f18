"""A plan read from the program: which axes of each parameter the operations sum over, when the model runs on a batch.

Nothing is computed and nothing allocated: the model runs on fake tensors, which have shapes and no values. Only where
what it does depends on values does it run once really.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gc_core.layouts import View
from gc_core.reasons import GCWarning
from gc_core.uses import Kind, conclusion
from gc_torch import leftovers
from gc_torch.compat import pytree
from gc_torch.layers import standing_in
from gc_torch.reader import Reader
from gc_torch.trace import Trace
from gc_torch.tree import named_views
from gc_torch.unchanged import Saved, as_it_was

Batch = Tensor | tuple[Any, ...] | Mapping[str, Any] | Callable[[nn.Module], Any]


def read(
    model: nn.Module, parameters: Mapping[str, Tensor], known: Mapping[str, View], batch: Batch, *, stacklevel: int = 3
) -> dict[str, View | None]:
    """What the program does with each parameter; None for those that it does not reach.

    Args:
        model: it runs in eval mode and without gradients; it, its buffers and the states of random number generators
            are afterwards what they were, after an error too.
        parameters: by name.
        known: what their layers say of them.
        batch: a tensor, a tuple of the model's arguments, a mapping of its keyword arguments, or a function that runs
            the model it is given. Its shapes count, not its values.

    Raises:
        TypeError: the batch is none of these.
        Whatever the model raises on it.
    """
    call = caller(batch)
    if any(parameter.is_meta for parameter in parameters.values()) and not callable(batch):
        call = caller(pytree.tree_map_only(Tensor, lambda x: x.to("meta"), batch))
    try:
        trace = _run(model, parameters, known, call, fake=True)
    except Exception as error:
        try:
            if any(parameter.is_meta for parameter in parameters.values()):
                raise
            trace = _run(model, parameters, known, call, fake=False)
        except Exception as real:
            real.add_note("It was raised while gc_torch.plan ran the model on the batch, to read what it does.")
            raise
        warnings.warn(
            "gc_torch.plan ran the model once on the batch, in eval mode: on shapes alone it cannot run "
            f"({type(error).__name__}: {_first_line(error)})",
            GCWarning,
            stacklevel=stacklevel,
        )
    return {name: conclusion(trace.shapes[name], trace.axes[name], uses) for name, uses in trace.uses.items()}


def beyond_one_operation(
    model: nn.Module, parameters: Mapping[str, Tensor], batch: Batch
) -> tuple[dict[str, tuple[bool, str]], set[str]]:
    """What a look at single operations, as `verify` takes it, cannot show.

    Returns:
        Parameters whose product with another one meets the data: whether they are on its side, and the others; and
        those that are multiplied with data element by element, of which only a later operation takes sums.
    """
    views = named_views(model, parameters)
    call = caller(batch, "verify")
    try:
        trace = _run(model, parameters, views, call, fake=True)
    except Exception:
        trace = _run(model, parameters, views, call, fake=False)
    factors, later = {}, set()
    for name, uses in trace.uses.items():
        if uses and all(use.factor or use.kind is Kind.FACTOR for use in uses):
            factors[name] = any(use.factor for use in uses)
        if any(use.kind is Kind.SUMMED and use.operation in ("sum", "mean") for use in uses):
            later.add(name)
    return {
        name: (near, ", ".join(other for other in factors if other != name)) for name, near in factors.items()
    }, later


def example(model: nn.Module) -> Batch | None:
    """The inputs that an exported program was made with, by the metadata it carries; None for any other model."""
    graph = getattr(model, "graph", None)
    if not isinstance(model, torch.fx.GraphModule) or graph is None:
        return None
    given = [node.meta.get("val", node.meta.get("example_value")) for node in graph.find_nodes(op="placeholder")]
    if not given or not all(isinstance(value, Tensor) for value in given):
        return None
    sizes = [[getattr(getattr(n, "node", None), "hint", n) for n in value.shape] for value in given]
    spec = getattr(getattr(graph, "_codegen", None), "pytree_info", None)

    def run(model: nn.Module) -> Any:
        flat = [
            torch.zeros(size, dtype=value.dtype, device=value.device) for size, value in zip(sizes, given, strict=True)
        ]
        if spec is None:
            return model(*flat)
        args, kwargs = pytree.tree_unflatten(flat, spec.in_spec)
        return model(*args, **kwargs)

    return run


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:120]


def caller(batch: Batch, name: str = "batch") -> Callable[[nn.Module], Any]:
    """A function that runs a model on a batch, of whatever form."""
    if isinstance(batch, Tensor):
        return lambda model: model(batch)
    if isinstance(batch, tuple):
        return lambda model: model(*batch)
    if isinstance(batch, Mapping):
        return lambda model: model(**batch)
    if callable(batch):
        return batch
    raise TypeError(
        f"{name} must be a tensor, a tuple of the model's arguments, a mapping of its keyword arguments, or a function "
        f"that runs the model it is given; got {type(batch).__qualname__}"
    )


def _run(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    known: Mapping[str, View],
    call: Callable[[nn.Module], Any],
    *,
    fake: bool,
) -> Trace:
    trace = Trace(parameters, known, quiet_tensors(model))
    mode = leftovers.Shapes() if fake else None
    try:
        _watch(trace, model, parameters, call, mode)
    except BaseException:
        if mode is not None:
            leftovers.clear(mode)  # what the frames of the error hold is no leftover
        raise
    trace.finish()
    if mode is not None:
        leftovers.warn(leftovers.clear(mode), stacklevel=6)
    return trace


def _watch(
    trace: Trace,
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    call: Callable[[nn.Module], Any],
    mode: FakeTensorMode | None,
) -> None:
    fake = mode is not None
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(as_it_was(model, values=not fake))
        saved = None if fake else Saved(list(model.parameters()))
        if saved is not None:
            stack.callback(saved.restore)
        if mode is not None:
            stack.enter_context(mode)
            log = logging.getLogger(FakeTensorMode.__module__)
            stack.callback(setattr, log, "disabled", log.disabled)
            log.disabled = True  # what it cannot run is raised, and asked again really
        stack.enter_context(Reader(trace, mode, saved))
        stack.enter_context(standing_in(model, parameters, trace.stand_in))
        call(model)


def quiet_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Buffers, and tensors that modules keep as plain attributes."""
    for module in model.modules():
        for x in [*module._buffers.values(), *vars(module).values()]:
            if isinstance(x, Tensor) and not isinstance(x, nn.Parameter):
                yield x

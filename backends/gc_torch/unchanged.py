"""A model can be run to be looked at, and is afterwards what it was: its mode, buffers, caches, and random numbers."""

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gc_torch import compat


@contextmanager
def as_it_was(model: nn.Module, *, values: bool = True) -> Iterator[None]:
    """Eval mode, and kernels that do one thing at a time; afterwards all is as it was.

    Args:
        model: the model.
        values: whether what buffers hold can change too.
    """
    modules = list(model.modules())
    kept = [(module, module.training, _contents(module)) for module in modules]
    buffers = [(x, x.clone()) for x in model.buffers()] if values else []
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  what a model may draw from
    backends: Any = torch.backends
    kernels = backends.cudnn.enabled, backends.mkldnn.enabled, backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count())))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(parametrize.cached())
        try:
            # Otherwise a recurrent network, or an attention layer, is a single operation.
            _set_kernels(False, False, False)
            for module in modules:  # not by eval(), which models override
                module.training = False
            yield
        finally:
            _set_kernels(*kernels)
            for module, training, contents in kept:
                _restore(module, contents)
                module.training = training
            for x, before in buffers:
                if not torch.equal(x, before):
                    x.copy_(before)
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _set_kernels(cudnn: bool, mkldnn: bool, attention: bool) -> None:
    torch.backends.cudnn.enabled, torch.backends.mkldnn.enabled = cudnn, mkldnn  # type: ignore[assignment]
    torch.backends.mha.set_fastpath_enabled(attention)


def _contents(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module, with copies of the lists and dicts among them: models keep caches there."""
    return {
        name: (value, value.copy()) if type(value) in (list, dict) else (value, None)
        for name, value in vars(module).items()
    }


def _restore(module: nn.Module, contents: dict[str, Any]) -> None:
    attributes = vars(module)
    for name in [name for name in attributes if name not in contents]:
        del attributes[name]
    for name, (value, copy) in contents.items():
        attributes[name] = value
        if copy is not None and not _is_same(value, copy):
            value.clear()
            (value.extend if isinstance(value, list) else value.update)(copy)


def _is_same(a: Any, b: Any) -> bool:
    return (
        len(a) == len(b)
        and all(
            x is y for x, y in zip(*((one.values() if isinstance(one, dict) else one) for one in (a, b)), strict=True)
        )
        and (not isinstance(a, dict) or a.keys() == b.keys())
    )


class Saved:
    """Copies of those parameters that operations write to.

    Args:
        parameters: which are looked after.
    """

    def __init__(self, parameters: Sequence[Tensor]):
        self.parameters = list(parameters)
        self.copies: dict[int, Tensor] = {}

    def before(self, func: Any, args: tuple) -> None:
        """Keep copies of the parameters that an operation is about to write to."""
        written = [x.untyped_storage().data_ptr() for x in compat.written(func, args) if isinstance(x, Tensor)]
        for i, parameter in enumerate(self.parameters):
            if i not in self.copies and parameter.untyped_storage().data_ptr() in written:
                self.copies[i] = parameter.clone()

    def restore(self) -> None:
        """Put back what was written over."""
        for i, before in self.copies.items():
            self.parameters[i].copy_(before)

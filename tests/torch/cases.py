"""What the tests of the optimizers run over: paths, tensors in every kind of memory, what a step must not change."""

import torch
from torch import nn

import gc_core
import gc_torch as gct

KINDS = ("SGD", "Adam", "AdamW")
PATHS = {
    "unset": {},
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "for-loop": {"foreach": False},
}

# Shape, and how GC sees it: 0-d to 5-d, out first, out last and otherwise, grouped, and left alone.
VIEWS = {
    "scalar": ((), (), None),
    "bias": ((5,), (5,), None),
    "vector": ((5,), (5,), (0,)),
    "linear": ((4, 3), (4, 3), (1,)),
    "last": ((3, 4), (3, 4), (0,)),
    "both": ((3, 4), (3, 4), (0, 1)),
    "alone": ((4, 3), (4, 3), None),
    "one": ((6, 1), (6, 1), None),
    "conv1d": ((2, 3, 4), (2, 3, 4), (1, 2)),
    "conv2d": ((4, 3, 2, 2), (4, 3, 2, 2), (1, 2, 3)),
    "middle": ((2, 3, 2, 3), (2, 3, 2, 3), (0, 2)),
    "grouped": ((4, 3, 2, 2), (2, 2, 3, 2, 2), (1, 3, 4)),
    "conv3d": ((2, 3, 2, 1, 2), (2, 3, 2, 1, 2), (1, 2, 3, 4)),
    "empty": ((0, 3), (0, 3), (1,)),
}


def moved(x):
    """The same numbers, the first axis innermost in memory."""
    return x.movedim(0, -1).contiguous().movedim(-1, 0) if x.ndim else x


def gaps(x):
    """The same numbers, in memory that holds others too."""
    if not x.ndim:
        return x
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1] + 1), torch.nan, dtype=x.dtype)
    wide[..., 1::2] = x
    return wide[..., 1::2]


def channels_last(x):
    return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x


def as_it_is(x):
    return x


# Of the weight, and of its gradient.
MEMORY = [
    (as_it_is, as_it_is),
    (channels_last, channels_last),
    (channels_last, as_it_is),
    (as_it_is, channels_last),
    (moved, moved),
    (moved, gaps),
    (gaps, gaps),
    (as_it_is, gaps),
]


def numbers(shape, seed):
    """Normal numbers whose mean is not zero, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64) + 0.5


class Tensors(nn.Module):
    """A parameter for each of `VIEWS`, and the plan that sees it so."""

    def __init__(self, dtype=torch.float64, memory=as_it_is, names=tuple(VIEWS)):
        super().__init__()
        for i, name in enumerate(names):
            self.register_parameter(name, nn.Parameter(memory(numbers(VIEWS[name][0], i).to(dtype))))

    @property
    def plan(self):
        overrides = {name: gc_core.View(*VIEWS[name][1:], "") for name, _ in self.named_parameters()}
        return gct.plan(self, overrides)

    @property
    def views(self):
        return {name: VIEWS[name][1:] for name, _ in self.named_parameters()}

    def set_grads(self, step, memory=as_it_is):
        """Give every parameter the gradient of this step."""
        for i, p in enumerate(self.parameters()):
            p.grad = memory(numbers(p.shape, 1000 * (step + 1) + i).to(p.dtype))


def arrays(tensors):
    """Tensors by name as float64 arrays."""
    return {name: x.detach().double().numpy().copy() for name, x in tensors}


def grads(model):
    return {name: p.grad.double().numpy().copy() for name, p in model.named_parameters() if p.grad is not None}


def bits(x):
    """Shape, dtype, and every bit of a tensor."""
    x = x.detach()
    if x.is_meta:
        return x.shape, x.dtype
    return x.shape, x.dtype, bytes(x.to_dense().contiguous().flatten().view(torch.uint8).tolist())


def everything(optimizer):
    """All that a step could change, to compare with later: parameters, gradients, states, options."""
    found = []
    for group in optimizer.param_groups:
        found.append({name: repr(value) for name, value in group.items() if name != "params"})
        for p in group["params"]:
            state = optimizer.state.get(p, {})
            found.append((id(p), bits(p), None if p.grad is None else grad_bits(p.grad)))
            found.append(
                {name: (id(x), bits(x)) if isinstance(x, torch.Tensor) else repr(x) for name, x in state.items()}
            )
    return found


def grad_bits(grad):
    return bits(grad.to_dense()) if grad.layout != torch.strided else bits(grad)


def same_state(ours, theirs):
    """Whether the states of two optimizers are equal to the last bit, and laid out alike, parameter by parameter."""
    a, b = ours.state_dict()["state"], theirs.state_dict()["state"]
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].keys() == b[key].keys()
        for name, x in a[key].items():
            y = b[key][name]
            assert (x is None) == (y is None), name
            if x is not None:
                assert bits(torch.as_tensor(x)) == bits(torch.as_tensor(y)), name
    return True

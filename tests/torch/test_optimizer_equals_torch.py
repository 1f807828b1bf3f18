"""With GC off, every path gives the results of that path of torch.optim, to the last bit."""

import itertools

import pytest
import torch
from torch import nn

import gc_torch as gct

from .cases import KINDS, PATHS, Tensors, bits, channels_last, gaps, moved, same_state

# Parameters of no module, and plans without GC, are used here: that this is said is tested elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore::gc_core.GCWarning")

SGD = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"weight_decay": 0.1},
]
ADAM = [
    {},
    {"amsgrad": True, "weight_decay": 0.1},
    {"weight_decay": 0.0, "betas": (0.0, 0.5), "eps": 1e-3},
    {"amsgrad": True, "weight_decay": 0.0},
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def options_of(kind):
    return SGD if kind == "SGD" else ADAM


def run(cls, options, *, dtype=torch.float32, memory=None, steps=4):
    """A model after some steps, and its optimizer."""
    model = Tensors(dtype, *([memory[0]] if memory else []))
    params = list(model.parameters())
    optimizer = cls(params, **{"lr": 0.1, **options})
    for step in range(steps):
        model.set_grads(step, *([memory[1]] if memory else []))
        if step == 0:
            params[3].grad = None  # its first gradient comes later
        optimizer.step()
    return model, optimizer


def assert_equal(kind, ours, theirs, **how):
    """Ours, with GC off, against torch's class."""
    a, first = run(getattr(gct, kind), {**ours, "gc_on": None}, **how)
    b, second = run(getattr(torch.optim, kind), theirs, **how)
    for (name, x), y in zip(a.named_parameters(), b.parameters(), strict=True):
        assert bits(x) == bits(y), name
    assert same_state(first, second)


def is_wrong_in_torch(kind, path, options, dtype):
    """SGD's fused step on a CPU leaves blocks of half-precision numbers, and refuses a late first gradient."""
    half = dtype in (torch.bfloat16, torch.float16)
    return kind == "SGD" and path == "fused" and (half or options.get("momentum", 0) != 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_path(kind, path, dtype):
    for options, maximize in itertools.product(options_of(kind), (False, True)):
        options = {**options, "maximize": maximize, **PATHS[path]}
        if not is_wrong_in_torch(kind, path, options, dtype):
            assert_equal(kind, options, options, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fused_sgd_in_half_precision_is_the_for_loop(dtype):
    for options in SGD:
        assert_equal("SGD", {**options, "fused": True}, {**options, "foreach": False}, dtype=dtype)


def test_fused_sgd_in_half_precision_is_wrong_in_torch():
    """The reason for the test above: should PyTorch be mended, ask for its own step again."""
    p = torch.ones(64, dtype=torch.bfloat16)
    p.grad = torch.ones_like(p)
    torch.optim.SGD([p], lr=0.5, fused=True).step()
    assert (p == 1).any()


def test_fused_momentum_with_a_late_first_gradient():
    """PyTorch raises there; each parameter by itself it steps as it should."""
    for options in ({}, {"dampening": 0.3, "weight_decay": 0.1, "maximize": True}, {"nesterov": True}):
        options = {"momentum": 0.9, "fused": True, **options}
        ours, _ = run(gct.SGD, {**options, "gc_on": None})

        class OneByOne:
            def __init__(self, params, **options):
                self.all = [torch.optim.SGD([p], **options) for p in params]

            def step(self):
                for one in self.all:
                    one.step()

        theirs, _ = run(OneByOne, options)
        assert [bits(x) for x in ours.parameters()] == [bits(x) for x in theirs.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_may_be_tensors(kind):
    for path in ("unset", "fused", "for-loop"):
        assert_equal(kind, {"lr": torch.tensor(0.1), **PATHS[path]}, {"lr": torch.tensor(0.1), **PATHS[path]})
    if kind == "SGD":
        options = {"lr": torch.tensor([0.1]), "momentum": 0.9, "weight_decay": torch.tensor(0.1)}
        assert_equal(kind, {**options, "foreach": True}, {**options, "foreach": True})
        assert_equal(kind, options, options)
    else:
        betas = (torch.tensor(0.9), torch.tensor(0.99))
        for options in ({"betas": betas}, {"betas": betas, "fused": True}):
            assert_equal(kind, options, options)


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_capturable(kind):
    """On a CPU, PyTorch too has it with the fused step alone."""
    for options, lr in itertools.product(ADAM, (0.1, torch.tensor(0.1))):
        options = {**options, "lr": lr, "capturable": True, "fused": True}
        assert_equal(kind, options, options)


@pytest.mark.parametrize("kind", KINDS)
def test_paths_that_are_half_asked_for(kind):
    for asked in ({"fused": False}, {"fused": True, "foreach": False}, {"fused": False, "foreach": True}):
        options = {"lr": 0.1, **asked}
        assert_equal(kind, options, options)


def test_adam_with_decoupled_decay():
    for path in PATHS.values():
        options = {"decoupled_weight_decay": True, "weight_decay": 0.1, **path}
        assert_equal("Adam", options, options)


@pytest.mark.parametrize("memory", [(channels_last, channels_last), (moved, moved)])
@pytest.mark.parametrize("kind", KINDS)
def test_other_strides_of_weight_and_gradient_alike(kind, memory):
    for path in PATHS.values():
        assert_equal(kind, path, path, memory=memory)


@pytest.mark.parametrize(
    "memory", [(channels_last, lambda x: x), (lambda x: x, channels_last), (moved, gaps), (gaps, gaps)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_other_strides_of_weight_and_gradient(kind, memory):
    """Where they differ or have gaps, PyTorch's fused step takes the wrong numbers: the for-loop does not."""
    for path in ("unset", "foreach", "for-loop"):
        assert_equal(kind, PATHS[path], PATHS[path], memory=memory)
    names = [name for name, (a, b) in pairs(memory).items() if a.stride() == b.stride() and dense(a)]
    ours, _ = run(getattr(gct, kind), {"fused": True, "gc_on": None}, memory=memory)
    loop, _ = run(getattr(torch.optim, kind), {"foreach": False}, memory=memory)
    fused, _ = run(getattr(torch.optim, kind), {"fused": True}, memory=memory)
    for name, p in ours.named_parameters():
        right = fused if name in names else loop
        assert bits(p) == bits(right.get_parameter(name)), name


def pairs(memory):
    model = Tensors(torch.float32, memory[0])
    model.set_grads(0, memory[1])
    return {name: (p, p.grad) for name, p in model.named_parameters()}


def dense(x):
    return torch.ops.aten.is_non_overlapping_and_dense(x)


@pytest.mark.parametrize("kind", KINDS)
def test_complex_parameters(kind):
    for path in ("unset", "foreach", "for-loop"):
        results = []
        for module, extra in ((gct, {"gc_on": None}), (torch.optim, {})):
            generator = torch.Generator().manual_seed(0)
            p = torch.randn(3, 4, dtype=torch.complex64, generator=generator)
            optimizer = getattr(module, kind)([p], lr=0.1, weight_decay=0.1, **PATHS[path], **extra)
            for _ in range(3):
                p.grad = torch.randn(3, 4, dtype=torch.complex64, generator=generator)
                optimizer.step()
            results.append(bits(torch.view_as_real(p)))
        assert results[0] == results[1]


@pytest.mark.parametrize("gc_on", [None, "gradient", "update"])
def test_sparse_gradients_of_an_embedding(gc_on):
    """SGD takes them, and the plan leaves an embedding alone."""
    results = []
    for path in ("unset", "foreach", "for-loop"):
        for module, extra in ((gct, {"gc_on": gc_on}), (torch.optim, {})):
            torch.manual_seed(0)
            table = nn.Embedding(7, 3, sparse=True)
            extra = {**extra, "plan": gct.plan(table)} if module is gct else extra
            optimizer = module.SGD(table.parameters(), lr=0.1, momentum=0.9, **PATHS[path], **extra)
            for _ in range(3):
                optimizer.zero_grad()
                table(torch.tensor([1, 1, 5])).square().sum().backward()
                assert table.weight.grad.is_sparse
                optimizer.step()
            results.append(bits(table.weight))
        assert results[-2] == results[-1]


def test_defaults_are_torch_s():
    for kind in KINDS:
        p = torch.ones(2, 2)
        ours, theirs = getattr(gct, kind)([p]), getattr(torch.optim, kind)([p])
        assert ours.defaults == {**theirs.defaults, "gc_on": "gradient", "low_precision": None, "seed": 0}
        assert isinstance(ours, getattr(torch.optim, kind))


def test_gc_is_seen():
    """The comparison notices what GC does, and what a wrong option does."""
    for kind in KINDS:
        for wrong in ({"gc_on": "gradient"}, {"gc_on": "update"}, {"lr": 0.1 + 1e-8, "gc_on": None}):
            a, _ = run(getattr(gct, kind), {**wrong, "plan": "out_first"})
            b, _ = run(getattr(torch.optim, kind), {})
            assert [bits(x) for x in a.parameters()] != [bits(x) for x in b.parameters()]

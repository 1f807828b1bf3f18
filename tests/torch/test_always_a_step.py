"""Whatever is wrong with a kernel's page or its compiler, there is a step, and it says so once."""

from types import SimpleNamespace

import pytest
import torch

import gc_torch as gct
from gc_torch import path

FAULTS = [
    OSError("libLLVM.so: cannot open shared object file"),
    AttributeError("module 'os' has no attribute 'register_at_fork'"),
    RuntimeError("cannot cache function: no locator available"),
    EOFError("Ran out of input"),
]


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch):
    for name, empty in (("_loaded", {}), ("_missing", {}), ("_compiled", set())):
        monkeypatch.setattr(path, name, empty)


def steps():
    layer = torch.nn.Linear(3, 2)
    optimizer = gct.SGD(layer, lr=0.5)
    for _ in range(2):
        layer.weight.grad = torch.tensor([[3.0, 0.0, 0.0], [0.0, 6.0, 0.0]])
        layer.bias.grad = torch.ones(2)
        before = layer.weight.detach().clone()
        optimizer.step()
        moved = (before - layer.weight.detach()) / 0.5
        assert torch.allclose(moved, torch.tensor([[2.0, -1.0, -1.0], [-2.0, 4.0, -2.0]]), atol=1e-6)
    return optimizer


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("when", ["while it is imported", "while it is compiled"])
def test_a_fault_is_said_once_and_the_step_is_taken(monkeypatch, fault, when):
    def broken(*arguments):
        raise fault

    if when == "while it is imported":
        monkeypatch.setattr(path, "importlib", SimpleNamespace(import_module=broken))
    else:
        monkeypatch.setattr(pytest.importorskip("gc_torch.kernels_cpu"), "compile_for", broken)
    with pytest.warns(gct.GCWarning, match="PyTorch's own step is used") as warned:
        optimizer = steps()
    assert len(warned) == 1
    assert str(fault) in repr(optimizer)


def test_an_absent_compiler_is_no_fault_and_stands_in_the_repr(monkeypatch):
    def absent(page):
        raise ModuleNotFoundError("No module named 'numba'", name="numba")

    monkeypatch.setattr(path, "importlib", SimpleNamespace(import_module=absent))
    assert "pip install numba makes it faster" in repr(steps())

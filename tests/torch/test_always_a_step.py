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
    OSError(28, "No space left on device"),
]


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch):
    for name, empty in (("_loaded", {}), ("_absent", {}), ("_compiled", set())):
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
        kernels_cpu = pytest.importorskip("gc_torch.kernels_cpu", exc_type=Exception)
        monkeypatch.setattr(kernels_cpu, "compile", broken)
    with pytest.warns(gct.GCWarning, match="PyTorch's own steps carry GC") as warned:
        optimizer = steps()
    assert len(warned) == 1
    assert "pip install --force-reinstall numba llvmlite may mend it" in repr(optimizer)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (ModuleNotFoundError("No module named 'numba'", name="numba"), "pip install numba would make it faster"),
        (NotImplementedError("this build of PyTorch has no GOMP_parallel"), "no kernel: this build of PyTorch has no"),
    ],
)
def test_what_is_no_fault_is_no_warning_and_stands_in_the_repr(monkeypatch, fault, said):
    def absent(page):
        raise fault

    monkeypatch.setattr(path, "importlib", SimpleNamespace(import_module=absent))
    assert said in repr(steps())

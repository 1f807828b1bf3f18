"""gc_torch's optimizers with their Triton kernel under the conformance suite, in Triton's interpreter."""

import pytest

import gc_conformance
from benchmarks import gpu_ports
from gc_torch import path


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's NumPy, about NaN
def test_the_suite(monkeypatch):
    monkeypatch.setattr(gpu_ports, "DEVICE", "cpu")
    monkeypatch.setattr(path, "KERNELS", path.KERNELS)  # is put back after `force`
    port = gpu_ports.TorchPort("triton")
    taken = []
    steps = path.importlib.import_module("gc_torch.kernels_gpu").Steps
    take = steps.take
    monkeypatch.setattr(steps, "take", lambda *args: taken.append(1) or take(*args))
    result = gc_conformance.run(port, profile="quick", chapters=["sgdm", "adam", "optimizer"])
    assert [(one.id, one.message) for one in result.failed] == []
    assert {one.id for one in result.not_provided} == {
        "sgdm.decoupled_decay", "sgdm.gradient_is_centralized", "sgdm.no_momentum",  # torch.optim.SGD has no such thing
    }  # fmt: skip
    assert len(taken) > sum(one.examples for one in result.passed) / 2, "hardly any step was the kernel's"

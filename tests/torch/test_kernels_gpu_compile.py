"""The Triton kernel compiles for GPUs where there is none, and into what it should."""

import importlib.metadata
import json
import os
import subprocess
import sys

import pytest
import torch

from gc_core import versions
from gc_torch import path


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    if versions.release(importlib.metadata.version("triton")) < (3, 3):
        pytest.skip("Triton's compiler took other arguments before 3.3, with PyTorch 2.7")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, "-m", "tests.torch.compile_gpu", "FEW"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_all_of_them_compile(reports):
    assert len(reports) == 6


def test_nothing_is_spilled_and_two_programs_fit_a_processor(reports):
    for one in reports:
        assert one["stack"] == 0 or "float64" in one["name"], one
        if "float32 aligned" in one["name"] or "bfloat16 aligned" in one["name"]:
            assert one["registers"] <= 128, one  # of 65,536, for 256 threads of a program


def test_aligned_blocks_are_read_and_written_16_bytes_at_a_time(reports):
    for one in reports:
        wide = {name: number for name, number in one["accesses"].items() if ".v4.b32" in name or ".v2.b64" in name}
        narrow = sum(one["accesses"].values()) - sum(wide.values()) - one["accesses"].get("ld.global.b64", 0)
        if " aligned" in one["name"]:
            assert sum(wide.values()) > 10
            assert narrow <= 4, one  # a step, lr, found_inf and grad_scale
        elif "unaligned" in one["name"]:
            assert not wide, one  # a false hint would fault


def test_float32_is_computed_in_float32(reports):
    for one in reports:
        assert (one["double precision"] > 0) == ("float64" in one["name"]), one


def test_only_for_gpus_that_it_is_compiled_for(monkeypatch):
    group = {"gc_on": "gradient", "weight_decay": 0.0}
    path._is_known.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert path.kernels(group, torch.device("cuda", 0)) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, hip, known in (
        ((7, 5), None, False),
        ((8, 0), None, True),
        ((9, 0), None, True),
        ((9, 0), "6", False),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        monkeypatch.setattr(torch.version, "hip", hip)
        path._is_known.cache_clear()
        assert (path.kernels(group, torch.device("cuda", 0)) is not None) == known
    path._is_known.cache_clear()


def test_gc_torch_needs_no_triton():
    """Where Triton is not installed PyTorch's own steps are taken."""
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, gc_torch\n"
        "from gc_torch import path\n"
        "group = {'gc_on': 'gradient', 'weight_decay': 0.0}\n"
        "assert path.kernels(group, torch.device('cuda')) is None\n"
        "layer = torch.nn.Linear(3, 2); layer(torch.ones(1, 3)).sum().backward(); gc_torch.AdamW(layer).step()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

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
    assert [one["name"] for one in reports].count("count") == 2 and len(reports) == 14


def test_nothing_is_spilled_and_two_programs_fit_where_elements_are_read_once(reports):
    for one in reports:
        assert one["spilled"] == 0 or one["dtype"] == "float64", one
        assert one["registers"] <= 128, one  # of 65,536, for 512 threads: 16 warps a processor at least
        if one["name"] == "alone":
            assert one["registers"] <= 64, one  # 32


def test_tensors_are_read_and_written_16_bytes_at_a_time(reports):
    for one in reports:
        wide = sum(number for form, number in one["accesses"].items() if ".v4.b32" in form or ".v2.b64" in form)
        narrow = sum(one["accesses"].values()) - wide
        if "apart" in one["name"]:
            assert not wide, one  # a false hint would fault
        elif one["name"] == "adam aligned" and one["dtype"] == "float32":
            # An entry of the list, eight numbers of the table, two corrections.
            assert wide > 20 and narrow <= 11, one


def test_float32_is_computed_in_float32(reports):
    for one in reports:
        assert (one["double"] > 0) == (one["dtype"] == "float64"), one


def test_products_and_sums_are_joined_only_where_it_is_written(reports):
    """A compiler that joined others would do so differently with every set of kinds, and so would the bits."""
    neither, flat, rows, both = (one["fused"] for one in reports if one["name"] == "alone")
    elements = 4096 // 512
    assert neither == 0 and flat == rows == 4 * elements  # of each: two moments, the denominator, the weight
    assert both == flat + rows


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

"""What is computed of steps on a GPU: the file is what the code gives, and no kernel falls behind its row in it."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("triton")

from benchmarks import gpu_static, harness
from benchmarks.gpu_speed import WORKLOADS

# A few cases, compiled anew: one line of JSON each.
FEW = """
import json, sys
from benchmarks import gpu_static
from benchmarks.gpu_compile import step
from benchmarks.gpu_speed import WORKLOADS
known = {}
def compiled(*key):
    options, kinds, dtype, capability = key
    if key not in known:
        known[key] = step(options, kinds, dtype, capability=capability)
    return known[key]
for model, dtype, rule, place in json.loads(sys.argv[1]):
    found = gpu_static.case(model, WORKLOADS[model](), dtype, rule, place, compiled)
    print(json.dumps({**found, "missed": gpu_static.missed(found)}), flush=True)
"""
CHOSEN = [
    ("2,000 tensors of 1,000", "float32", "AdamW", "gradient"),
    ("2,000 tensors of 1,000", "bfloat16", "SGD", "update"),
    ("GPT-2 124M", "float32", "AdamW", "update"),
]


@pytest.fixture(scope="module")
def kept():
    found = json.loads((harness.RESULTS / f"{gpu_static.NAME}.json").read_text(encoding="utf-8"))
    return {tuple(one[name] for name in ("model", "dtype", "rule", "gc_on")): one for one in found["cases"]}


@pytest.fixture(scope="module")
def now(tmp_path_factory):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")), "GC_DEVICE": "cuda"}
    command = [sys.executable, "-c", FEW, json.dumps(CHOSEN)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_model_dtype_rule_and_place_is_there(kept):
    assert set(kept) == {(model, *rest) for model, _, *rest in gpu_static.wanted([*WORKLOADS])}
    assert set(WORKLOADS) == {"ResNet-50", "ViT-B/16", "GPT-2 124M", "1B", "2,000 tensors of 1,000"}


def test_what_misses_a_goal_says_which_and_why(kept):
    for one in kept.values():
        assert one["missed"] == gpu_static.missed(one)
        assert one["spilled"] == 0 and one["warps a multiprocessor"] >= gpu_static.WARPS
        assert one["launches"] == (1 if one["rule"] == "SGD" else 2)
        assert np.isclose(sum(block["share of elements"] for block in one["blocks"]), 1, atol=1e-3)


def test_no_kernel_falls_behind_its_row(now, kept):
    """Spills, narrow loads, more bytes or many more instructions than the file says: also with another compiler."""
    assert len(now) == len(CHOSEN)
    for one in now:
        row = kept[one["model"], one["dtype"], one["rule"], one["gc_on"]]
        assert one["spilled"] == one["spilled sm_80"] == 0
        assert one["bytes an element"] <= row["bytes an element"] * 1.001
        assert one["issue slots"] <= 1.1 * row["issue slots"]
        for block, known in zip(one["blocks"], row["blocks"], strict=True):
            assert block["kind"] == known["kind"] and block["narrow accesses"] <= known["narrow accesses"]


def wrong(**changes):
    """A case that reaches every goal, but for the changes."""
    block = {"kind": "FLAT", "issue slots": 0.2, "share of elements": 1.0, "narrow accesses": 0, "bytes an element": 28}
    one = {"spilled": 0, "spilled sm_80": 0, "warps a multiprocessor": 32, "dtype": "float32", "fewest bytes": 28}
    return {**one, **{k: v for k, v in changes.items() if k in one},
            "blocks": [{**block, **{k.replace("_", " "): v for k, v in changes.items() if k.replace("_", " ") in block}}]}  # fmt: skip # noqa: E501


@pytest.mark.parametrize(
    ("change", "says"),
    [({"spilled": 8}, "spills"), ({"warps a multiprocessor": 8}, "warps"), ({"issue_slots": 0.7}, "issue slots"),
     ({"narrow_accesses": 4}, "less than 16 bytes"), ({"bytes_an_element": 32}, "second time")],
)  # fmt: skip
def test_each_goal_can_be_missed(change, says):
    assert gpu_static.missed(wrong()) == []
    (found,) = gpu_static.missed(wrong(**change))
    assert says in found


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="geometries are PyTorch's")
def test_elements_are_counted_as_they_are():
    for model, make in WORKLOADS.items():
        rows = gpu_static.rows_of(make())
        entries = gpu_static.list_of_work.work(rows, 4)
        assert len(np.unique(entries >> 32 & 0xFFFFFF)) == len(rows), model
        assert sum(one.numbers for one in make()) == rows[:, gpu_static.table.OUTER : -1].prod(1).sum()

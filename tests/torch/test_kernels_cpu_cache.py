"""The process that compiles the kernel, and those that load what it has cached."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("numba")

# Rows, columns and strips; sizes that fill vectors, and that leave some numbers over.
STEPS = """
import hashlib, sys, torch
import gc_torch as gct
bits = hashlib.sha256()
for gc_on, axes, shape in (("gradient", 1, (64, 1000)), ("gradient", 0, (1000, 61)), ("update", 1, (70, 333))):
    model = torch.nn.Linear(shape[1], shape[0], bias=False)
    generator = torch.Generator().manual_seed(0)
    model.weight.data = torch.randn(shape, generator=generator)
    optimizer = gct.SGD(model, lr=0.1, momentum=0.9, weight_decay=0.01, dampening=0.3, gc_on=gc_on,
                        plan=gct.plan(model, overrides={"weight": axes}))
    assert "implementation: Numba" in repr(optimizer), optimizer
    for _ in range(3):
        model.weight.grad = torch.randn(shape, generator=generator)
        optimizer.step()
    for x in (model.weight.data, optimizer.state[model.weight]["momentum_buffer"]):
        bits.update(x.numpy().tobytes())
print(bits.hexdigest())
"""


def test_the_bits_are_the_same_fresh_and_cached(tmp_path):
    def run():
        env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout, {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.nbc")}

    fresh, written = run()
    cached, still = run()
    assert written and written == still  # the second has compiled nothing
    assert fresh == cached

    for file in written:  # as after a crash, or on a disk that was full
        file.write_bytes(file.read_bytes()[:1000])
    mended, _ = run()
    assert mended == fresh

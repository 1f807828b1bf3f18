"""The heavy ones, in an environment of their own (make test-all): GC is at work in each, and would be missed."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from examples.tools import check


def test_hf_trainer():
    from examples.tools import hf_trainer

    model, optimizer, losses = hf_trainer.train()
    assert check.left(check.of_torch(model, optimizer.optimizer)) < check.ROUNDING
    assert len(losses) == 6 and np.isfinite(losses).all()
    model, optimizer, _ = hf_trainer.train(lambda model: (torch.optim.AdamW, {"lr": 2e-3}))
    assert check.left(check.of_torch(model, optimizer.optimizer)) > check.FAIR_PART


def test_hf_trainer_without_a_plan_is_wrong_on_gpt2():
    """Its Conv1D is stored (in, out): the shape alone misleads, and its embeddings would be centralized."""
    import gc_torch as gct
    from examples.tools import hf_trainer

    model, optimizer, _ = hf_trainer.train(lambda model: (gct.AdamW, {"lr": 2e-3}))
    assert check.left(check.of_torch(model, optimizer.optimizer)) > check.FAIR_PART


def test_hf_accelerate():
    from examples.tools import hf_accelerate

    model, optimizer, losses = hf_accelerate.train()
    assert check.left(check.of_torch(model, optimizer)) < check.ROUNDING
    assert losses[-1] < losses[0]
    model, optimizer, _ = hf_accelerate.train(lambda model: torch.optim.AdamW(model.parameters(), lr=3e-3))
    assert check.left(check.of_torch(model, optimizer)) > check.FAIR_PART


def test_lightning():
    from examples.tools import lightning_module

    class Plain(lightning_module.Digits):
        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=3e-3)

    model, optimizer, losses = lightning_module.train()
    assert check.left(check.of_torch(model, optimizer)) < check.ROUNDING
    assert losses[-1] < losses[0]
    model, optimizer, _ = lightning_module.train(Plain)
    assert check.left(check.of_torch(model, optimizer)) > check.FAIR_PART


KERAS = """
import keras, numpy as np
from examples.tools import check, keras_fit

def moments(optimizer):
    axes = {(3, 3, 1, 8): (0, 1, 2), (3, 3, 4, 8): (0, 1, 3), (256, 10): 0}  # Conv2D, Conv2DTranspose, Dense
    kernels = [np.asarray(keras.ops.convert_to_numpy(m)) for m in optimizer._momentums if m.ndim > 1]
    assert sorted(kernel.shape for kernel in kernels) == sorted(axes)
    return [(kernel, axes[kernel.shape]) for kernel in kernels]

model, optimizer, losses = keras_fit.train()
model.save("model.keras")
again = keras.saving.load_model("model.keras")
for one in (model, again):
    one.fit(np.ones((32, 64), "float32"), np.zeros(32, int), batch_size=32, shuffle=False, verbose=0)
assert all((a == b).all() for a, b in zip(model.get_weights(), again.get_weights()))
assert check.left(moments(optimizer)) < check.ROUNDING
assert losses[-1] < losses[0]
_, optimizer, _ = keras_fit.train(lambda model: keras.optimizers.AdamW(3e-3))
assert check.left(moments(optimizer)) > check.FAIR_PART
print("passed on", keras.backend.backend())
"""


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_keras(backend, tmp_path):
    path = os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", KERAS], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout.strip().endswith(f"passed on {backend}"), run.stdout + run.stderr


def test_compiled_with_inductor():
    from examples.tools import compiled

    model, optimizer, losses = compiled.train()
    assert check.left(check.of_torch(model, optimizer)) < check.ROUNDING
    assert losses[-1] < losses[0]


FSDP2 = """
import sys
import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from examples.tools import hf_accelerate

# Accelerate would take FSDP on accelerators only; what it then does with a model and its optimizer is the same here.
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="no_wrap", reshard_after_forward=True)
accelerator.state.distributed_type, accelerator.state.fsdp_plugin = DistributedType.FSDP, plugin

model, optimizer, losses = hf_accelerate.train(accelerator=accelerator)
rows = [row for row in optimizer.plan.rows if row.axes is not None]
parameters = dict(model.named_parameters())
moments = [(optimizer.state[parameters[row.name]]["exp_avg"].full_tensor(), row.axes) for row in rows]
weights = {name: p.full_tensor() for name, p in parameters.items()}
torch.save({"weights": weights, "moments": moments}, sys.argv[1])
torch.distributed.destroy_process_group()  # else its threads may outlive the interpreter
"""


def test_accelerate_with_fsdp2_on_two_processes(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])  # free, and a moment later ours
    shared = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "ACCELERATE_USE_CPU": "true", "ACCELERATE_USE_FSDP": "true",
    }  # fmt: skip
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", FSDP2, tmp_path / f"{rank}.pt"],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [worker.communicate(timeout=300)[1] for worker in workers]
    assert not any(worker.returncode for worker in workers), "\n".join(errors)
    saved = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for found in saved:
        assert len(found["moments"]) == 2
        assert check.left((moment.numpy(), axes) for moment, axes in found["moments"]) < check.ROUNDING
    assert all(torch.equal(saved[0]["weights"][name], saved[1]["weights"][name]) for name in saved[0]["weights"])

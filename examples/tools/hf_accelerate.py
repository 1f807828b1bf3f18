"""Hugging Face Accelerate.

    python -m examples.tools.hf_accelerate

For GC the optimizer changes, and nothing else. `accelerate launch` runs the same lines on many devices. With FSDP2 it
gives the optimizer sharded parameters in place of its own, and the plan follows them.
"""

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gc_torch as gct
from examples.tools.digits import batches


def make_optimizer(model):
    return gct.AdamW(model, lr=3e-3)  # was: torch.optim.AdamW(model.parameters(), lr=3e-3)


def train(make_optimizer=make_optimizer, accelerator=None):
    torch.manual_seed(0)
    accelerator = accelerator or Accelerator(gradient_accumulation_steps=2)
    model = nn.Sequential(nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 10))
    optimizer = make_optimizer(model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.5)
    ((images, labels),) = batches(512, 1)
    data = DataLoader(TensorDataset(torch.from_numpy(images), torch.from_numpy(labels)), batch_size=32)
    model, optimizer, data, schedule = accelerator.prepare(model, optimizer, data, schedule)

    losses = []
    for x, y in data:
        with accelerator.accumulate(model):
            loss = nn.functional.cross_entropy(model(x), y)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return model, optimizer.optimizer, losses


if __name__ == "__main__":
    _, _, losses = train()
    print(f"loss {losses[0]:.2f} → {losses[-1]:.2f}")

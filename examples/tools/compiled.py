"""torch.compile around the model and around the step.

    python -m examples.tools.compiled

For GC the optimizer changes, and nothing else. A learning rate that is a tensor may change without another compilation.
"""

import torch
from torch import nn

import gc_torch as gct
from examples.tools.digits import batches


def make_optimizer(model):
    return gct.AdamW(model, lr=torch.tensor(3e-3))  # was: torch.optim.AdamW(model.parameters(), lr=torch.tensor(3e-3))


def train(make_optimizer=make_optimizer, backend="inductor"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 10))
    optimizer = make_optimizer(model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)

    @torch.compile(backend=backend)
    def loss_of(images, labels):
        return nn.functional.cross_entropy(model(images), labels)

    @torch.compile(backend=backend)
    def update():
        optimizer.step()

    losses = []
    for images, labels in batches(64, 20):
        optimizer.zero_grad()
        loss = loss_of(torch.from_numpy(images), torch.from_numpy(labels))
        loss.backward()
        update()
        schedule.step()
        losses.append(loss.item())
    return model, optimizer, losses


if __name__ == "__main__":
    _, _, losses = train()
    print(f"loss {losses[0]:.2f} → {losses[-1]:.2f}")

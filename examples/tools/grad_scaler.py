"""float16 with a GradScaler: steps whose gradients overflow are skipped, parameters and state as they were.

    python -m examples.tools.grad_scaler

For GC the optimizer changes, and nothing else.
"""

import torch
from torch import nn

import gc_torch as gct
from examples.tools.digits import batches


def make_optimizer(model):
    return gct.SGD(model, lr=0.1, momentum=0.9)  # was: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train(make_optimizer=make_optimizer, scale=2.0**20):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = make_optimizer(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)  # too large at first: it halves until nothing overflows
    losses, skipped = [], []

    for images, labels in batches(64, 20):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = nn.functional.cross_entropy(model(torch.from_numpy(images)), torch.from_numpy(labels))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        before = scaler.get_scale()
        scaler.update()
        losses.append(loss.item())
        skipped.append(scaler.get_scale() < before)
    return model, optimizer, losses, skipped


if __name__ == "__main__":
    _, _, losses, skipped = train()
    print(f"loss {losses[0]:.2f} → {losses[-1]:.2f}, {sum(skipped)} of {len(skipped)} steps skipped")

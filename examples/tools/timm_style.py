"""A loop as timm's: mixed precision, an average of the weights (EMA), clipping, accumulation, a schedule by update.

    python -m examples.tools.timm_style

For GC the optimizer changes, and nothing else.
"""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import gc_torch as gct
from examples.tools.digits import batches


def make_optimizer(model):
    groups = gct.param_groups(model, weight_decay=0.05)
    return gct.AdamW(groups, lr=2e-3, plan=gct.plan(model))  # was: torch.optim.AdamW(groups, lr=2e-3)


ACCUMULATED, UPDATES = 2, 12


def train(make_optimizer=make_optimizer):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=16, bias=False),
        nn.Conv2d(16, 32, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = make_optimizer(model)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=UPDATES)
    losses = []

    for i, (images, labels) in enumerate(batches(32, UPDATES * ACCUMULATED)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(torch.from_numpy(images)), torch.from_numpy(labels))
        (loss / ACCUMULATED).backward()
        losses.append(loss.item())
        if (i + 1) % ACCUMULATED == 0:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # the gradient before GC; see docs/tools.md
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            average.update_parameters(model)
    return model, optimizer, losses


if __name__ == "__main__":
    _, optimizer, losses = train()
    print(optimizer.plan)
    print(f"loss {losses[0]:.2f} → {losses[-1]:.2f}")

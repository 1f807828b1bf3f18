"""A character-level transformer: the model, its training, and bits per character."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

import gc_torch as gct
from examples.evidence.data import Letters
from examples.evidence.settings import Text

MOMENTS = 15  # at which training is looked at, from the first step on
SOME = 100  # windows of the validation text that are looked at while training; at its end it is all of them
WARM_UP = 100  # steps


class Layer(nn.Module):
    """Attention to what came before, then two linear layers; each behind a layer normalization, beside a shortcut."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(n, length, width))
        return x + self.down(gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Radford et al.'s GPT, small; weights begin at deviation 0.02, those that end a branch at 0.02/√(2·layers)."""

    def __init__(self, letters: int, context: int, layers: int, width: int, heads: int):
        super().__init__()
        self.letter, self.position = nn.Embedding(letters, width), nn.Embedding(context, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, letters)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                at_end = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if at_end else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = self.letter(x) + self.position.weight[: x.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def run(setting: Text, seed: int, data: Letters) -> dict[str, Any]:
    """Train once."""
    torch.manual_seed(seed)
    model = Transformer(len(data.alphabet), setting.context, setting.layers, setting.width, setting.heads)
    optimizer = optimizer_of(model, setting)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, setting.steps))
    rng = np.random.default_rng([seed, 2])
    moments = {round(i * setting.steps / MOMENTS) for i in range(MOMENTS)}
    found: dict[str, Any] = {"moments": [], "watched_bits": [], "train_bits": [], "share": {}}
    total, since = 0.0, 0
    for step in range(setting.steps):
        starts = rng.integers(0, len(data.train) - setting.context, setting.batch)
        x, y = windows(data.train, starts, setting.context)
        optimizer.zero_grad()
        loss = cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        if step in moments:
            found["moments"].append(step)
            found["watched_bits"].append(bits(model, data.test, setting.context, SOME))
            for row in gct.report(model).rows:
                found["share"].setdefault(row.name.removesuffix(".weight"), []).append(row.share)
        optimizer.step()
        schedule.step()
        total, since = total + loss.item() / math.log(2), since + 1
        if step + 1 in moments or step + 1 == setting.steps:
            found["train_bits"].append(total / since)
            total, since = 0.0, 0
    found["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    found["test_bits"] = bits(model, data.test, setting.context)
    return found


def optimizer_of(model: Transformer, setting: Text) -> gct.AdamW:
    """AdamW with decay on matrices alone; GC on linear layers, and on embeddings where the setting says so."""
    overrides = {"letter.weight": 1, "position.weight": 1} if setting.embeddings else None
    return gct.AdamW(
        gct.param_groups(model, weight_decay=setting.decay),
        lr=setting.lr,
        betas=(0.9, 0.99),
        gc_on=None if setting.gc == "off" else setting.gc,
        plan=gct.plan(model, overrides),
    )


def rate(step: int, steps: int) -> float:
    """Up in a straight line, then down along a cosine to a tenth."""
    warm_up = min(WARM_UP, steps // 10 + 1)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.55 + 0.45 * math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))


def windows(text: np.ndarray, starts: np.ndarray, context: int) -> tuple[Tensor, Tensor]:
    """Characters, and those that follow them."""
    chosen = torch.from_numpy(text[starts[:, None] + np.arange(context + 1)])
    return chosen[:, :-1], chosen[:, 1:]


@torch.no_grad()
def bits(model: nn.Module, text: np.ndarray, context: int, some: int | None = None) -> float:
    """Mean bits per character over windows side by side: all of the text, or some of it spread evenly."""
    starts = np.arange(0, len(text) - context, context)
    if some is not None:
        starts = starts[:: max(1, len(starts) // some)]
    total = 0.0
    for i in range(0, len(starts), 64):
        x, y = windows(text, starts[i : i + 64], context)
        total += float(cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum"))
    return total / (len(starts) * context) / math.log(2)

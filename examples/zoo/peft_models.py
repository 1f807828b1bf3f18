"""Adapters of PEFT, around a small network of a linear layer, a convolution and an embedding."""

from collections.abc import Iterator
from typing import Any

import peft
import torch
from torch import nn

from examples.zoo.model import Model


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.first, self.second = nn.Linear(8, 12), nn.Linear(12, 8)
        self.conv = nn.Conv1d(8, 6, 3, padding=1)

    def forward(self, ids):
        x = self.second(self.first(self.table(ids)).relu())
        return self.conv(x.mT)


LINEAR = ["first", "second"]
ADAPTERS: dict[str, Any] = {
    "LoRA": lambda: peft.LoraConfig(r=2, target_modules=LINEAR),
    "LoRA, convolution and embedding": lambda: peft.LoraConfig(r=2, target_modules=[*LINEAR, "conv", "table"]),
    "DoRA": lambda: peft.LoraConfig(r=2, target_modules=LINEAR, use_dora=True),
    "rsLoRA": lambda: peft.LoraConfig(r=2, target_modules=LINEAR, use_rslora=True),
    "AdaLoRA": lambda: peft.AdaLoraConfig(init_r=2, target_r=2, total_step=10, target_modules=LINEAR),
    "LoHa": lambda: peft.LoHaConfig(r=2, target_modules=LINEAR),
    "LoKr": lambda: peft.LoKrConfig(r=2, target_modules=LINEAR),
    "VeRA": lambda: peft.VeraConfig(r=2, target_modules=["first"]),
    "IA3": lambda: peft.IA3Config(target_modules=LINEAR, feedforward_modules=["second"]),
    "OFT": lambda: peft.OFTConfig(r=2, oft_block_size=0, target_modules=LINEAR),
    "BOFT": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=LINEAR),
    "HRA": lambda: peft.HRAConfig(r=2, target_modules=LINEAR),
    "FourierFT": lambda: peft.FourierFTConfig(n_frequency=4, target_modules=LINEAR),
    "VBLoRA": lambda: peft.VBLoRAConfig(r=2, num_vectors=8, vector_length=4, target_modules=LINEAR),
    "LN tuning": lambda: peft.LNTuningConfig(target_modules=LINEAR),
    "Bone": lambda: peft.BoneConfig(r=2, target_modules=LINEAR),
    "RandLoRA": lambda: peft.RandLoraConfig(r=2, target_modules=LINEAR),
    "C3A": lambda: peft.C3AConfig(block_size=4, target_modules=LINEAR),
}


def models() -> Iterator[Model]:
    for name, config in ADAPTERS.items():
        build = lambda config=config: peft.get_peft_model(Small(), config()).eval()  # noqa: E731
        yield Model("PEFT", name, build, lambda model: [(torch.arange(10).view(2, 5),)])

"""Lightning.

    python -m examples.tools.lightning_module

For GC `configure_optimizers` changes, and nothing else.
"""

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gc_torch as gct
from examples.tools.digits import batches


class Digits(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 10))
        self.losses = []

    def configure_optimizers(self):
        optimizer = gct.AdamW(self, lr=3e-3)  # was: torch.optim.AdamW(self.parameters(), lr=3e-3)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)]

    def training_step(self, batch, _):
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.losses.append(loss.item())
        return loss


def train(module=Digits):
    torch.manual_seed(0)
    ((images, labels),) = batches(512, 1)
    data = DataLoader(TensorDataset(torch.from_numpy(images), torch.from_numpy(labels)), batch_size=32)
    model = module()
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", gradient_clip_val=1.0, accumulate_grad_batches=2, precision="bf16-mixed",
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    return model, trainer.optimizers[0], model.losses


if __name__ == "__main__":
    _, _, losses = train()
    print(f"loss {losses[0]:.2f} → {losses[-1]:.2f}")

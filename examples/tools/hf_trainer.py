"""Hugging Face's Trainer, with a small GPT-2 that reads a digit's pixels as 64 tokens.

    python -m examples.tools.hf_trainer

For GC one argument is added: the class of the optimizer with its learning rate, and the plan. Parameter groups, decay,
schedule, clipping and checkpoints are Trainer's, as ever.
"""

import tempfile

import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, Trainer, TrainingArguments

import gc_torch as gct
from examples.tools.digits import batches


def choose_optimizer(model):
    return gct.AdamW, {"plan": gct.plan(model), "lr": 2e-3}


def train(choose_optimizer=choose_optimizer):
    torch.manual_seed(0)
    ((images, labels),) = batches(256, 1)
    data = [
        {"input_ids": torch.from_numpy(image * 16).long(), "labels": int(label)}
        for image, label in zip(images, labels, strict=True)
    ]
    config = GPT2Config(
        vocab_size=18, n_positions=64, n_embd=16, n_layer=1, n_head=2, num_labels=10,
        bos_token_id=17, eos_token_id=17, pad_token_id=17,
    )  # fmt: skip
    model = GPT2ForSequenceClassification(config)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=6, per_device_train_batch_size=16, gradient_accumulation_steps=2, weight_decay=0.01,
            max_grad_norm=1.0, lr_scheduler_type="cosine", warmup_steps=2, logging_steps=1, report_to=[],
            disable_tqdm=True, use_cpu=True, save_strategy="no", dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=data, optimizer_cls_and_kwargs=choose_optimizer(model))
        trainer.train()
    return model, trainer.optimizer, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    train()

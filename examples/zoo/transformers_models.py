"""Every architecture of transformers that builds at a small size from its configuration, and runs on a short batch."""

from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto import modeling_auto

from examples.zoo.model import Model

# Names under which configurations keep sizes, and small values that go together.
SMALL = {
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32, "embed_dim": 32, "hidden_dim": 32, "embedding_size": 32,
    "emb_dim": 32, "decoder_hidden_size": 32, "encoder_hidden_size": 32, "attention_hidden_size": 32,
    "intermediate_size": 48, "d_ff": 48, "ffn_dim": 48, "n_inner": 48, "d_inner": 48, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "mlp_dim": 48,
    "num_hidden_layers": 2, "n_layer": 2, "num_layers": 2, "n_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_decoder_layers": 2, "num_encoder_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "num_heads": 4, "n_heads": 4, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "d_kv": 8, "attention_head_size": 8,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_topk": 2,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
    "vocab_size": 128, "max_position_embeddings": 64, "n_positions": 64, "image_size": 32, "patch_size": 8,
    "num_channels": 3, "num_mel_bins": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "num_labels": 3, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "state_size": 8, "projection_dim": 16,
}  # fmt: skip


def models() -> Iterator[Model]:
    """One for each type of model that AutoModel knows."""
    for kind in modeling_auto.MODEL_MAPPING_NAMES:
        yield Model("transformers", kind, lambda kind=kind: build(kind), batch)


def build(kind: str) -> nn.Module:
    config = transformers.AutoConfig.for_model(kind)
    shrink(config)
    return transformers.AutoModel.from_config(config).eval()


def shrink(config: Any) -> None:
    """Set every size that a configuration, and those in it, has under a known name."""
    for name, value in SMALL.items():
        if type(getattr(config, name, None)) is int:
            try:
                setattr(config, name, value)
            except Exception:  # it is computed from others
                continue
    layers = getattr(config, "layer_types", None)
    if isinstance(layers, list):
        # Some of every kind of layer.
        kinds = list(dict.fromkeys(layers))
        config.layer_types = (kinds * 2)[: max(2, len(kinds))]
        if hasattr(config, "num_hidden_layers"):
            config.num_hidden_layers = len(config.layer_types)
    for value in vars(config).values():
        if isinstance(value, transformers.PretrainedConfig):
            shrink(value)


def batch(model: nn.Module) -> Iterator[Any]:
    """Batches that such a model may take, the likely ones first."""
    ids = torch.arange(3, 15).view(1, 12)
    image = torch.rand(1, 3, 32, 32)
    main = getattr(model, "main_input_name", "input_ids")
    if main == "pixel_values":
        yield {"pixel_values": image}
        yield {"pixel_values": torch.rand(1, 3, 64, 64)}
        yield {"pixel_values": torch.rand(1, 3, 224, 224)}
        yield {"pixel_values": image, "input_ids": ids}
    if main == "input_values":
        yield {"input_values": torch.rand(1, 4000)}
        yield {"input_values": torch.rand(1, 1024, 128)}
    if main == "input_features":
        bins = getattr(model.config, "num_mel_bins", 80)
        yield {"input_features": torch.rand(1, bins, 128), "decoder_input_ids": ids}
        yield {"input_features": torch.rand(1, 128, bins)}
    yield {"input_ids": ids}
    yield {"input_ids": ids, "decoder_input_ids": ids}
    yield {"input_ids": ids, "pixel_values": image}
    yield {"input_ids": ids, "bbox": torch.zeros(1, 12, 4, dtype=torch.long)}

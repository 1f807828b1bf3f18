"""Networks of diffusers at small sizes, from their configurations."""

from collections.abc import Iterator
from typing import Any

import diffusers
import torch

from examples.zoo.model import Model

UNET = dict(
    sample_size=16, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, attention_head_dim=8,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)  # fmt: skip
VAE = dict(block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=8)
TRANSFORMER = dict(num_attention_heads=2, attention_head_dim=8, num_layers=2)
STATES = torch.rand(1, 7, 32)

NETWORKS: dict[str, tuple[dict[str, Any], Any]] = {
    "UNet2DModel": (
        dict(sample_size=16, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
             down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D")),
        (torch.rand(1, 3, 16, 16), torch.tensor([3])),
    ),
    "UNet1DModel": (
        dict(block_out_channels=(32, 64), sample_size=32, extra_in_channels=16),
        (torch.rand(1, 2, 64), torch.tensor([3])),
    ),
    "UNet2DConditionModel": (UNET, (torch.rand(1, 4, 16, 16), torch.tensor([3]), STATES)),
    "UNet3DConditionModel": (
        dict(sample_size=16, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32,
             attention_head_dim=8, down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
             up_block_types=("UpBlock3D", "CrossAttnUpBlock3D")),
        (torch.rand(1, 4, 2, 16, 16), torch.tensor([3]), STATES),
    ),
    "UNetMotionModel": (
        dict(sample_size=16, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32,
             motion_num_attention_heads=2, num_attention_heads=2,
             down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
             up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion")),
        (torch.rand(1, 4, 2, 16, 16), torch.tensor([3]), STATES),
    ),
    "ControlNetModel": (
        dict(block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, attention_head_dim=8,
             down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
             conditioning_embedding_out_channels=(16, 32)),
        (torch.rand(1, 4, 16, 16), torch.tensor([3]), STATES, torch.rand(1, 3, 32, 32)),
    ),
    "AutoencoderKL": ({**VAE, "up_block_types": ("UpDecoderBlock2D",) * 2}, torch.rand(1, 3, 16, 16)),
    "AsymmetricAutoencoderKL": (
        dict(down_block_out_channels=(32, 64), up_block_out_channels=(32, 64), norm_num_groups=8,
             down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2),
        torch.rand(1, 3, 16, 16),
    ),
    "AutoencoderTiny": (
        dict(encoder_block_out_channels=(32, 32), decoder_block_out_channels=(32, 32), num_encoder_blocks=(1, 1),
             num_decoder_blocks=(1, 1)),
        torch.rand(1, 3, 16, 16),
    ),
    "VQModel": ({**VAE, "up_block_types": ("UpDecoderBlock2D",) * 2}, torch.rand(1, 3, 16, 16)),
    "DiTTransformer2DModel": (
        {**TRANSFORMER, "sample_size": 8, "in_channels": 4, "num_embeds_ada_norm": 10},
        dict(hidden_states=torch.rand(1, 4, 8, 8), timestep=torch.tensor([3]), class_labels=torch.tensor([1])),
    ),
    "Transformer2DModel": (
        {**TRANSFORMER, "in_channels": 16, "norm_num_groups": 8, "cross_attention_dim": 32},
        (torch.rand(1, 16, 8, 8), STATES),
    ),
    "PixArtTransformer2DModel": (
        {**TRANSFORMER, "sample_size": 8, "in_channels": 4, "out_channels": 8, "cross_attention_dim": 16,
         "caption_channels": 32, "use_additional_conditions": False},
        dict(hidden_states=torch.rand(1, 4, 8, 8), encoder_hidden_states=STATES, timestep=torch.tensor([3]),
             added_cond_kwargs={"resolution": None, "aspect_ratio": None}),
    ),
    "SD3Transformer2DModel": (
        {**TRANSFORMER, "sample_size": 8, "in_channels": 4, "joint_attention_dim": 32, "caption_projection_dim": 16,
         "pooled_projection_dim": 24, "out_channels": 4, "pos_embed_max_size": 16},
        dict(hidden_states=torch.rand(1, 4, 8, 8), encoder_hidden_states=STATES,
             pooled_projections=torch.rand(1, 24), timestep=torch.tensor([3])),
    ),
    "FluxTransformer2DModel": (
        dict(in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
             joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8)),
        dict(hidden_states=torch.rand(1, 16, 4), encoder_hidden_states=STATES, pooled_projections=torch.rand(1, 32),
             timestep=torch.tensor([0.5]), img_ids=torch.zeros(16, 3), txt_ids=torch.zeros(7, 3),
             guidance=torch.tensor([1.0])),
    ),
    "WanTransformer3DModel": (
        dict(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=32, freq_dim=32,
             ffn_dim=32, num_layers=2, rope_max_seq_len=32),
        dict(hidden_states=torch.rand(1, 4, 2, 8, 8), timestep=torch.tensor([3]), encoder_hidden_states=STATES),
    ),
    "PriorTransformer": (
        dict(num_attention_heads=2, attention_head_dim=8, num_layers=2, embedding_dim=16, num_embeddings=7,
             additional_embeddings=4),
        dict(hidden_states=torch.rand(1, 16), timestep=3, proj_embedding=torch.rand(1, 16),
             encoder_hidden_states=torch.rand(1, 7, 16)),
    ),
}  # fmt: skip


def models() -> Iterator[Model]:
    for name, (options, batch) in NETWORKS.items():
        build = lambda name=name, options=options: getattr(diffusers, name)(**options).eval()  # noqa: E731
        yield Model("diffusers", name, build, lambda model, batch=batch: [batch])

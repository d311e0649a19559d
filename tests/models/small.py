"""The smallest UNets: two levels with every kind of layer, and one level with a transformer in the middle block."""

from __future__ import annotations

from typing import Any

from diffusers import UNet2DConditionModel

from tests.models.tiny import sd15

__all__ = ["one_level_unet", "small_unet"]


def small_unet(**changes: Any) -> UNet2DConditionModel:
    config = {
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 2,
    }
    return sd15(**{**config, **changes})


def one_level_unet(**changes: Any) -> UNet2DConditionModel:
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    return small_unet(**{"block_out_channels": (8,), **blocks, **changes})

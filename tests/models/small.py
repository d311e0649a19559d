"""The smallest UNet that has every kind of layer: two levels, one transformer in each block of the lower one."""

from __future__ import annotations

from typing import Any

from diffusers import UNet2DConditionModel

from tests.models.tiny import sd15

__all__ = ["small_unet"]


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

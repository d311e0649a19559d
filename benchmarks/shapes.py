"""The sizes that the op benchmarks run at: SDXL's levels at 512x1024, UNet batch 2, and random rows for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sige import GatherMap, Geometry, Region, gather_map

BATCH = 2
LEVELS = ((320, 64, 128), (640, 32, 64), (1280, 16, 32))  # C, H, W


@dataclass(frozen=True)
class Level:
    """Random rows of one level with a rectangle of it active, and the gather map of its 3x3 convolution."""

    channels: int
    height: int
    width: int
    map: GatherMap
    dense: Tensor  # [B, C, H, W], channels last
    packed: Tensor  # [B, N, C]
    halo: Tensor  # [B, M, C]
    index: Tensor  # int32 [N, 9]

    @property
    def active(self) -> float:
        return self.map.packed_rows / (self.height * self.width)

    @property
    def name(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"


def rectangle(height: int, width: int, ratio: float) -> Region:
    """A centred rectangle of the image's own shape that covers about `ratio` of it."""
    mask = np.zeros((height, width), dtype=bool)
    h, w = max(round(height * ratio**0.5), 1), max(round(width * ratio**0.5), 1)
    top, left = (height - h) // 2, (width - w) // 2
    mask[top : top + h, left : left + w] = True
    return Region.from_mask(mask, dilation=0)


def level(channels: int, height: int, width: int, ratio: float, dtype: torch.dtype, device: torch.device) -> Level:
    """Random rows of one level with the given share of active positions."""
    region = rectangle(height, width, ratio)
    found = gather_map(region, Geometry.conv3x3(), height, width)
    dense = torch.randn(BATCH, channels, height, width, device=device, dtype=dtype)
    dense = dense.to(memory_format=torch.channels_last)
    rows = dense.permute(0, 2, 3, 1).reshape(BATCH, height * width, channels)
    packed = rows[:, torch.tensor(region.index(height, width), device=device).long()].contiguous()
    halo = rows[:, torch.tensor(found.halo, device=device).long()].contiguous()
    index = torch.tensor(found.index, device=device)
    return Level(channels, height, width, found, dense, packed, halo, index)

"""What packed passes computed at each level of the UNet, small enough to send with every result."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

import sige

__all__ = ["STRIDES", "levels_of"]

STRIDES = (8, 16, 32)  # pixels that a position of each level covers, along each side


def levels_of(region: sige.Region) -> list[dict[str, Any]]:
    """The active positions of each level: rows of bits in base64, the first one highest, without gaps between rows.

    >>> levels_of(sige.Region.full(16, 16))[0]
    {'height': 2, 'width': 2, 'share': 1.0, 'bits': '8A=='}
    """
    height, width = region.image_size
    levels = []
    for size in dict.fromkeys((-(-height // stride), -(-width // stride)) for stride in STRIDES):
        bits = base64.b64encode(np.packbits(region.active(*size)).tobytes()).decode()
        levels.append({"height": size[0], "width": size[1], "share": round(region.ratio(*size), 4), "bits": bits})
    return levels

"""Crop and stitch: what a user without SIGE does to save work. The crop around the mask is edited, and pasted back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.quality.metrics import Mask
from sdxl.edits.edit import edit
from sdxl.edits.result import Result
from sdxl.edits.sampling import Sampling

__all__ = ["crop_and_stitch", "crop_box"]

MARGIN, LEAST, MULTIPLE = 32, 128, 64  # pixels: the margin around the mask, the least side, a side's factor

Box = tuple[int, int, int, int]  # left, top, right, bottom


def crop_box(mask: Mask) -> Box:  # [H, W]
    """The mask's bounding box and a margin, its sides grown to multiples of 64, at least 128; inside the picture.

    A side of the picture that is no multiple of 64 is taken whole where the crop would not fit otherwise.

    >>> mask = np.zeros((256, 256), dtype=bool)
    >>> mask[0:20, 100:180] = True  # 80 wide: 144 with the margin, 192 as a multiple of 64
    >>> crop_box(mask)
    (44, 0, 236, 128)
    """
    top, bottom = _span(np.asarray(mask.any(axis=1)))
    left, right = _span(np.asarray(mask.any(axis=0)))
    return left, top, right, bottom


def _span(touched: Mask) -> tuple[int, int]:  # [side]
    side, inside = len(touched), np.flatnonzero(touched)
    first, last = max(int(inside[0]) - MARGIN, 0), min(int(inside[-1]) + 1 + MARGIN, side)
    length = min(max(-(-(last - first) // MULTIPLE) * MULTIPLE, LEAST), side)
    begin = min(max((first + last - length) // 2, 0), side - length)
    return begin, begin + length


def crop_and_stitch(pipe: Any, image: Image.Image, mask: Mask, sampling: Sampling) -> Result:  # mask: [H, W]
    """The crop, edited dense and pasted back; the model is told the whole picture's size, with which it was trained.

    Its work is a share of the dense edit of the whole picture.
    """
    box = left, top, right, bottom = crop_box(mask)
    size = (image.height, image.width)
    told = replace(sampling, original_size=size, target_size=size)
    inside = edit(pipe, image.crop(box), mask=mask[top:bottom, left:right], sampling=told)
    whole = image.copy()
    whole.paste(inside.image, (left, top))
    return replace(inside, image=whole, counted=replace(inside.counted, dense_size=size))

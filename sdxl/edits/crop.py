"""Crop: an edit of the part of a picture around its mask, painted at the size that a model likes, and put back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
import numpy.typing as npt
from PIL import Image

from sdxl.edits.request import CELL, Request
from sdxl.pictures.images import resize
from sdxl.pictures.masks import Mask
from sdxl.pictures.seams import put_together
from sdxl.pictures.shaping import resize_mask
from sige.sizes import Size

__all__ = ["Crop", "context_box"]

Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom lie outside


@dataclass(frozen=True)
class Crop:
    """A part of a picture, and the request that paints it."""

    whole: Request
    box: Box
    part: Request

    @classmethod
    def of(cls, request: Request) -> Crop:
        """The part around the mask of a request with `only_masked` and a `size`.

        The part's own mask is hard: the soft edge is blended, and the edge matched, once, when the part is put back.
        """
        assert request.image is not None and request.alpha is not None
        assert request.only_masked is not None and request.size is not None
        box = context_box(request.alpha, request.only_masked, request.size)
        left, top, right, bottom = box
        size = _same_area((bottom - top, right - left), request.size)
        mask = resize_mask(request.alpha[top:bottom, left:right], size) > 0
        part = replace(
            request,
            image=resize(request.image.crop(box), *size),
            control=None if request.control is None else resize(request.control.crop(box), *size),
            mask=mask,
            size=None,
            grow=0,
            mask_blur=0,
            match_edge=0,
            only_masked=None,
        )
        return cls(request, box, part)

    def put_back(self, painted: Image.Image) -> Image.Image:
        """The whole picture with the painted part in it; outside the mask it is what it was, bit for bit."""
        whole, (left, top, right, bottom) = self.whole, self.box
        assert whole.image is not None and whole.alpha is not None
        pasted = whole.image.convert("RGB")
        pasted.paste(resize(painted, bottom - top, right - left), (left, top))
        return put_together(whole.image, pasted, whole.alpha, whole.match_edge)


def context_box(
    mask: Mask,  # [H, W], not black
    padding: int,
    shape: Size,
) -> Box:
    """The mask's box with so many pixels around it, widened to the proportions of `shape` where the picture has room.

    >>> mask = np.zeros((100, 100), dtype=np.float32)
    >>> mask[40:50, 40:60] = 1
    >>> context_box(mask, 5, (8, 8))
    (35, 30, 65, 60)
    """
    rows, columns = (_extent(np.asarray(mask.any(axis=axis)), padding) for axis in (1, 0))
    height, width = rows[1] - rows[0], columns[1] - columns[0]
    top, bottom = _widened(rows, round(width * shape[0] / shape[1]), mask.shape[0])
    left, right = _widened(columns, round(height * shape[1] / shape[0]), mask.shape[1])
    return left, top, right, bottom


def _extent(touched: npt.NDArray[np.bool_], padding: int) -> tuple[int, int]:  # [side]
    """The first touched position and the one after the last, with the padding, within the picture."""
    found = np.flatnonzero(touched)
    return max(int(found[0]) - padding, 0), min(int(found[-1]) + 1 + padding, len(touched))


def _widened(extent: tuple[int, int], wanted: int, limit: int) -> tuple[int, int]:
    """The extent, grown to the wanted length on both sides alike, and moved into the picture."""
    low, high = extent
    length = min(max(high - low, wanted), limit)
    low = min(max(low - (length - (high - low)) // 2, 0), limit - length)
    return low, low + length


def _same_area(proportions: Size, size: Size) -> Size:
    """The size of these proportions with as many pixels as `size`, in multiples of 8."""
    ratio, area = proportions[0] / proportions[1], size[0] * size[1]
    height, width = (max(round(side / CELL), 1) * CELL for side in (sqrt(area * ratio), sqrt(area / ratio)))
    return height, width

"""A picture of the active positions of several levels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sige.errors import RegionError
from sige.positions import BoolArray, cover
from sige.sizes import Size

__all__ = ["draw_levels"]

_PANEL, _MARGIN, _CAPTION = 384, 12, 15  # pixels: longer side of a panel, space around it, type size
_PAPER, _INK = (255, 255, 255), (48, 56, 68)
_INACTIVE, _ACTIVE = (226, 231, 237), (242, 112, 60)
_FINEST_GRID = 5  # a cell of fewer pixels shows no grid lines


def draw_levels(
    image_size: Size,  # (H, W): the shape of every panel
    levels: Mapping[Size, BoolArray],  # (h, w) -> active positions [h, w]
) -> Image.Image:
    """Panels side by side, one per level: active positions are coloured, the caption has the level's size and ratio.

    >>> draw_levels((64, 64), {(8, 8): np.ones((8, 8), dtype=bool)}).height
    435
    """
    if not levels:
        raise RegionError("levels: got none, expected at least one (h, w); pass None for the usual four")
    scale = _PANEL / max(image_size)
    height, width = (max(1, round(side * scale)) for side in image_size)
    font = ImageFont.load_default(_CAPTION)
    captions = [f"{h} x {w}   {active.mean():.1%}" for (h, w), active in levels.items()]
    columns = [max(width, int(font.getlength(caption)) + 1) for caption in captions]
    canvas_width = sum(columns) + _MARGIN * (len(columns) + 1)
    canvas = Image.new("RGB", (canvas_width, height + 3 * _MARGIN + _CAPTION), _PAPER)
    draw = ImageDraw.Draw(canvas)
    left = _MARGIN
    for active, caption, column in zip(levels.values(), captions, columns, strict=True):
        canvas.paste(Image.fromarray(_panel(active, height, width)), (left, _MARGIN))
        draw.text((left, height + 2 * _MARGIN), caption, fill=_INK, font=font)
        left += column + _MARGIN
    return canvas


def _panel(active: BoolArray, height: int, width: int) -> npt.NDArray[np.uint8]:  # [height, width, 3]
    # Nearest sampling would lose a one-pixel stroke where the panel is smaller than its level.
    picture = np.where(cover(active, height, width)[..., None], _ACTIVE, _INACTIVE)
    h, w = active.shape
    if min(height / h, width / w) >= _FINEST_GRID:
        rows, columns = np.arange(1, h) * height // h, np.arange(1, w) * width // w
        picture[rows] = (picture[rows] + _PAPER) // 2
        picture[:, columns] = (picture[:, columns] + _PAPER) // 2
    return picture.astype(np.uint8)

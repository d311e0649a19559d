"""What a painted-over picture changes: the part that a model may touch, soft towards its edge."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from sdxl.pictures.masks import Mask, latent_cells

__all__ = ["MARGIN", "changed_alpha"]

MARGIN = 8  # pixels around the changed cells, over which the result fades into the original


def changed_alpha(
    original: npt.NDArray[np.uint8],  # [H, W, 3]
    edited: npt.NDArray[np.uint8],  # [H, W, 3]
) -> Mask:  # [H, W]
    """1 in every cell of 8x8 pixels where the pictures differ, falling to 0 over the margin around.

    >>> original = np.zeros((8, 32, 3), dtype=np.uint8)
    >>> edited = original.copy()
    >>> edited[4, 3] = 255
    >>> changed_alpha(original, edited)[0, [0, 7, 8, 15, 16]].round(2)
    array([1.  , 1.  , 0.89, 0.11, 0.  ], dtype=float32)
    """
    cells = latent_cells((original != edited).any(axis=2).astype(np.float32))
    grown = Image.fromarray(cells.astype(np.uint8))
    alpha = cells.astype(np.float32)
    for _ in range(MARGIN):
        grown = grown.filter(ImageFilter.MaxFilter(3))
        alpha += np.asarray(grown)
    return alpha / np.float32(MARGIN + 1)

"""Shaping: a mask grows, gets a soft edge, or another size."""

from __future__ import annotations

import numpy as np
from PIL import Image

from sdxl.pictures.masks import Mask
from sige.sizes import Size

__all__ = ["feather_mask", "grow_mask", "resize_mask"]


def grow_mask(
    mask: Mask,  # [H, W]
    pixels: int,
) -> Mask:  # [H, W]
    """The mask, larger by so many pixels to every side: each pixel gets the largest value of the square around it.

    >>> grow_mask(np.array([[0, 0, 0.5, 0]], dtype=np.float32), 1)
    array([[0. , 0.5, 0.5, 0.5]], dtype=float32)
    """
    return _largest_along(_largest_along(mask, pixels, 0), pixels, 1) if pixels else mask


def _largest_along(mask: Mask, pixels: int, axis: int) -> Mask:  # [H, W]
    """The largest value within the distance along one axis. Windows of twice the width are made of two."""
    padding = [(0, 0), (0, 0)]
    padding[axis] = (pixels, pixels)
    found = np.moveaxis(np.pad(mask, padding), axis, 0)  # beyond the picture: black
    width, wanted = 1, 2 * pixels + 1
    while width < wanted:
        step = min(width, wanted - width)
        found = np.maximum(found[:-step], found[step:])
        width += step
    return np.moveaxis(found, 0, axis)


def feather_mask(
    mask: Mask,  # [H, W]
    pixels: int,
) -> Mask:  # [H, W]
    """The mask with an edge that rises inwards over so many pixels; what was black stays black.

    At the picture's border there is no edge. A stroke that is thinner than the edge stays, in grey.

    >>> feather_mask(np.array([[0, 1, 1, 1, 1]], dtype=np.float32), 2).round(2)
    array([[0.  , 0.33, 0.67, 1.  , 1.  ]], dtype=float32)
    """
    if not pixels or not mask.any():
        return mask
    top, left, bottom, right = _touched(mask)
    inside = mask[top:bottom, left:right]  # the rest is black
    smaller, total = inside, inside.astype(np.float64)
    for _ in range(pixels):
        smaller = _shrunk(smaller)
        total += smaller
    soft = np.zeros_like(mask)
    soft[top:bottom, left:right] = total / (pixels + 1)
    return soft


def _shrunk(mask: Mask) -> Mask:  # [H, W]
    """The mask, smaller by one pixel at every edge: the smallest of each pixel and its eight neighbours."""
    padded = np.pad(mask, 1, mode="edge")
    rows = np.minimum(np.minimum(padded[:-2], padded[1:-1]), padded[2:])
    return np.minimum(np.minimum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


def _touched(mask: Mask) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of the box of all pixels that are not black, with a margin of one."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    top, left = max(int(rows[0]) - 1, 0), max(int(columns[0]) - 1, 0)
    return top, left, int(rows[-1]) + 2, int(columns[-1]) + 2


def resize_mask(
    mask: Mask,  # [H, W]
    size: Size,
) -> Mask:  # [*size]
    """The mask at the size; shrinking averages, so that thin strokes stay as grey, and growing keeps edges hard."""
    if mask.shape == size:
        return mask
    resized = Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.BOX)
    return np.asarray(resized).clip(0, 1)

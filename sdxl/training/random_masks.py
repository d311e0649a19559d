"""Random masks to learn inpainting from: strokes, rectangles, the whole picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

__all__ = ["random_mask"]

Mask = npt.NDArray[np.bool_]  # [H, W]; true is painted anew
_WHOLE, _STROKES = 0.15, 0.55  # shares of the masks; the rest are rectangles


def random_mask(rng: np.random.Generator, height: int, width: int) -> Mask:
    """A random mask that is never empty.

    >>> bool(random_mask(np.random.default_rng(0), 64, 64).any())
    True
    """
    kind = rng.random()
    if kind < _WHOLE:
        return np.ones((height, width), dtype=bool)
    image = Image.new("L", (width, height))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 4))):
        (_stroke if kind < _WHOLE + _STROKES else _rectangle)(rng, height, width, pen)
    return np.asarray(image) > 0


def _rectangle(rng: np.random.Generator, height: int, width: int, pen: ImageDraw.ImageDraw) -> None:
    tall, wide = (max(int(side * rng.uniform(0.1, 0.55)), 1) for side in (height, width))
    top, left = (int(rng.integers(0, side - part + 1)) for side, part in ((height, tall), (width, wide)))
    pen.rectangle((left, top, left + wide - 1, top + tall - 1), fill=255)


def _stroke(rng: np.random.Generator, height: int, width: int, pen: ImageDraw.ImageDraw) -> None:
    """Draws the stroke of a brush that turns on its way."""
    side = min(height, width)
    breadth = max(int(side * rng.uniform(0.05, 0.2)), 1)
    x, y, heading = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, 2 * np.pi)
    for _ in range(int(rng.integers(3, 10))):
        heading += rng.uniform(-0.9, 0.9)
        length = side * rng.uniform(0.05, 0.25)
        next_x, next_y = x + length * np.cos(heading), y + length * np.sin(heading)
        pen.line((x, y, next_x, next_y), fill=255, width=breadth)
        pen.ellipse((x - breadth / 2, y - breadth / 2, x + breadth / 2, y + breadth / 2), fill=255)
        x, y = float(np.clip(next_x, 0, width - 1)), float(np.clip(next_y, 0, height - 1))

"""A canvas for polygons, and the lines that bound them. A polygon is filled from a top colour to a bottom colour.

Colours are #rrggbb or #rrggbbaa. The canvas has a seeded generator for shapes that look grown or worn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw, ImageFilter

WIDTH, HEIGHT = 1024, 512
SCALE = 2  # drawn larger and averaged, for smooth edges

Points = npt.NDArray[np.float64]  # [N, 2]: x, y in pixels of the final picture


class Canvas:
    """A picture that is being drawn, and the generator of its irregular shapes."""

    def __init__(self, seed: int) -> None:
        self.image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE))
        self.random = np.random.default_rng(seed)

    def fill(self, points: Points | Sequence[tuple[float, float]], top: str, bottom: str = "", blur: float = 0) -> None:
        """Fills a polygon; `blur` is the width of its soft edge in pixels."""
        corners = np.asarray(points) * SCALE
        reach = round(3 * blur * SCALE) + 1
        left, upper = np.maximum(np.floor(corners.min(axis=0)).astype(int) - reach, 0)
        right, lower = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + reach, self.image.size)
        if right <= left or lower <= upper:
            return
        mask = Image.new("L", (right - left, lower - upper))
        ImageDraw.Draw(mask).polygon([(x - left, y - upper) for x, y in corners.tolist()], fill=255)
        if blur:
            mask = mask.filter(ImageFilter.GaussianBlur(blur * SCALE))
        span = (corners[:, 1].min() - upper, corners[:, 1].max() - upper)
        column = _gradient(top, bottom or top, span, mask.height)
        if column[:, 3].min() < 255:
            shares = np.asarray(mask) * (column[:, 3:] / 255)
            mask = Image.fromarray(np.rint(shares).astype(np.uint8))
        paint = Image.fromarray(np.rint(column[:, None, :3]).astype(np.uint8)).resize(mask.size)
        self.image.paste(paint, (int(left), int(upper)), mask)

    def mirror(self, shore: int) -> None:
        """Draws a lake below the shore: the part above it upside down, darker towards the viewer."""
        top, (width, height) = shore * SCALE, self.image.size
        above = self.image.crop((0, 2 * top - height, width, top)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        self.image.paste(above.filter(ImageFilter.GaussianBlur(1.6 * SCALE)), (0, top))
        self.fill(box(0, shore, WIDTH, HEIGHT), "#0b2a4a40", "#061a3aa0")
        self.fill(box(0, shore, WIDTH, shore + 1.5), "#bfe6f080")

    def finished(self) -> Image.Image:
        return self.image.reduce(SCALE)


def _gradient(top: str, bottom: str, span: tuple[float, float], height: int) -> npt.NDArray[np.float32]:  # [height, 4]
    ends = np.array([ImageColor.getcolor(colour, "RGBA") for colour in (top, bottom)], dtype=np.float32)
    share = np.clip((np.arange(height) - span[0]) / max(span[1] - span[0], 1), 0, 1).astype(np.float32)[:, None]
    colours: npt.NDArray[np.float32] = ends[0] * (1 - share) + ends[1] * share
    return colours


def box(left: float, top: float, right: float, bottom: float) -> Points:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=float)


def ellipse(x: float, y: float, radius: float, height: float = 0, corners: int = 64) -> Points:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([x + radius * np.cos(angle), y + (height or radius) * np.sin(angle)], axis=1)


def curve(points: Sequence[tuple[float, float]], steps: int = 24) -> Points:
    """A smooth line through the points: a cubic whose slope at each is that between its neighbours."""
    knots = np.array([points[0], *points, points[-1]], dtype=float)
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    parts = []
    for before, start, end, after in zip(knots, knots[1:], knots[2:], knots[3:], strict=False):
        leaving, arriving = (end - before) / 2, (after - start) / 2
        parts.append(
            start
            + leaving * t
            + (3 * (end - start) - 2 * leaving - arriving) * t**2
            + (2 * (start - end) + leaving + arriving) * t**3
        )
    return np.concatenate([*parts, knots[-1:]])


def land(line: Points, bottom: float = HEIGHT) -> Points:
    """The polygon between a line and the bottom."""
    return np.concatenate([line, [(line[-1, 0], bottom), (line[0, 0], bottom)]])


def rough(line: Points, random: np.random.Generator, amount: float, halvings: int = 5) -> Points:
    """The line with the middle of each piece moved up or down; each of the `halvings` moves half as far as the last."""
    for _ in range(halvings):
        middles = (line[1:] + line[:-1]) / 2
        middles[:, 1] += random.normal(0, amount, len(middles))
        line = np.insert(line, np.arange(1, len(line)), middles, axis=0)
        amount /= 2
    return line

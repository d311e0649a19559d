"""Masks of a given share of the picture: a field of distances, and the pixels where it is smallest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from benchmarks.quality.metrics import Mask

__all__ = ["SHAPES", "draw_mask"]

Field = npt.NDArray[np.float64]  # [side, side]
Point = tuple[float, float]  # x, y in pixels
Rng = np.random.Generator

_GAP = 24 / 256  # of the side: what lies between two regions, so that they stay apart at every level of the latents
_CORNERS = ((0.22, 0.22), (0.78, 0.22), (0.22, 0.78), (0.78, 0.78))


def draw_mask(shape: str, share: float, centre: Point, side: int, rng: Rng) -> Mask:  # [side, side]
    """A mask of that shape around the centre; of that share, give or take a row of a rectangle.

    >>> int(draw_mask("blob", 0.1, (32.0, 32.0), 64, np.random.default_rng(0)).sum())
    410
    """
    field = SHAPES[shape](centre, share, side, rng)
    wanted = round(share * side * side)
    return np.asarray(field <= np.partition(field, wanted - 1, axis=None)[wanted - 1])


def _offsets(centre: Point, side: int) -> tuple[Field, Field]:
    """The distances of each pixel's middle from the point: to the right, and downwards."""
    y, x = np.mgrid[:side, :side] + 0.5
    return x - centre[0], y - centre[1]


def _rectangle(centre: Point, share: float, side: int, rng: Rng) -> Field:
    x, y = _offsets(centre, side)
    stretch = 2 ** rng.uniform(-0.5, 0.5)  # up to twice as wide as high, or as high as wide
    return np.asarray(np.maximum(np.abs(x) / stretch, np.abs(y) * stretch))


def _blob(centre: Point, share: float, side: int, rng: Rng) -> Field:
    """A disc whose radius goes up and down along its edge."""
    x, y = _offsets(centre, side)
    angle, radius = np.arctan2(y, x), np.ones_like(x)
    for waves in (2, 3, 4):
        radius = radius + rng.uniform(0, 0.18) * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    return np.asarray(np.hypot(x, y) / radius)


def _stroke(centre: Point, share: float, side: int, rng: Rng) -> Field:
    """A brush that turns as it goes, from the centre to both sides; large masks have long and broad strokes."""
    heading, length = rng.uniform(0, 2 * np.pi), 0.5 * share**0.5 * side
    field = np.full((side, side), np.inf)
    for direction in (heading, heading + np.pi):
        begin = centre
        for _ in range(3):
            direction += rng.uniform(-0.9, 0.9)
            steps = length * np.cos(direction), length * np.sin(direction)
            end = tuple(float(np.clip(at + step, 0, side)) for at, step in zip(begin, steps, strict=True))
            field = np.minimum(field, _from_segment(begin, (end[0], end[1]), side))
            begin = end[0], end[1]
    return field


def _from_segment(begin: Point, end: Point, side: int) -> Field:
    x, y = _offsets(begin, side)
    along = end[0] - begin[0], end[1] - begin[1]
    square = max(along[0] ** 2 + along[1] ** 2, 1e-9)
    share = np.clip((x * along[0] + y * along[1]) / square, 0, 1)
    return np.asarray(np.hypot(x - share * along[0], y - share * along[1]))


def _two_regions(centre: Point, share: float, side: int, rng: Rng) -> Field:
    """A blob at the centre and one in a far corner, each on its own side of a gap."""
    corners = sorted(((a * side, b * side) for a, b in _CORNERS), key=lambda corner: -_distance(corner, centre))
    other = corners[int(rng.integers(2))]
    size = 1.25 ** rng.uniform(-1, 1)  # of the second against the first
    first, second = _blob(centre, share, side, rng), _blob(other, share, side, rng) / size
    x, y = _offsets(((centre[0] + other[0]) / 2, (centre[1] + other[1]) / 2), side)
    towards = (x * (other[0] - centre[0]) + y * (other[1] - centre[1])) / _distance(other, centre)
    return np.where(np.abs(towards) < _GAP * side / 2, np.inf, np.where(towards < 0, first, second))


def _distance(a: Point, b: Point) -> float:
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))


SHAPES: dict[str, Callable[[Point, float, int, Rng], Field]] = {
    "rectangle": _rectangle,
    "blob": _blob,
    "stroke": _stroke,
    "two regions": _two_regions,
}

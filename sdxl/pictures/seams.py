"""Seams: what a model paints is a shade off what lies around the mask; here both are made to meet.

how far each pixel just outside the mask is off what is painted beside it
    ─▶ spread into the mask, as heat spreads from its edge ─▶ fades over so many pixels ─▶ added to what is painted
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from sdxl.pictures.masks import Mask, composite
from sdxl.pictures.shaping import feather_mask

__all__ = ["put_together", "spread"]

Values = npt.NDArray[np.float32]  # [H, W, 3]
Places = npt.NDArray[np.bool_]  # [H, W]

ROUNDS = 12  # of averaging at each size; the smaller sizes have done the most by then
SIDES = ((0, 1), (0, -1), (1, 0), (-1, 0))  # to a pixel's neighbours


def put_together(
    original: Image.Image,
    painted: Image.Image,
    mask: Mask,  # [H, W]
    match_edge: int = 0,
) -> Image.Image:
    """The picture as `composite` makes it; what is painted first meets the original at the mask's edge.

    The change fades inwards over `match_edge` pixels; with 0 nothing changes. A thing that is painted up to the edge
    takes up some of the colour outside.
    """
    inside = mask > 0
    if match_edge and inside.any() and not inside.all():
        rows, columns = _box(inside)
        before, met = np.asarray(original.convert("RGB")), np.array(painted.convert("RGB"))  # [H, W, 3]
        met[rows, columns] = _met(before[rows, columns], met[rows, columns], inside[rows, columns], match_edge)
        painted = Image.fromarray(met)
    return composite(original, painted, mask)


def _met(
    before: npt.NDArray[np.uint8],  # [H, W, 3]
    after: npt.NDArray[np.uint8],  # [H, W, 3]
    inside: Places,  # [H, W]
    match_edge: int,
) -> npt.NDArray[np.uint8]:  # [H, W, 3]
    after_values = after.astype(np.float32)
    off, edge = _off(before.astype(np.float32), after_values, inside)
    share = 1 - feather_mask(inside.astype(np.float32), match_edge)  # [H, W], of the change that stays
    met = after_values + spread(off, inside, edge) * share[..., None]
    return np.where(inside[..., None], np.rint(met).clip(0, 255), after).astype(np.uint8)


def _off(before: Values, after: Values, inside: Places) -> tuple[Values, Places]:
    """How far each pixel just outside the mask is off what is painted beside it; and which pixels those are."""
    total, count = np.zeros_like(before), np.zeros(inside.shape, dtype=np.float32)
    padded, painted = np.pad(inside, 1), np.pad(after, ((1, 1), (1, 1), (0, 0)))
    height, width = inside.shape
    for down, right in SIDES:
        rows, columns = slice(1 + down, 1 + down + height), slice(1 + right, 1 + right + width)
        beside = padded[rows, columns] & ~inside
        total[beside] += before[beside] - painted[rows, columns][beside]
        count += beside
    edge = count > 0
    total[edge] /= count[edge][:, None]
    return total, edge


def spread(values: Values, inside: Places, edge: Places) -> Values:
    """Fills the inside so that each pixel is the mean of its four neighbours, and the edge stays as it is.

    Half the size comes first, and is where this size begins. The picture's own border lets nothing through.

    >>> edge = np.array([[True, False, False, True]])
    >>> values = np.where(edge[..., None], np.float32([0, 3, 6]), np.float32(0))
    >>> spread(values, ~edge, edge)[0, 1].round(2)
    array([0., 3., 6.], dtype=float32)
    """
    values = values * edge[..., None]
    if inside.any() and max(inside.shape) > 1:
        smaller = spread(*_halved(values, inside, edge))
        larger = smaller.repeat(2, axis=0).repeat(2, axis=1)[: inside.shape[0], : inside.shape[1]]
        values = np.where(inside[..., None], larger, values)
        for _ in range(ROUNDS):
            padded = np.pad(values, ((1, 1), (1, 1), (0, 0)), mode="edge")
            mean = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / np.float32(4)
            values = np.where(inside[..., None], mean, values)
    return values


def _halved(values: Values, inside: Places, edge: Places) -> tuple[Values, Places, Places]:
    """The same at half the size: a cell with an edge in it has the edge's mean, others are inside or outside whole."""
    odd = [(0, side % 2) for side in inside.shape]
    values = np.pad(values, [*odd, (0, 0)], mode="edge")
    inside, edge = np.pad(inside, odd, mode="edge"), np.pad(edge, odd, mode="edge")
    shape = (inside.shape[0] // 2, 2, inside.shape[1] // 2, 2)
    count = edge.reshape(shape).sum(axis=(1, 3), dtype=np.float32)  # [H / 2, W / 2]
    total = (values * edge[..., None]).reshape(*shape, values.shape[2]).sum(axis=(1, 3))
    has_edge = count > 0
    halved = np.where(has_edge[..., None], total / np.maximum(count, 1)[..., None], np.float32(0))
    return halved, inside.reshape(shape).any(axis=(1, 3)) & ~has_edge, has_edge


def _box(inside: Places) -> tuple[slice, slice]:
    """The rows and columns of the inside and one pixel around it, where the picture has one."""
    found = [np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0)]
    first = [slice(max(int(places[0]) - 1, 0), int(places[-1]) + 2) for places in found]
    return first[0], first[1]

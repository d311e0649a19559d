"""Finds the thing in a picture of a scene without knowing which thing was asked for, then compares the two.

1. Each pixel is assigned to the nearest colour in CIELAB, where distances are close to the ones that people see. The
   colours are the eight of things and those of the backdrop. The backdrop's are the median colours of the pixel's row
   at both ends and over its whole length (sky and ground change from top to bottom only), and the colours of hills,
   trees, shade, sun and moon under that sky and on that ground.
2. The thing is the largest 4-connected part of the pixels with a thing's colour, after an opening has removed specks
   and lines of up to two pixels; its holes are filled.
3. Its colour is the nearest of the eight to the median of its interior. Its place is the third of the picture that has
   its centroid. Its kind is the one of THINGS whose drawing, found in the same way and moved and scaled to its centroid
   and area, has the largest intersection over union with it. This tells balloon and ball apart: 0.8 to 1.

The sky and the ground come from the caption; they are not measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from sdxl.scenes.draw import draw
from sdxl.scenes.scene import COLOURS, PLACES, THINGS, Scene

__all__ = ["ASKED", "Seen", "connected", "find", "lab", "look", "matches"]

ASKED = ("colour", "place", "thing")
LEAST = 0.003  # share of the picture: a smaller part is not a thing; the smallest tower has 0.02
ENDS = 5  # pixels at each end of a row, where no thing and no tree stands
RIM = 5  # size of the filter that shrinks a thing to its interior: two pixels from the edge
FLAT = 16  # pixels: a backdrop colour with fewer pixels comes from an edge

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

# A picture to draw backdrops and silhouettes in: the thing in the middle, mostly above the horizon's clutter.
CANVAS = Scene("ball", "red", "middle", "blue", "grass", False, False, False, 0.5, 0.5, 0.75, 0.24, 0)


@dataclass(frozen=True)
class Seen:
    """The thing that was found in a picture; `fit` is its intersection over union with the drawn silhouette."""

    colour: str
    place: str
    thing: str
    fit: float


def matches(seen: Seen | None, asked: Scene) -> dict[str, bool]:
    """Says for colour, place and thing whether they are the ones that were asked for."""
    return {name: seen is not None and getattr(seen, name) == getattr(asked, name) for name in ASKED}


def look(picture: Image.Image, sky: str, ground: str) -> Seen | None:
    """The thing in the picture of a scene with that sky and ground; None if no thing is found."""
    found = find(picture, sky, ground)
    if found is None:
        return None
    pixels = lab(np.asarray(picture.convert("RGB")))
    inside = _filtered(found, ImageFilter.MinFilter(RIM))
    colour = _nearest_colour(np.median(pixels[inside if inside.any() else found], axis=0))
    third = int(3 * np.nonzero(found)[1].mean() / found.shape[1])
    fits = {thing: _overlap(found, _silhouette(thing, colour)) for thing in THINGS}
    thing = max(fits, key=lambda name: fits[name])
    return Seen(colour, PLACES[third], thing, fits[thing])


# ---- 1: colours ------------------------------------------------------------------------------------------------------


def lab(
    pixels: npt.NDArray[np.uint8],  # [..., 3], sRGB
) -> Floats:  # [..., 3]
    """The colours of the pixels in CIELAB under D65.

    >>> lab(np.array([[255, 255, 255], [255, 0, 0]], dtype=np.uint8)).round(1) + 0.0
    array([[100. ,   0. ,   0. ],
           [ 53.2,  80.1,  67.2]])
    """
    share = pixels / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                       [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
    ratios = linear @ (to_xyz / to_xyz.sum(axis=1, keepdims=True)).T
    x, y, z = np.moveaxis(np.where(ratios > 216 / 24389, np.cbrt(ratios), (24389 / 27 * ratios + 16) / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _distance(
    pixels: Floats,  # [H, W, 3]
    colours: Floats,  # [K, 3], or [H, K, 3]: each row has its own
) -> Floats:  # [H, W]
    """The squared distance to the nearest colour, without the pixel's own square, which is the same for all colours."""
    products = pixels @ np.swapaxes(colours, -1, -2)  # [H, W, K]
    return ((colours**2).sum(axis=-1)[..., None, :] - 2 * products).min(axis=-1)  # type: ignore[no-any-return]


def _nearest_colour(colour: Floats) -> str:  # [3]
    return list(COLOURS)[int(np.linalg.norm(_thing_colours() - colour, axis=1).argmin())]


@cache
def _thing_colours() -> Floats:  # [8, 3]
    return lab(np.array(list(COLOURS.values()), dtype=np.uint8))


@cache
def _backdrop(sky: str, ground: str) -> Floats:  # [K, 3]
    """The colours of hills, trees, shade, sun and moon: those that do not change with the thing's colour."""
    flat = []
    for thing in ("ball", "balloon"):  # the first casts a shade, the second hides no tree
        scene = replace(CANVAS, thing=thing, y=0.75 if thing == "ball" else 0.3, sky=sky, ground=ground,
                        hills=True, trees=True, light=True)  # fmt: skip
        first, second = (np.asarray(draw(replace(scene, colour=colour))) for colour in ("red", "blue"))
        kept = (first == second).all(axis=2) & (first != first[:, :1]).any(axis=2)
        colours, counts = np.unique(first[kept], axis=0, return_counts=True)
        flat.append(colours[counts >= FLAT])
    return lab(np.concatenate(flat))


# ---- 2: the thing ----------------------------------------------------------------------------------------------------


def find(picture: Image.Image, sky: str, ground: str) -> Bools | None:  # [H, W]
    """The pixels of the thing, with its holes filled; None if there is none."""
    pixels = lab(np.asarray(picture.convert("RGB")))  # [H, W, 3]
    ends = (pixels[:, :ENDS], pixels[:, -ENDS:], pixels)
    rows = np.stack([np.median(part, axis=1) for part in ends], axis=1)  # [H, 3, 3]
    backdrop = np.minimum(_distance(pixels, rows), _distance(pixels, _backdrop(sky, ground)))
    coloured = _distance(pixels, _thing_colours()) < backdrop
    parts = connected(_filtered(_filtered(coloured, ImageFilter.MinFilter(3)), ImageFilter.MaxFilter(3)))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    if sizes.max() < LEAST * parts.size:
        return None
    return _filled(parts == sizes.argmax())


def _filtered(mask: Bools, kind: ImageFilter.Filter) -> Bools:  # [H, W] -> [H, W]
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).filter(kind)) > 0


def connected(
    mask: Bools,  # [H, W]
) -> npt.NDArray[np.int64]:  # [H, W]
    """A number for each 4-connected part: the largest flat position in it, counted from 1; 0 outside the mask.

    >>> connected(np.array([[1, 1, 0], [0, 1, 0], [1, 0, 1]]) > 0)
    array([[5, 5, 0],
           [0, 5, 0],
           [7, 0, 9]])
    """
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        spread = labels
        for turn in range(4):
            spread = np.rot90(_spread(np.rot90(spread, turn)), -turn)
        if np.array_equal(spread, labels):
            return labels
        labels = spread


def _spread(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:  # [H, W] -> [H, W]
    """The largest label so far along each row; each gap starts again."""
    base = int(labels.max()) + 1
    offsets = np.cumsum(labels == 0, axis=1) * base  # larger than any label before the last gap
    return np.where(labels > 0, np.maximum.accumulate(offsets + labels, axis=1) - offsets, 0)


def _filled(part: Bools) -> Bools:  # [H, W] -> [H, W]
    """The part with its holes filled: the pixels that cannot be reached from outside."""
    outside = connected(np.pad(~part, 1, constant_values=True))
    return (outside != outside[0, 0])[1:-1, 1:-1]  # type: ignore[no-any-return]


# ---- 3: what it is ---------------------------------------------------------------------------------------------------


@cache
def _silhouette(thing: str, colour: str) -> Bools:  # [H, W]
    """The pixels that `find` gives for a drawing of the thing; with some colours they include the door."""
    scene = replace(CANVAS, thing=thing, colour=colour, y=0.3 if thing == "balloon" else 0.75)
    found = find(draw(scene), scene.sky, scene.ground)
    assert found is not None  # a test draws them all
    return found


def _overlap(found: Bools, wanted: Bools) -> float:  # [H, W] each
    """Intersection over union, with the second mask moved and scaled to the centroid and the area of the first."""
    scale = np.sqrt(wanted.sum() / found.sum())
    middle, other = (np.argwhere(mask).mean(axis=0)[:, None, None] for mask in (found, wanted))  # [2, 1, 1]
    places = np.rint((np.indices(found.shape) - middle) * scale + other).astype(int)  # [2, H, W]
    limits = np.array(wanted.shape)[:, None, None]
    inside = ((places >= 0) & (places < limits)).all(axis=0)
    rows, columns = places.clip(0, limits - 1)
    brought = inside & wanted[rows, columns]
    return float((found & brought).sum() / (found | brought).sum())

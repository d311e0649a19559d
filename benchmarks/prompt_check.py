"""What a picture of a scene shows, found without knowing what was asked of its thing, then compared with it.

1. Every pixel goes to the colour nearest to it in CIELAB, where distances are about those that one sees: one of the
   eight colours of things; or the backdrop's: what its row is at both ends and in the middle, since sky and ground
   change downwards only, or what hills, trees, shade, sun and moon are drawn with under that sky, on that ground.
2. The thing is the largest 4-connected part of the pixels that went to things' colours, after specks and strings of up
   to two pixels are opened away; its holes are filled.
3. Its colour is the one of the eight nearest to the median of its interior. Its place is the third of the picture that
   its centroid is in. What it is: the one of THINGS whose drawing, found in the same way and brought to its area and
   centroid, has the largest intersection over union with it. Balloon and ball are told apart by their shape: 0.8 to 1.

The sky and the ground are taken from the caption: they are not what is measured.
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
LEAST = 0.003  # of the picture: a smaller part is no thing; the smallest tower is 0.02
ENDS = 5  # pixels at the ends of a row, where neither things nor trees stand
RIM = 5  # pixels: what a thing's interior is away from its edge, twice and a half
FLAT = 16  # pixels: a colour of the backdrop's that is not its row's and has fewer is of an edge

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

# A picture to draw backdrops and silhouettes in: the thing in the middle, mostly above the horizon's clutter.
CANVAS = Scene("ball", "red", "middle", "blue", "grass", False, False, False, 0.5, 0.5, 0.75, 0.24, 0)


@dataclass(frozen=True)
class Seen:
    """What was found in a picture; `fit` is the intersection over union with the thing's own silhouette."""

    colour: str
    place: str
    thing: str
    fit: float


def matches(seen: Seen | None, asked: Scene) -> dict[str, bool]:
    """Which of colour, place and thing are those that were asked for."""
    return {name: seen is not None and getattr(seen, name) == getattr(asked, name) for name in ASKED}


def look(picture: Image.Image, sky: str, ground: str) -> Seen | None:
    """What the picture shows under that sky, on that ground; None where no thing is found."""
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
    """CIELAB under D65.

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
    """Squared, to the nearest of the colours; but for what is the same for all of them."""
    products = pixels @ np.swapaxes(colours, -1, -2)  # [H, W, K]
    return ((colours**2).sum(axis=-1)[..., None, :] - 2 * products).min(axis=-1)  # type: ignore[no-any-return]


def _nearest_colour(colour: Floats) -> str:  # [3]
    return list(COLOURS)[int(np.linalg.norm(_thing_colours() - colour, axis=1).argmin())]


@cache
def _thing_colours() -> Floats:  # [8, 3]
    return lab(np.array(list(COLOURS.values()), dtype=np.uint8))


@cache
def _backdrop(sky: str, ground: str) -> Floats:  # [K, 3]
    """What hills, trees, shade, sun and moon are drawn with: what does not change with the thing's colour."""
    flat = []
    for thing in ("ball", "balloon"):  # one casts a shade, beside the other stand all trees
        scene = replace(CANVAS, thing=thing, y=0.75 if thing == "ball" else 0.3, sky=sky, ground=ground,
                        hills=True, trees=True, light=True)  # fmt: skip
        first, second = (np.asarray(draw(replace(scene, colour=colour))) for colour in ("red", "blue"))
        kept = (first == second).all(axis=2) & (first != first[:, :1]).any(axis=2)
        colours, counts = np.unique(first[kept], axis=0, return_counts=True)
        flat.append(colours[counts >= FLAT])
    return lab(np.concatenate(flat))


# ---- 2: the thing ----------------------------------------------------------------------------------------------------


def find(picture: Image.Image, sky: str, ground: str) -> Bools | None:  # [H, W]
    """Where the thing is, without its holes."""
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
    """A number for each 4-connected part, 0 where the mask is not; parts have the largest of their places' numbers.

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
    """The largest label so far along each row, begun anew behind each gap."""
    base = int(labels.max()) + 1
    runs = np.cumsum(labels == 0, axis=1) * base  # larger than any label of a run before
    return np.where(labels > 0, np.maximum.accumulate(runs + labels, axis=1) - runs, 0)


def _filled(part: Bools) -> Bools:  # [H, W] -> [H, W]
    """With what cannot be reached from outside."""
    outside = connected(np.pad(~part, 1, constant_values=True))
    return (outside != outside[0, 0])[1:-1, 1:-1]  # type: ignore[no-any-return]


# ---- 3: what it is ---------------------------------------------------------------------------------------------------


@cache
def _silhouette(thing: str, colour: str) -> Bools:  # [H, W]
    """What is found of a thing in a drawing; doors are now and then of it, depending on the colour."""
    scene = replace(CANVAS, thing=thing, colour=colour, y=0.3 if thing == "balloon" else 0.75)
    found = find(draw(scene), scene.sky, scene.ground)
    assert found is not None  # a test draws them all
    return found


def _overlap(found: Bools, wanted: Bools) -> float:  # [H, W] each
    """Intersection over union, with the second brought to the area and the centroid of the first."""
    scale = np.sqrt(wanted.sum() / found.sum())
    middle, other = (np.argwhere(mask).mean(axis=0)[:, None, None] for mask in (found, wanted))  # [2, 1, 1]
    places = np.rint((np.indices(found.shape) - middle) * scale + other).astype(int)  # [2, H, W]
    limits = np.array(wanted.shape)[:, None, None]
    inside = ((places >= 0) & (places < limits)).all(axis=0)
    rows, columns = places.clip(0, limits - 1)
    brought = inside & wanted[rows, columns]
    return float((found & brought).sum() / (found | brought).sum())

"""Draws scenes: at four times the area, then scaled down, so that edges are smooth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from sdxl.scenes.scene import COLOURS, GROUNDS, SKIES, Colour, Scene

__all__ = ["draw", "thing_box", "thing_mask"]

_OVERSAMPLING = 2
Pen = ImageDraw.ImageDraw
Array = npt.NDArray[np.uint8]


def draw(scene: Scene, side: int = 256) -> Image.Image:
    """The picture of a scene; the same scene gives the same picture.

    >>> from sdxl.scenes.scene import random_scene
    >>> draw(random_scene(np.random.default_rng(0)), 64).size
    (64, 64)
    """
    full = side * _OVERSAMPLING
    rng = np.random.default_rng(scene.seed)
    image = Image.fromarray(_backdrop(scene, full))
    pen = ImageDraw.Draw(image)
    if scene.light:
        _light(scene, full, pen, rng)
    if scene.hills:
        _hills(scene, full, pen, rng)
    image.paste(Image.fromarray(_ground(scene, full)), (0, _horizon(scene, full)))
    pen = ImageDraw.Draw(image)
    if scene.trees:
        _trees(scene, full, pen, rng)
    _thing(scene, full, pen, COLOURS[scene.colour])
    return image.resize((side, side), Image.Resampling.BOX)


def thing_mask(scene: Scene, side: int = 256) -> npt.NDArray[np.bool_]:  # [side, side]
    """The pixels that the thing covers."""
    image = Image.new("L", (side, side), 0)
    _silhouette(scene, side, ImageDraw.Draw(image), 255)
    return np.asarray(image) > 127


# ---- backdrop --------------------------------------------------------------------------------------------------------


def _horizon(scene: Scene, side: int) -> int:
    return round(scene.horizon * side)


def _gradient(top: Colour, bottom: Colour, height: int, width: int) -> Array:  # [H, W, 3]
    share = np.linspace(0, 1, height)[:, None]
    rows = (1 - share) * np.array(top) + share * np.array(bottom)
    return np.broadcast_to(rows[:, None], (height, width, 3)).astype(np.uint8)


def _backdrop(scene: Scene, side: int) -> Array:  # [side, side, 3]
    horizon = _horizon(scene, side)
    sky = _gradient(*SKIES[scene.sky], horizon, side)
    return np.concatenate([sky, np.repeat(sky[-1:], side - horizon, axis=0)])


def _ground(scene: Scene, side: int) -> Array:  # [below the horizon, side, 3]
    return _gradient(*GROUNDS[scene.ground], side - _horizon(scene, side), side)


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round((1 - share) * a + share * b) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def _light(scene: Scene, side: int, pen: Pen, rng: np.random.Generator) -> None:
    x, y, radius = rng.uniform(0.15, 0.85) * side, rng.uniform(0.1, 0.2) * side, 0.055 * side
    colour = (240, 240, 226) if scene.sky == "night" else (255, 240, 170)
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _hills(scene: Scene, side: int, pen: Pen, rng: np.random.Generator) -> None:
    haze, ground = SKIES[scene.sky][1], GROUNDS[scene.ground][0]
    for share in (0.65, 0.35):
        phase, waves, height = rng.uniform(0, 6.3), rng.uniform(1.2, 2.4), rng.uniform(0.07, 0.12) * side
        x = np.linspace(0, side, 33)
        y = _horizon(scene, side) - height * (0.55 + 0.45 * np.sin(phase + waves * 6.3 * x / side))
        line = list(zip(x.tolist(), y.tolist(), strict=True))
        pen.polygon([(0, side), *line, (side, side)], fill=_mix(_mix(ground, (70, 90, 110), 0.45), haze, share))


def _trees(scene: Scene, side: int, pen: Pen, rng: np.random.Generator) -> None:
    """Draws up to four trees, none of them where the thing stands."""
    for x in rng.permutation(np.linspace(0.08, 0.92, 6))[: int(rng.integers(3, 5))]:
        if abs(x - scene.x) < 0.2 and scene.thing != "balloon":
            continue
        foot, height = (scene.horizon + rng.uniform(0.02, 0.1)) * side, rng.uniform(0.12, 0.18) * side
        middle, half = float(x) * side, 0.3 * height
        pen.rectangle((middle - 0.05 * height, foot - 0.3 * height, middle + 0.05 * height, foot), fill=(92, 62, 40))
        crown = [(middle, foot - height), (middle - half, foot - 0.25 * height), (middle + half, foot - 0.25 * height)]
        pen.polygon(crown, fill=(28, 92, 54))


# ---- the thing -------------------------------------------------------------------------------------------------------

Box = tuple[float, float, float, float]  # left, top, right, bottom


def thing_box(scene: Scene, side: int) -> Box:
    """The box around the thing: a square that stands on its foot; around its middle for a balloon.

    The box of a tower is slender, that of a house broad.
    """
    x, y, size = (value * side for value in (scene.x, scene.y, scene.size))
    if scene.thing == "balloon":
        return x - 0.4 * size, y - 0.5 * size, x + 0.4 * size, y + 0.5 * size
    wide = {"tower": 0.22, "house": 0.55}.get(scene.thing, 0.5) * size
    tall = {"tower": 1.25, "house": 0.95}.get(scene.thing, 1.0) * size
    return x - wide, y - tall, x + wide, y


def _silhouette(scene: Scene, side: int, pen: Pen, fill: Colour | int) -> None:
    _SHAPES[scene.thing](thing_box(scene, side), pen, fill)


def _thing(scene: Scene, side: int, pen: Pen, colour: Colour) -> None:
    """Draws the thing: a shadow, the silhouette in its colour, and a few strokes that show what it is."""
    left, top, right, bottom = thing_box(scene, side)
    width, height = right - left, bottom - top
    dark = _mix(colour, (0, 0, 0), 0.35) if scene.colour != "black" else (70, 70, 78)
    if scene.thing != "balloon":
        shade = _mix(GROUNDS[scene.ground][1], (0, 0, 0), 0.3)
        pen.ellipse((left - 0.05 * width, bottom - 0.05 * side, right + 0.05 * width, bottom + 0.02 * side), fill=shade)
    _silhouette(scene, side, pen, colour)
    middle = (left + right) / 2
    if scene.thing in ("house", "tower", "tent"):
        half = 0.1 * width if scene.thing != "tower" else 0.2 * width
        pen.rectangle((middle - half, bottom - 0.3 * height, middle + half, bottom - 1), fill=dark)
    if scene.thing == "house":
        for x in (0.25, 0.75):
            left_, top_ = left + x * width - 0.07 * width, top + 0.5 * height
            pen.rectangle((left_, top_, left_ + 0.14 * width, top_ + 0.14 * height), fill=dark)
    if scene.thing == "balloon":
        pen.line((middle, bottom, middle, bottom + 0.12 * side), fill=(90, 90, 90), width=max(side // 128, 1))


def _ball(box: Box, pen: Pen, fill: Colour | int) -> None:
    pen.ellipse(box, fill=fill)


def _square(box: Box, pen: Pen, fill: Colour | int) -> None:
    pen.rectangle(box, fill=fill)


def _tent(box: Box, pen: Pen, fill: Colour | int) -> None:
    left, top, right, bottom = box
    pen.polygon([((left + right) / 2, top), (right, bottom), (left, bottom)], fill=fill)


def _house(box: Box, pen: Pen, fill: Colour | int) -> None:
    left, top, right, bottom = box
    eaves, inset = top + 0.42 * (bottom - top), 0.1 * (right - left)
    pen.rectangle((left + inset, eaves, right - inset, bottom), fill=fill)
    pen.polygon([((left + right) / 2, top), (right, eaves), (left, eaves)], fill=fill)


def _tower(box: Box, pen: Pen, fill: Colour | int) -> None:
    left, top, right, bottom = box
    battlements, step = top + 0.12 * (bottom - top), (right - left) / 5
    pen.rectangle((left, battlements, right, bottom), fill=fill)
    for i in (0, 2, 4):
        pen.rectangle((left + i * step, top, left + (i + 1) * step, battlements), fill=fill)


_SHAPES: dict[str, Callable[[Box, Pen, Colour | int], None]] = {
    "ball": _ball,
    "balloon": _ball,
    "box": _square,
    "tent": _tent,
    "house": _house,
    "tower": _tower,
}

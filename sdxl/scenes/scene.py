"""Scenes: random contents of a picture, and captions that describe them.

A scene is one coloured thing at a place, on a ground, under a sky, with or without hills, trees and a sun or moon. It
says what is where, so a benchmark can measure whether a model follows its prompt (`benchmarks/prompts.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["COLOURS", "GROUNDS", "PLACES", "SKIES", "THINGS", "Scene", "caption", "random_scene"]

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (214, 40, 40),
    "orange": (244, 140, 6),
    "yellow": (250, 214, 24),
    "blue": (36, 84, 214),
    "purple": (128, 40, 176),
    "pink": (244, 120, 180),
    "white": (246, 246, 242),
    "black": (30, 30, 34),
}
THINGS = ("ball", "box", "tent", "house", "tower", "balloon")
PLACES = ("left", "middle", "right")
SKIES: dict[str, tuple[Colour, Colour]] = {  # at the top, at the horizon
    "blue": ((70, 140, 220), (190, 224, 246)),
    "evening": ((88, 60, 130), (250, 176, 120)),
    "grey": ((120, 130, 142), (190, 196, 202)),
    "night": ((14, 18, 52), (52, 62, 112)),
}
GROUNDS: dict[str, tuple[Colour, Colour]] = {  # at the horizon, at the bottom
    "grass": ((130, 190, 84), (62, 138, 50)),
    "sand": ((232, 208, 150), (206, 170, 104)),
    "snow": ((238, 242, 250), (206, 216, 234)),
    "water": ((96, 160, 196), (34, 92, 146)),
}


@dataclass(frozen=True)
class Scene:
    """The content of a picture; lengths are shares of its side."""

    thing: str
    colour: str
    place: str
    sky: str
    ground: str
    hills: bool
    trees: bool
    light: bool  # the sun, or the moon at night
    horizon: float
    x: float  # of the thing's middle
    y: float  # of the thing's foot; for a balloon, of its middle
    size: float
    seed: int  # of details that no caption mentions: the shape of hills, the places of trees


def random_scene(rng: np.random.Generator) -> Scene:
    """A random scene; all combinations are equally likely.

    >>> random_scene(np.random.default_rng(0)) == random_scene(np.random.default_rng(0))
    True
    """
    thing, place = _one(rng, THINGS), _one(rng, PLACES)
    horizon = float(rng.uniform(0.46, 0.6))
    return Scene(
        thing=thing,
        colour=_one(rng, tuple(COLOURS)),
        place=place,
        sky=_one(rng, tuple(SKIES)),
        ground=_one(rng, tuple(GROUNDS)),
        hills=bool(rng.random() < 0.5),
        trees=bool(rng.random() < 0.5),
        light=bool(rng.random() < 0.5),
        horizon=horizon,
        x=float((0.2, 0.5, 0.8)[PLACES.index(place)] + rng.uniform(-0.02, 0.02)),
        y=float(rng.uniform(0.22, 0.34) if thing == "balloon" else horizon + rng.uniform(0.16, 0.3)),
        size=float(rng.uniform(0.2, 0.28)),
        seed=int(rng.integers(2**31)),
    )


SKY_WORDS = {
    "blue": ("a blue sky", "a clear sky"),
    "evening": ("an evening sky", "a sunset sky"),
    "grey": ("a grey sky", "a cloudy sky"),
    "night": ("a night sky", "a dark sky"),
}
GROUND_WORDS = {
    "grass": ("on the grass", "on a meadow"),
    "sand": ("on the sand", "in the desert"),
    "snow": ("in the snow", "in winter"),
    "water": ("on the water", "on a lake"),
}
PLACE_WORDS = {
    "left": ("on the left", "at the left"),
    "middle": ("in the middle", "in the centre"),
    "right": ("on the right", "at the right"),
}
OPENINGS = ("", "", "a picture of ", "a drawing of ")


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A random caption of the scene; it may leave out hills, trees and light, and names nothing that is not there.

    >>> scene = random_scene(np.random.default_rng(1))
    >>> f" {scene.colour} {scene.thing}" in caption(scene, np.random.default_rng(1))
    True
    """
    parts = [_one(rng, PLACE_WORDS[scene.place]), _one(rng, GROUND_WORDS[scene.ground])]
    if rng.random() < 0.5:
        parts.reverse()
    extras = [name for name, there in (("hills", scene.hills), ("trees", scene.trees)) if there]
    if scene.light:
        extras.append("the moon" if scene.sky == "night" else "the sun")
    extras = [extra for extra in extras if rng.random() < 0.8]
    thing = f"{'an' if scene.colour == 'orange' else 'a'} {scene.colour} {scene.thing}"
    text = f"{_one(rng, OPENINGS)}{thing} {' '.join(parts)} under {_one(rng, SKY_WORDS[scene.sky])}"
    return f"{text} with {' and '.join(extras)}" if extras else text


def _one(rng: np.random.Generator, of: Sequence[str]) -> str:
    return of[int(rng.integers(len(of)))]

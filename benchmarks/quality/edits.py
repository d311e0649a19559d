"""The edits that quality is measured on: held-out scenes, a mask each, and a prompt for something new under it.

Set A chose the plans without skips. Set B has other scenes, other masks and other noise; no
default is ever chosen on it. Half of its prompts contradict the picture: they ask for another sky and another ground
than those around the mask, as users do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count as numbers_from

import numpy as np
from PIL import Image

from benchmarks.quality.metrics import Mask
from benchmarks.quality.shapes import SHAPES, draw_mask
from sdxl.scenes.draw import draw, thing_mask
from sdxl.scenes.numbered import HELD_OUT, scene_at
from sdxl.scenes.scene import COLOURS, PLACES, THINGS, Scene, caption

__all__ = [
    "ASKS",
    "CLASSES",
    "SETS",
    "TEN_PERCENT",
    "Edit",
    "another_mask",
    "another_prompt",
    "digest",
    "held_out_edits",
    "second_edits",
]

CLASSES = {"2-8 %": (0.02, 0.08), "8-20 %": (0.08, 0.20), "20-40 %": (0.20, 0.40)}  # shares: from, up to
TEN_PERCENT = (0.07, 0.13)  # what "at a 10 % mask" is a median over
ASKS = ("another thing", "another scene")
CONTRADICTS = "another world"  # what half of set B asks for

# Shares of the picture, evenly on a logarithmic scale between these; more than a quarter of them lie around 10 %.
_SHARES = ((0.0, 0.28, 0.56, 1.0), (0.02, 0.07, 0.13, 0.40))
_PLACE_X = (0.2, 0.5, 0.8)  # where a scene's places are
_SECOND = 600  # number of the first edit of set B
_PAINTED = 1200  # number of the first SDEdit
_TUNING = 1800  # number of the first tuning edit
_STROKE = 16  # pixels that a rough stroke is wide
_LATER = 5  # seed of a session's later masks and prompts
_SEED, _OTHERS = 9, 10_000  # seed of masks and prompts; the first held-out scene that prompts ask for


@dataclass(frozen=True, eq=False)
class Edit:
    """A picture, the mask that is repainted, and the prompt."""

    number: int  # also the seed of its noise
    scene: Scene
    image: Image.Image
    mask: Mask  # [side, side]
    shape: str  # one of SHAPES
    asks: str  # one of ASKS, or CONTRADICTS
    prompt: str
    edited: Image.Image | None = None  # the picture, painted over inside the mask: then the edit is an SDEdit

    @property
    def share(self) -> float:
        """The share of the picture's pixels that the mask covers."""
        return float(self.mask.mean())

    def is_within(self, shares: tuple[float, float]) -> bool:
        """Says whether the mask's share is in a class: from the lower bound up to, not including, the upper."""
        return shares[0] <= self.share < shares[1]


def held_out_edits(count: int = 50, side: int = 256) -> list[Edit]:
    """The edits, always the same: masks from 2 to 40 %, smallest first, shapes and prompts in turn.

    >>> [edit.shape for edit in held_out_edits(4, 64)]
    ['rectangle', 'blob', 'stroke', 'two regions']
    """
    return [_make(number, (number + 0.5) / count, side, _asks(number)) for number in range(count)]


def second_edits(count: int = 50, side: int = 256) -> list[Edit]:
    """The edits of set B, always the same; by fours they ask for what fits the picture, and for what contradicts it.

    >>> [edit.asks for edit in second_edits(12, 64)][::4]
    ['another thing', 'another world', 'another scene']
    """
    return [
        _make(_SECOND + k, (k + 0.5) / count, side, CONTRADICTS if k // 4 % 2 else _asks(k // 2)) for k in range(count)
    ]


def painted_edits(count: int = 50, side: int = 256) -> list[Edit]:
    """SDEdits, always the same: inside the mask what the prompt asks for, painted in rough strokes."""
    return [_make(_PAINTED + k, (k + 0.5) / count, side, _asks(k), painted=True) for k in range(count)]


def tuning_edits(count: int = 24, side: int = 256) -> list[Edit]:
    """Edits to choose settings on, of neither set; every second four ask for what contradicts the picture."""
    return [
        _make(_TUNING + k, (k + 0.5) / count, side, CONTRADICTS if k // 4 % 2 else _asks(k // 2)) for k in range(count)
    ]


SETS: dict[str, Callable[[int, int], list[Edit]]] = {
    "A": held_out_edits,
    "B": second_edits,
    "sdedit": painted_edits,
    "tuning": tuning_edits,
}


def _asks(number: int) -> str:
    return ASKS[number // len(SHAPES) % len(ASKS)]


def digest(edits: Sequence[Edit]) -> str:
    """A digest of all pictures, masks and prompts."""
    content = hashlib.sha256()
    for edit in edits:
        edited = () if edit.edited is None else (edit.edited.tobytes(),)
        for part in (edit.image.tobytes(), edit.mask.tobytes(), edit.prompt.encode(), *edited):
            content.update(hashlib.sha256(part).digest())
    return content.hexdigest()[:16]


def _make(number: int, quantile: float, side: int, asks: str, painted: bool = False) -> Edit:
    rng = np.random.default_rng([_SEED, number])
    scene = scene_at(HELD_OUT + number)
    shape = tuple(SHAPES)[number % len(SHAPES)]
    if asks == "another thing":
        y, x = np.nonzero(thing_mask(scene, side))
        centre, wanted = (float(x.mean()), float(y.mean())), _with_another_thing(scene, rng)
    else:
        across, down = float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.35, 0.75))
        find = _another_world if asks == CONTRADICTS else _another_scene
        centre, wanted = (across * side, down * side), find(scene, across, number)
    share = float(np.exp(np.interp(quantile, _SHARES[0], np.log(_SHARES[1]))))
    mask = draw_mask(shape, share, centre, side, rng)
    image = draw(scene, side)
    edited = _painted_over(image, draw(wanted, side), mask) if painted else None
    return Edit(number, scene, image, mask, shape, asks, caption(wanted, rng), edited)


def _painted_over(image: Image.Image, wanted: Image.Image, mask: Mask) -> Image.Image:  # [side, side]
    """The image, inside the mask the wanted picture in rough strokes."""
    few = wanted.resize([side // _STROKE for side in wanted.size], Image.Resampling.BOX)
    rough = np.asarray(few.resize(wanted.size, Image.Resampling.NEAREST))
    return Image.fromarray(np.where(mask[:, :, None], rough, np.asarray(image)))


def another_prompt(edit: Edit) -> str:
    """A prompt for another thing in the edit's picture, always the same."""
    rng = np.random.default_rng([_LATER, edit.number])
    return caption(_with_another_thing(edit.scene, rng), rng)


def another_mask(edit: Edit, number: int) -> tuple[Mask, str]:  # [side, side]
    """A mask beside that of the edit and a prompt for it; other numbers give others. For later edits of a session."""
    rng = np.random.default_rng([_LATER, edit.number, number])
    side = edit.image.width
    _, x = np.nonzero(edit.mask)
    across = 0.25 if number % 2 == (0 if x.mean() > side / 2 else 1) else 0.75
    centre = across * side, float(rng.uniform(0.4, 0.7)) * side
    shape = tuple(SHAPES)[(edit.number + 1 + number) % len(SHAPES)]
    mask = draw_mask(shape, float(np.clip(edit.share, 0.04, 0.2)), centre, side, rng)
    wanted = _another_scene(edit.scene, across, edit.number % 1000 + 100 * (number % 50))
    return mask, caption(wanted, rng)


def _with_another_thing(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with another thing of another colour in its place; a balloon, which is in the air, stays a balloon."""
    things = [thing for thing in THINGS if thing not in (scene.thing, "balloon")]
    colours = [colour for colour in COLOURS if colour != scene.colour]
    thing = scene.thing if scene.thing == "balloon" else things[int(rng.integers(len(things)))]
    return replace(scene, thing=thing, colour=colours[int(rng.integers(len(colours)))])


def _another_scene(scene: Scene, across: float, number: int) -> Scene:
    """A held-out scene under the same sky on the same ground, whose thing stands where the mask is."""
    place = _place_at(across)
    for candidate in numbers_from(HELD_OUT + _OTHERS * (number + 1)):
        other = scene_at(candidate)
        alike = (other.sky, other.ground, other.place) == (scene.sky, scene.ground, place)
        if alike and (other.thing, other.colour) != (scene.thing, scene.colour):
            return other
    raise AssertionError("there is no last scene")


def _place_at(across: float) -> str:
    """The scene's place that is nearest."""
    return PLACES[int(np.abs(np.array(_PLACE_X) - across).argmin())]


def _another_world(scene: Scene, across: float, number: int) -> Scene:
    """A held-out scene under another sky on another ground, whose thing stands where the mask is."""
    place = _place_at(across)
    for candidate in numbers_from(HELD_OUT + _OTHERS * (number + 1)):
        other = scene_at(candidate)
        if other.place == place and other.sky != scene.sky and other.ground != scene.ground:
            return other
    raise AssertionError("there is no last scene")

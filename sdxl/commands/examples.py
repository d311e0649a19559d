"""Two example edits: scenes that the embedded model was not trained on, and prompts in words that it knows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from sdxl.commands.inputs import Inputs
from sdxl.edits.request import Request
from sdxl.edits.sampling import Sampling
from sdxl.scenes.draw import draw, thing_mask
from sdxl.scenes.numbered import HELD_OUT, scene_at
from sdxl.scenes.scene import COLOURS, Colour, Scene, caption

if TYPE_CHECKING:
    from sige import Policy

__all__ = ["MATCH_EDGE", "Example", "another_wish", "find_scene", "inpainting", "painted_over"]

SIDE = 256  # pixels: what the embedded model was trained at
MATCH_EDGE = 24  # pixels over which what is painted meets the picture
_MARGIN = 14  # pixels by which a mask is wider than the thing under it, for the shadow
_HOUSE = ((0.5, -0.08), (1.12, 0.36), (1.05, 1.03), (-0.03, 1.0), (-0.14, 0.42))  # by hand, in shares of a box
Array = npt.NDArray[Any]
Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom lie outside


@dataclass(frozen=True)
class Example:
    """A prompt and the pictures that it is about."""

    task: str  # inpainting, sdedit
    prompt: str
    pictures: Inputs

    def request(self, sampling: Sampling, policy: Policy | None) -> Request:
        """The request with the example's own prompt; `policy` None means dense."""
        given = self.pictures
        sampling = replace(sampling, prompt=self.prompt)
        keep = "outside" if self.task == "sdedit" else None  # the dense run keeps it, too: both are compared
        match_edge = MATCH_EDGE if self.task == "inpainting" else 0
        pictures: dict[str, Any] = {"image": given.image, "mask": given.mask, "edited": given.edited}
        return Request(sampling, **pictures, policy=policy, keep=keep, match_edge=match_edge)


def inpainting() -> Example:
    """The inpainting example: a red ball becomes a blue house."""
    scene = find_scene(thing="ball", colour="red", place="middle", ground="grass", sky="blue", trees=True)
    wanted = replace(scene, thing="house", colour="blue")
    left, top, right, bottom = _box(thing_mask(scene, SIDE) | thing_mask(wanted, SIDE))
    mask = np.zeros((SIDE, SIDE), dtype=np.float32)
    mask[max(top - _MARGIN, 0) : bottom + _MARGIN, max(left - _MARGIN, 0) : right + _MARGIN] = 1
    return Example("inpainting", _say(wanted), Inputs(image=draw(scene, SIDE), mask=mask))


def another_wish() -> Example:
    """The inpainting example's picture and mask with another wish: a yellow tent."""
    first = inpainting()
    scene = find_scene(thing="ball", colour="red", place="middle", ground="grass", sky="blue", trees=True)
    return replace(first, prompt=_say(replace(scene, thing="tent", colour="yellow")))


def painted_over() -> Example:
    """The SDEdit example: a crude house is painted over a tent."""
    scene = find_scene(thing="tent", colour="yellow", place="left", ground="sand", sky="evening", hills=True)
    wanted = replace(scene, thing="house", colour="purple")
    before = draw(scene, SIDE)
    after = before.copy()
    _paint(after, _box(thing_mask(scene, SIDE)), COLOURS[wanted.colour])
    return Example("sdedit", _say(wanted), Inputs(image=before, edited=after))


def find_scene(**wanted: str | bool) -> Scene:
    """The first held-out scene that has the wanted attributes.

    >>> find_scene(thing="tower", colour="white").thing
    'tower'
    """
    scenes = map(scene_at, count(HELD_OUT))
    return next(scene for scene in scenes if all(getattr(scene, name) == value for name, value in wanted.items()))


def _say(scene: Scene) -> str:
    return caption(scene, np.random.default_rng(scene.seed))


def _box(mask: Array) -> Box:  # bool [H, W]
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def _paint(image: Image.Image, box: Box, colour: Colour) -> None:
    """Paints a house of one flat colour with hard edges, which covers a tent that fills the box."""
    left, top, right, bottom = box
    outline = [(left + x * (right - left), top + y * (bottom - top)) for x, y in _HOUSE]
    ImageDraw.Draw(image).polygon(outline, fill=colour)

"""Where pictures come from: the protocol, and scenes of our own; `folder.py` has a user's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdxl.scenes.draw import draw
from sdxl.scenes.numbered import scene_at
from sdxl.scenes.scene import caption
from sdxl.training.batches import Sizes

__all__ = ["Picture", "Pictures", "ScenePictures", "as_pixels"]


@dataclass(frozen=True)
class Picture:
    """A picture at the size of training."""

    pixels: Tensor  # [3, H, W], from -1 to 1
    sizes: Sizes


class Pictures(Protocol):
    """Pictures with captions, by number."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, of all of them."""

    def __len__(self) -> int:
        """How many there are."""

    def picture(self, index: int, rng: np.random.Generator) -> Picture:
        """One of them; `rng` decides what is cut out."""

    def caption(self, index: int, rng: np.random.Generator) -> str:
        """What it shows; `rng` decides the words."""

    def describe(self) -> dict[str, Any]:
        """What the pictures depend on, as JSON can hold it: what was made from them is stale when this changes."""


class ScenePictures:
    """The scenes from number 0 up to `count`."""

    def __init__(self, count: int, side: int) -> None:
        self.count = count
        self.side = side

    @property
    def size(self) -> tuple[int, int]:
        """Scenes are square."""
        return self.side, self.side

    def __len__(self) -> int:
        return self.count

    def picture(self, index: int, rng: np.random.Generator) -> Picture:
        """The whole scene, whatever `rng` says."""
        return Picture(as_pixels(draw(scene_at(index), self.side)), (*self.size, 0, 0, *self.size))

    def caption(self, index: int, rng: np.random.Generator) -> str:
        """One of the ways to say it."""
        return caption(scene_at(index), rng)

    def describe(self) -> dict[str, Any]:
        """Their number and size, and the first one's pixels, for the drawing itself may change."""
        first = hashlib.sha256(draw(scene_at(0), self.side).tobytes()).hexdigest()
        return {"scenes": self.count, "side": self.side, "first": first}


def as_pixels(image: Image.Image) -> Tensor:  # [3, H, W], from -1 to 1
    """The picture as the VAE takes it."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 127.5 - 1

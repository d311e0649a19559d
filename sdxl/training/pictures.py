"""Sources of pictures: the protocol, and our own scenes. A user's pictures are in `folder.py`."""

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
    """A picture of the training size."""

    pixels: Tensor  # [3, H, W], from -1 to 1
    sizes: Sizes


class Pictures(Protocol):
    """Pictures with captions, by number."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every picture."""

    def __len__(self) -> int:
        """The number of pictures."""

    def picture(self, index: int, rng: np.random.Generator) -> Picture:
        """The picture with that number; `rng` decides where it is cut."""

    def caption(self, index: int, rng: np.random.Generator) -> str:
        """A caption of the picture; `rng` decides the words."""

    def describe(self) -> dict[str, Any]:
        """Everything that the pictures depend on, fit for JSON. When it changes, kept latents are encoded again."""

    def identity(self) -> list[Any]:
        """What a training on the pictures depends on, fit for JSON: unlike `describe`, no times, but captions."""


class ScenePictures:
    """The scenes with the numbers 0 to count - 1."""

    def __init__(self, count: int, side: int) -> None:
        self.count = count
        self.side = side

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, which are equal."""
        return self.side, self.side

    def __len__(self) -> int:
        return self.count

    def picture(self, index: int, rng: np.random.Generator) -> Picture:
        """The whole scene; `rng` is not used."""
        return Picture(as_pixels(draw(scene_at(index), self.side)), (*self.size, 0, 0, *self.size))

    def caption(self, index: int, rng: np.random.Generator) -> str:
        """One of the scene's captions."""
        return caption(scene_at(index), rng)

    def describe(self) -> dict[str, Any]:
        """The number and size of the scenes, and the pixels of the first, because the drawing code may change."""
        first = hashlib.sha256(draw(scene_at(0), self.side).tobytes()).hexdigest()
        return {"scenes": self.count, "side": self.side, "first": first}

    def identity(self) -> list[Any]:
        """The same: captions come from the scenes."""
        return [self.describe()]


def as_pixels(image: Image.Image) -> Tensor:  # [3, H, W], from -1 to 1
    """The picture as a tensor for the VAE."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 127.5 - 1

"""The book of a session: its picture, how its latents came about, the pictures before, and the noise."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

__all__ = ["Book", "Recorded", "State"]


@dataclass(frozen=True, eq=False)
class State:
    """The picture of a session, and how its latents came about."""

    picture: Image.Image
    latents: Tensor | None = None  # [1, C, h, w], scaled
    path: Tensor | None = None  # [steps, C, h, w]: the latents after each step
    known: Tensor | None = None  # bool [1, 1, h, w]: where the path is that of these latents


@dataclass(frozen=True, eq=False)
class Recorded:
    """What the store's recordings are of."""

    unet: Tensor | None = None  # [1, C, h, w]: the latents that the steps ended with
    mask: Tensor | None = None  # bool [1, 1, h, w]: the cells that were painted
    decoder: Tensor | None = None  # [1, C, h, w]: the latents that were decoded


@dataclass
class Book:
    """Everything that a session remembers but its recordings."""

    state: State
    recorded: Recorded = field(default_factory=Recorded)
    before: list[tuple[State, Recorded]] = field(default_factory=list)  # each accepted edit, the oldest first
    noise: Tensor | None = None  # [1, C, h, w]
    signature: str = ""  # of the sampling and the weights that path and recordings are good for

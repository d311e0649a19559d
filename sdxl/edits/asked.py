"""What is asked of one edit, by the names that the server and the batch share, and the request that it means."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

import sige
from sdxl.edits.request import Request
from sdxl.edits.sampling import Sampling
from sdxl.errors import InputError
from sdxl.pictures.images import size_of, size_text
from sdxl.pictures.masks import Mask

__all__ = ["MOST_PICTURES", "Asked", "Defaults", "text_flag", "text_number", "text_steps", "text_whole"]

MOST_PICTURES = 10  # of one request
MOST_STEPS = 200


@dataclass(frozen=True)
class Defaults:
    """What holds where nothing is said."""

    steps: int = 30
    scale: float = 7.5
    preset: str = "balanced"


@dataclass(frozen=True)
class Asked:
    """The numbers and words of one request; None means the default."""

    prompt: str = ""
    negative_prompt: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    strength: float | None = None
    seed: int | None = None  # None: any
    dense_steps: int | tuple[int, ...] | None = None
    dense: bool = False  # every pass is dense
    grow: int = 0
    mask_blur: int = 0
    match_edge: int = 0
    only_masked: int | None = None
    n: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.n <= MOST_PICTURES:
            raise InputError(f"n: got {self.n}, expected a number from 1 to {MOST_PICTURES}", "n")
        if self.steps is not None and not 1 <= self.steps <= MOST_STEPS:
            raise InputError(f"steps: got {self.steps}, expected a number from 1 to {MOST_STEPS}", "steps")

    @classmethod
    def of_form(cls, form: Mapping[str, str]) -> Asked:
        """The values of a form's fields; the empty text is a field that was left out.

        >>> Asked.of_form({"prompt": "a horse", "steps": "20", "dense_steps": "0,1,4"}).dense_steps
        (0, 1, 4)
        """
        readers: dict[str, Any] = {
            **dict.fromkeys(("prompt", "negative_prompt"), lambda name, text: text),
            **dict.fromkeys(("steps", "seed", "grow", "mask_blur", "match_edge", "only_masked", "n"), text_whole),
            **dict.fromkeys(("guidance_scale", "strength"), text_number),
            "dense_steps": text_steps,
            "dense": text_flag,
        }
        return cls(**{name: read(name, form[name]) for name, read in readers.items() if form.get(name)})

    def sampling(self, defaults: Defaults) -> Sampling:
        """How the model paints; a seed of its own where none is asked for."""
        return Sampling(
            self.prompt,
            self.negative_prompt,
            steps=self.steps or defaults.steps,
            scale=defaults.scale if self.guidance_scale is None else self.guidance_scale,
            strength=self.strength,
            seed=secrets.randbelow(2**32) if self.seed is None else self.seed,
        )

    def policy(self, defaults: Defaults) -> sige.Policy | None:
        """How much is computed at which step; None where every pass is dense."""
        if self.dense:
            return None
        if self.dense_steps is not None:
            return sige.Temporal(defaults.preset, dense_steps=self.dense_steps)
        return sige.Temporal(defaults.preset)

    def request(
        self, defaults: Defaults, image: Image.Image, *, mask: Mask | None = None, edited: Image.Image | None = None
    ) -> Request:
        """The edit of a picture under a mask [H, W], or from a picture that was painted over."""
        if mask is not None and mask.shape != size_of(image):
            got, expected = size_text((mask.shape[0], mask.shape[1])), size_text(size_of(image))
            raise InputError(f"mask: got {got}, expected the size of the image, {expected}: resize the mask", "mask")
        shaping: dict[str, Any] = {}
        if mask is not None:
            shaping = {name: getattr(self, name) for name in ("grow", "mask_blur", "match_edge", "only_masked")}
        policy = self.policy(defaults) if mask is not None or edited is not None else None
        return Request(self.sampling(defaults), image=image, mask=mask, edited=edited, policy=policy, **shaping)


def text_whole(name: str, text: str) -> int:
    """The whole number that a field says."""
    try:
        if len(text) <= 20:
            return int(text)
    except ValueError:
        pass
    raise InputError(f"{name}: got {text[:40]!r}, expected a whole number", name)


def text_number(name: str, text: str) -> float:
    """The number that a field says; never NaN or infinite."""
    try:
        number = float(text)
        if abs(number) < 1e9:
            return number
    except ValueError:
        pass
    raise InputError(f"{name}: got {text[:40]!r}, expected a number", name)


def text_flag(name: str, text: str) -> bool:
    """The truth that a field says."""
    word = text.strip().lower()
    if word in ("true", "1", "yes", "on", "false", "0", "no", "off"):
        return word in ("true", "1", "yes", "on")
    raise InputError(f"{name}: got {text[:40]!r}, expected true or false", name)


def text_steps(name: str, text: str) -> int | tuple[int, ...]:
    """The number of steps, or their list, that a field says."""
    parts = [part.strip() for part in text.strip(" ,[]").split(",")]
    if not all(part.isdecimal() and len(part) <= 4 for part in parts):
        raise InputError(f"{name}: got {text[:40]!r}, expected how many steps, or which, as 0,2,5,9", name)
    return tuple(int(part) for part in parts) if "," in text else int(parts[0])

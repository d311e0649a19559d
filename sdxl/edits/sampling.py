"""Sampling: how a model makes a picture. Importable without torch, so mistakes are found before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from sdxl.edits.limits import MOST_SKIPPED, STRONGEST_CONTROL
from sdxl.errors import InputError
from sdxl.pipelines.emphasis import parse_emphasis
from sige.sizes import Size

__all__ = ["REFINER_STRENGTH", "STRENGTH", "Sampling"]

STRENGTH = {"inpainting": 1.0, "sdedit": 0.8, "img2img": 0.8}  # of each task that begins with a picture
REFINER_STRENGTH = 0.3  # of a refiner that follows a finished picture
PROMPTS = ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2")


@dataclass(frozen=True)
class Sampling:
    """The values that a pipeline samples with: prompts, steps, guidance, seed, size conditioning.

    A prompt may have 10,000 characters. `(red:1.3)` weighs a word, `(red)` 1.1, `[red]` 1/1.1; `\\(` is a bracket.

    >>> Sampling("a horse", steps=30).strength_of("inpainting")
    1.0
    """

    prompt: str = ""
    negative_prompt: str | None = None
    prompt_2: str | None = None
    negative_prompt_2: str | None = None
    steps: int = 50
    scale: float = 7.5
    eta: float = 0.0
    strength: float | None = None  # None: STRENGTH of the task
    seed: int = 0
    original_size: Size | None = None
    target_size: Size | None = None
    crops_coords_top_left: Size | None = None
    negative_original_size: Size | None = None
    negative_target_size: Size | None = None
    negative_crops_coords_top_left: Size | None = None
    denoising_split: float | None = None  # where a refiner takes over; None: it follows the finished picture
    clip_skip: int | None = None  # how many of each text encoder's last layers the prompt leaves out
    control_scale: float = 1.0  # of what a ControlNet adds

    def __post_init__(self) -> None:
        for name in ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2"):
            parse_emphasis(getattr(self, name) or "", name)  # refuses wrong weights
        if not 0 < self.control_scale <= STRONGEST_CONTROL:
            got, most = self.control_scale, f"{STRONGEST_CONTROL:g}"
            raise InputError(f"control_scale: got {got}, expected a number above 0, up to {most}", "control_scale")
        if self.clip_skip is not None and not 1 <= self.clip_skip <= MOST_SKIPPED:
            raise InputError(
                f"clip_skip: got {self.clip_skip}, expected a number from 1 to {MOST_SKIPPED}, or none", "clip_skip"
            )
        for name, value in (("strength", self.strength), ("denoising_split", self.denoising_split), ("eta", self.eta)):
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name}: got {value}, expected a number from 0 to 1", name)
        if self.steps < 1:
            raise InputError(f"steps: got {self.steps}, expected at least 1", "steps")
        if not isinstance(self.seed, Integral):
            raise InputError(f"seed: got {self.seed!r}, expected a whole number", "seed")
        if not -(2**63) <= self.seed < 2**63:
            raise InputError(f"seed: got {self.seed}, expected a number of at most 63 bits", "seed")
        object.__setattr__(self, "seed", int(self.seed))  # torch takes no integer of numpy
        for name in PROMPTS:
            _check_text(name, getattr(self, name))

    @property
    def is_guided(self) -> bool:
        """Says whether each pass has a batch of two: one with the prompt and one with the negative prompt."""
        return self.scale > 1

    def strength_of(self, task: str) -> float:
        """The strength that was set, or the task's own; raises `InputError` where it leaves no step."""
        strength = STRENGTH.get(task, 1.0) if self.strength is None else self.strength
        if int(self.steps * strength) < 1:
            raise InputError(f"strength {strength} of {self.steps} steps leaves none: raise one of the two", "strength")
        return strength

    def check_refiner(self, task: str) -> None:
        """Refuses steps or a split that leave no step for the base or for the refiner."""
        split, steps = self.denoising_split, self.steps
        if split is None:
            if int(steps * REFINER_STRENGTH) < 1:
                raise InputError(
                    f"steps: got {steps}, expected 4 or more: the refiner takes {REFINER_STRENGTH:.0%} of them, which "
                    "is less than one step",
                    "steps",
                )
            return
        strength = self.strength_of(task)
        if int(steps * (strength + split - 1)) < 1 or int(steps * (1 - split)) < 1:
            raise InputError(
                f"denoising_split {split} of {steps} steps at strength {strength} leaves none for the base or for the "
                "refiner: raise the steps, or move the split",
                "denoising_split",
            )


def _check_text(name: str, text: str | None) -> None:
    """Refuses a text that UTF-8 cannot hold: a tokenizer would raise an error of its own."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name}: holds bytes that are no UTF-8, expected text: type it again", name) from error

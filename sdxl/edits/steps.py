"""Steps: what `on_step` is told after each step of the sampler, and how it cancels the edit."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image

from sdxl.edits.preview import preview
from sdxl.errors import Cancelled, SdxlError
from sige.sizes import Size

__all__ = ["OnStep", "Progress", "Step", "count_steps"]


@dataclass(frozen=True)
class Step:
    """A step that has just been taken."""

    number: int  # from 1
    steps: int  # of base and refiner together
    preview: Callable[[], Image.Image]  # draws the current latents at the picture's size, without the VAE


OnStep = Callable[[Step], bool | None]  # False cancels, as does raising sdxl.Cancelled


class Progress:
    """The callback that the pipelines call after each step: it checks the latents, counts, and reports."""

    def __init__(self, on_step: OnStep | None, size: Size, padded: Size) -> None:
        self.taken: list[int] = []  # steps of the base, then of the refiner
        self._on_step = on_step
        self._sizes = size, padded
        self._after = 0

    def begin(self, after: int = 0) -> None:
        """Counts the steps of another pipeline from here on; `after` steps of a refiner follow them."""
        self.taken.append(0)
        self._after = after

    def __call__(self, pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        latents = values["latents"]  # [1, C, h, w]
        if not torch.isfinite(latents).all():
            raise SdxlError(
                f"step {step + 1}: the latents are no longer finite numbers: take the dtype fp32 or bf16, or other "
                "weights"
            )
        self.taken[-1] += 1
        if self._on_step is not None:
            steps = sum(self.taken[:-1]) + int(pipe.num_timesteps) + self._after
            size, padded = self._sizes
            told = Step(sum(self.taken), steps, lambda: preview(pipe, latents, size, padded))
            if self._on_step(told) is False:
                raise Cancelled(f"cancelled after step {told.number} of {told.steps}")
        return values


def count_steps(pipe: Any, steps: int, options: dict[str, Any]) -> int:
    """The number of steps that the pipeline takes with `strength` or `denoising_start` in its options.

    The pipeline's own rule says it, with a copy of its scheduler.
    """
    scheduler = deepcopy(pipe.scheduler)
    scheduler.set_timesteps(steps)
    start = {name: value for name, value in options.items() if name == "denoising_start"}
    rule = type(pipe).get_timesteps
    timesteps, _ = rule(SimpleNamespace(scheduler=scheduler), steps, options.get("strength", 1.0), None, **start)
    return len(timesteps)

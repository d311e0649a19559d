"""Keep: an SDEdit in which the original stays as it is outside the part that was painted over.

The pipeline alone paints the whole picture anew. Here each step ends with the original's latents outside that part,
under the noise of the next step. So the model sees what it paints into, and what lies outside stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdxl.edits.steps import Progress

__all__ = ["Outside"]


@dataclass(frozen=True)
class Outside:
    """A callback after each step: it reports to `progress`, and puts the latents outside back."""

    progress: Progress
    inside: Tensor  # bool [1, 1, h, w]: the cells that are painted
    start: Tensor  # [1, C, h, w]: what noise was added to
    noise: Tensor  # [1, C, h, w]

    def __call__(self, pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        values = self.progress(pipe, step, timestep, values)
        latents = values["latents"]
        timesteps = pipe.scheduler.timesteps
        following = len(timesteps) - pipe.num_timesteps + step + 1
        given = self.start
        if following < len(timesteps):
            given = pipe.scheduler.add_noise(self.start, self.noise, timesteps[following : following + 1])
        return values | {"latents": torch.where(self.inside, latents, given.to(latents))}

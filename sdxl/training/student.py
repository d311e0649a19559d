"""The student of a distilled model: it learns to reach in few steps, without guidance, what its teacher reached.

noise ─ step 0 ─▶ ─ step 1 ─▶ … ─ step k ─▶ clean latents, compared with the teacher's of the same noise and caption

The steps before the one that learns are the student's own, so it learns to mend what it will meet. All steps are
those of an Euler solver on the schedule's noisiest timesteps ("trailing"), from which a picture can be painted in one
step, too: step 0 leads to the teacher's picture at once, the later ones make it sharper.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdxl.training.batches import Batch
from sdxl.training.denoiser import Denoiser, Encoded

__all__ = ["Student", "trailing"]


def trailing(count: int, total: int = 1000) -> tuple[int, ...]:
    """The timesteps of a run in a few steps, the noisiest first.

    >>> trailing(4), trailing(1)
    ((999, 749, 499, 249), (999,))
    """
    return tuple(round(total - turn * total / count) - 1 for turn in range(count))


class Student(Denoiser):
    """A denoiser that learns from trajectories; the batch's noise and latents are their ends."""

    def __init__(self, models: dict[str, nn.Module], tokenizers: dict[str, Any], alphas: Tensor, *, steps: int) -> None:
        super().__init__(models, tokenizers, alphas)
        self.timesteps = trailing(steps, len(alphas))  # of a run

    def forward(self, batch: Batch) -> Tensor:
        """The mean squared error of the clean latents after one of the steps, which the drawn timestep chooses.

        An error of the noise is one of the picture, 15 times as large at the first step and smaller at the last. The
        weight stands between the two, so that all steps pull at the UNet with about the same force.
        """
        timesteps = self.timesteps
        learning = int(batch.timesteps[0]) * len(timesteps) // len(self.alphas)  # type: ignore[arg-type]
        text = self.encode(batch)
        latents = (1 - self.alphas[timesteps[0]]).sqrt() * batch.noise  # type: ignore[index]  # as Euler's solver begins
        with torch.no_grad():
            for at, after in zip(timesteps[:learning], timesteps[1:], strict=False):
                latents = self._step(latents, at, after, text)
        clean, _ = self.clean(latents, timesteps[learning], text)
        alpha = self.alphas[timesteps[learning]]  # type: ignore[index]
        return (alpha / (1 - alpha)).sqrt() * F.mse_loss(clean, batch.latents.float())

    def clean(self, latents: Tensor, at: int, text: Encoded) -> tuple[Tensor, Tensor]:  # [B, C, h, w] each
        """The clean latents that the UNet sees in noised ones, and the noise."""
        times = torch.full((len(latents),), at, device=latents.device)
        noise = self.noise_in(latents, times, text).float()
        alpha = self.alphas[at]  # type: ignore[index]
        return (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt(), noise

    def _step(self, latents: Tensor, at: int, after: int, text: Encoded) -> Tensor:  # [B, C, h, w] -> [B, C, h, w]
        clean, noise = self.clean(latents, at, text)
        alpha = self.alphas[after]  # type: ignore[index]
        return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise

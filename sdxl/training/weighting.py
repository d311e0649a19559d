"""The weights of the losses: which timesteps, and which part of the picture, a training attends to most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Weighting"]


@dataclass(frozen=True)
class Weighting:
    """A UNet learns the noise. These weights say how much its error counts.

    Where there is much noise, the noise is easy to see and the picture is not: a small error of the noise is a large
    one of the picture. There a picture gets its colours and its horizon, and `velocity` makes those steps count. Where
    there is little noise, the noise is hard to see and matters little: `min_snr` makes those steps count less.
    """

    min_snr: float | None = None
    velocity: bool = False
    masked: float = 1.0  # weight of what lies under the mask; the rest of the picture has 1

    def of_timesteps(self, alphas: Tensor) -> Tensor:  # [B] -> [B]
        """The weights at those products of the schedule's alphas.

        >>> alphas = torch.tensor([0.9, 0.5, 0.1])
        >>> Weighting(min_snr=1).of_timesteps(alphas)
        tensor([0.1111, 1.0000, 1.0000])
        >>> Weighting(velocity=True).of_timesteps(alphas)
        tensor([ 1.1111,  2.0000, 10.0000])
        """
        if self.velocity:
            return 1 / alphas  # (velocity - predicted velocity)² = (noise - predicted noise)² / alpha
        if self.min_snr is None:
            return torch.ones_like(alphas)
        snr = alphas / (1 - alphas)
        return snr.clamp(max=self.min_snr) / snr

    def of_places(self, mask: Tensor | None) -> Tensor | float:  # [B, 1, h, w] -> [B, 1, h, w], mean 1 in each picture
        """The weights of the positions of each picture; 1 without masks."""
        if mask is None or self.masked == 1:
            return 1.0
        weights = 1 + (self.masked - 1) * mask
        return weights / weights.mean(dim=(1, 2, 3), keepdim=True)

"""The VAE's own training: pictures to latents and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdxl.training.batches import sample_rng
from sdxl.training.draw import draw
from sdxl.training.pictures import as_pixels, scene_at

__all__ = ["Autoencoder", "Pixels", "normalise", "scene_crops"]

_EDGES, _SPREAD = 1.0, 1e-6  # weights of the loss beside the pixels' own


@dataclass(frozen=True)
class Pixels:
    """A batch of pictures with the noise of their latents."""

    values: Tensor  # [B, 3, H, W], from -1 to 1
    noise: Tensor  # [B, C, H / 8, W / 8]

    def to(self, device: torch.device | str) -> Pixels:
        """The same on another device."""
        return Pixels(self.values.to(device), self.noise.to(device))


def scene_crops(
    step: int, share: tuple[int, int], *, seed: int, count: int, batch: int, side: int, crop: int, channels: int = 4
) -> Pixels:
    """Crops of random scenes: a step's batch, or process `share[0]`'s part of it."""
    rank, world = share
    values, noise = [], []
    for place in range(rank * batch // world, (rank + 1) * batch // world):
        rng = sample_rng(seed, step, place)
        pixels = as_pixels(draw(scene_at(int(rng.integers(count))), side))
        top, left = (int(rng.integers((side - crop) // 8 + 1)) * 8 for _ in range(2))
        values.append(pixels[:, top : top + crop, left : left + crop])
        noise.append(torch.from_numpy(rng.standard_normal((channels, crop // 8, crop // 8), dtype="float32")))
    return Pixels(torch.stack(values), torch.stack(noise))


class Autoencoder(nn.Module):
    """An AutoencoderKL and its loss: pixels, steps from pixel to pixel, and a little of the latents' spread."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, batch: Pixels) -> Tensor:
        """The mean loss of the batch."""
        likely = self.vae.encode(batch.values).latent_dist
        painted = self.vae.decode(likely.mean + likely.std * batch.noise).sample
        spread = 0.5 * (likely.mean.square() + likely.var - 1 - likely.logvar).mean()
        loss: Tensor = (painted - batch.values).abs().mean() + _EDGES * _edges(painted, batch.values)
        loss = loss + _SPREAD * spread
        return loss


def _edges(painted: Tensor, wanted: Tensor) -> Tensor:  # [B, 3, H, W] twice -> scalar
    """How far the steps from pixel to pixel are apart: what keeps edges sharp."""
    across, down = (F.l1_loss(painted.diff(dim=dim), wanted.diff(dim=dim)) for dim in (3, 2))
    return across + down


@torch.no_grad()
def normalise(vae: Any, latents: Tensor) -> None:  # [N, C, h, w], means as the encoder gives them
    """Folds mean 0 and deviation 1 of every latent channel into the VAE, which paints as before.

    Then the scaling factor is 1, and no number besides the weights needs to be kept.
    """
    channels = latents.shape[1]
    middle, spread = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))  # [C] each
    before, after = vae.quant_conv, vae.post_quant_conv
    before.weight[:channels] /= spread[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - middle) / spread
    before.bias[channels:] -= 2 * spread.log()  # the logarithms of the variances
    after.bias += (after.weight[:, :, 0, 0] * middle).sum(dim=1)
    after.weight *= spread[None, :, None, None]

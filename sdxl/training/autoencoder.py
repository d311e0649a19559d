"""Training of the VAE, which turns pictures into latents and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdxl.scenes.draw import draw, thing_box
from sdxl.scenes.numbered import scene_at
from sdxl.scenes.scene import Scene
from sdxl.training.batches import sample_rng
from sdxl.training.pictures import as_pixels

__all__ = ["Autoencoder", "Pixels", "corner_of", "normalise", "scene_crops"]

_SQUARES, _EDGES, _SPREAD = 2.0, 1.0, 1e-6  # weights of the other terms beside the pixels' term


@dataclass(frozen=True)
class Pixels:
    """A batch of pictures with the noise of their latents."""

    values: Tensor  # [B, 3, H, W], from -1 to 1
    noise: Tensor  # [B, C, H / 8, W / 8]

    def to(self, device: torch.device | str) -> Pixels:
        """The batch on another device."""
        return Pixels(self.values.to(device), self.noise.to(device))


def scene_crops(
    step: int, share: tuple[int, int], *, seed: int, count: int, batch: int, side: int, crop: int, channels: int = 4
) -> Pixels:
    """Crops of random scenes: the part `share[0]` of `share[1]` of a step's batch."""
    rank, world = share
    values, noise = [], []
    for place in range(rank * batch // world, (rank + 1) * batch // world):
        rng = sample_rng(seed, step, place)
        scene = scene_at(int(rng.integers(count)))
        pixels = as_pixels(draw(scene, side))
        top, left = corner_of(scene, side, crop, rng)
        values.append(pixels[:, top : top + crop, left : left + crop])
        noise.append(torch.from_numpy(rng.standard_normal((channels, crop // 8, crop // 8), dtype="float32")))
    return Pixels(torch.stack(values), torch.stack(noise))


def corner_of(scene: Scene, side: int, crop: int, rng: np.random.Generator) -> tuple[int, int]:  # top, left
    """The corner of a crop: every other time anywhere, else near the thing.

    The thing covers a twentieth of the picture and has colours that nothing else has.
    """
    last = (side - crop) // 8
    anywhere = rng.integers(last + 1, size=2)
    if rng.random() < 0.5:
        return int(anywhere[0]) * 8, int(anywhere[1]) * 8
    left, top, right, bottom = thing_box(scene, side)
    shift = rng.uniform(-crop / 4, crop / 4, size=2)
    near = (np.array([top + bottom, left + right]) / 2 + shift - crop / 2) / 8
    row, column = near.round().astype(int).clip(0, last)
    return int(row) * 8, int(column) * 8


class Autoencoder(nn.Module):
    """An AutoencoderKL and its loss: wrong pixels, wrong edges, and with a small weight the spread of the latents.

    A pixel counts by its distance and also by the square of it: a small thing in a wrong colour has few wrong pixels,
    and each is far off.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, batch: Pixels) -> Tensor:
        """The mean loss of the batch."""
        likely = self.vae.encode(batch.values).latent_dist
        painted = self.vae.decode(likely.mean + likely.std * batch.noise).sample.float()
        spread = 0.5 * (likely.mean.square() + likely.var - 1 - likely.logvar).mean()
        off = painted - batch.values  # [B, 3, H, W]
        loss: Tensor = off.abs().mean() + _SQUARES * off.square().mean() + _EDGES * _edges(painted, batch.values)
        loss = loss + _SPREAD * spread
        return loss


def _edges(painted: Tensor, wanted: Tensor) -> Tensor:  # [B, 3, H, W] twice -> scalar
    """Mean distance between the differences of neighbouring pixels in both pictures; this term keeps edges sharp."""
    across, down = (F.l1_loss(painted.diff(dim=dim), wanted.diff(dim=dim)) for dim in (3, 2))
    return across + down


@torch.no_grad()
def normalise(vae: Any, latents: Tensor) -> None:  # [N, C, h, w], means as the encoder gives them
    """Changes the VAE's weights so that every latent channel has mean 0 and deviation 1; it paints as before.

    Then the scaling factor is 1, and a checkpoint needs no number besides the weights.
    """
    channels = latents.shape[1]
    middle, spread = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))  # [C] each
    before, after = vae.quant_conv, vae.post_quant_conv
    before.weight[:channels] /= spread[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - middle) / spread
    before.bias[channels:] -= 2 * spread.log()  # the logarithms of the variances
    after.bias += (after.weight[:, :, 0, 0] * middle).sum(dim=1)
    after.weight *= spread[None, :, None, None]

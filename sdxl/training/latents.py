"""Scenes as latents, encoded once and kept in one file: the encoder is the slow part of a small training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sdxl.errors import InputError
from sdxl.files import atomic_write
from sdxl.training.batches import Example
from sdxl.training.draw import draw
from sdxl.training.masks import random_mask
from sdxl.training.scenes import Scene, caption, random_scene

__all__ = ["SceneLatents", "encode_scenes", "scene_at"]

HELD_OUT = 1_000_000  # scenes from this number on are never trained on


def scene_at(number: int) -> Scene:
    """The scene of a number; below HELD_OUT for training, from there on to measure."""
    return random_scene(np.random.default_rng([7, number]))


def as_pixels(image: Image.Image) -> Tensor:  # [3, H, W], from -1 to 1
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 127.5 - 1


@torch.no_grad()
def encode_scenes(
    vae: Any, path: Path, count: int, side: int, *, masks: bool, batch: int = 16, progress: bool = True
) -> None:
    """Moments [N, 2C, h, w] of the first `count` scenes, and with `masks` those of the masked pictures, to a file."""
    from safetensors.torch import save_file

    kept: dict[str, list[Tensor]] = {"moments": [], "masked": [], "mask": []}
    for start in tqdm(range(0, count, batch), desc="encoding scenes", disable=None if progress else True):
        numbers = range(start, min(start + batch, count))
        pixels = torch.stack([as_pixels(draw(scene_at(number), side)) for number in numbers])
        kept["moments"].append(_moments(vae, pixels))
        if masks:
            mask = torch.stack([_mask(number, side) for number in numbers])  # [B, 1, H, W]
            kept["masked"].append(_moments(vae, pixels * (1 - mask)))
            kept["mask"].append(torch.nn.functional.interpolate(mask, kept["moments"][-1].shape[2:]).half())
    tensors = {name: torch.cat(values).contiguous() for name, values in kept.items() if values}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, {"count": str(count), "side": str(side)})


def _moments(vae: Any, pixels: Tensor) -> Tensor:  # [B, 3, H, W] -> fp16 [B, 2C, h, w]
    return vae.encode(pixels.to(vae.dtype)).latent_dist.parameters.half()  # type: ignore[no-any-return]


def _mask(number: int, side: int) -> Tensor:  # [1, H, W]
    return torch.from_numpy(random_mask(np.random.default_rng([8, number]), side, side).astype(np.float32))[None]


class SceneLatents:
    """The file that `encode_scenes` wrote, as examples: latents are drawn anew each time, captions said anew."""

    def __init__(self, path: Path, scaling_factor: float) -> None:
        from safetensors.torch import load_file

        if not path.is_file():
            raise InputError(f"{path} does not exist: encode the scenes first")
        tensors = load_file(path)
        self.moments = tensors["moments"]  # fp16 [N, 2C, h, w]
        self.masked, self.mask = tensors.get("masked"), tensors.get("mask")
        self.scaling_factor = scaling_factor
        self.side = 8 * self.moments.shape[2]

    def __len__(self) -> int:
        return len(self.moments)

    def example(self, index: int, rng: np.random.Generator) -> Example:
        """The scene of that number."""
        extra: dict[str, Tensor] = {}
        if self.mask is not None and self.masked is not None:
            extra = {"mask": self.mask[index].float(), "masked": self._draw(self.masked[index], rng)}
        sizes = (self.side, self.side, 0, 0, self.side, self.side)
        return Example(self._draw(self.moments[index], rng), caption(scene_at(index), rng), sizes, **extra)

    def _draw(self, moments: Tensor, rng: np.random.Generator) -> Tensor:  # [2C, h, w] -> [C, h, w]
        mean, log_variance = moments.float().chunk(2)
        noise = torch.from_numpy(rng.standard_normal(mean.shape, dtype=np.float32))
        return self.scaling_factor * (mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise)

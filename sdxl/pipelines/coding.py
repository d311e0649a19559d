"""Encodes pictures to latents and decodes them, as diffusers' pipelines do."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

__all__ = ["as_pixels", "decode", "encode", "twin"]


def as_pixels(pipe: Any, image: Image.Image) -> Tensor:  # [1, 3, H, W], from -1 to 1
    """The picture as the encoder takes it."""
    return pipe.image_processor.preprocess(image).to(pipe.vae.device, torch.float32)  # type: ignore[no-any-return]


@torch.no_grad()
def encode(pipe: Any, pixels: Tensor, generator: torch.Generator) -> Tensor:  # [B, 3, H, W] -> [B, C, h, w]
    """The scaled latents of the pixels; the generator draws what the pipelines' own encoding draws."""
    vae = pipe.vae
    latents = vae.encode(pixels.to(vae.dtype)).latent_dist.sample(generator)
    return vae.config.scaling_factor * latents.to(pipe.unet.dtype)  # type: ignore[no-any-return]


@torch.no_grad()
def decode(pipe: Any, latents: Tensor) -> Tensor:  # [B, C, h, w] -> [B, 3, H, W]
    """The picture of scaled latents, from -1 to 1."""
    vae = pipe.vae
    return vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]  # type: ignore[no-any-return]


def twin(generator: torch.Generator) -> torch.Generator:
    """Another generator that draws the same numbers from here on."""
    return torch.Generator(generator.device).set_state(generator.get_state())

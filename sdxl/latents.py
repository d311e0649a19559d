"""Pictures to latents and back, as diffusers' pipelines do it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

__all__ = ["as_pixels", "decode", "encode", "twin", "upcast"]


def as_pixels(pipe: Any, image: Image.Image) -> Tensor:  # [1, 3, H, W], from -1 to 1
    """The picture as the encoder takes it."""
    return pipe.image_processor.preprocess(image).to(pipe.vae.device, torch.float32)  # type: ignore[no-any-return]


@contextmanager
def upcast(vae: Any) -> Iterator[None]:
    """SDXL's VAE overflows in fp16: it runs in fp32 meanwhile, as its configuration asks."""
    half = vae.dtype == torch.float16 and vae.config.force_upcast
    if half:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if half:
            vae.to(torch.float16)


@torch.no_grad()
def encode(pipe: Any, pixels: Tensor, generator: torch.Generator) -> Tensor:  # [B, 3, H, W] -> [B, C, h, w]
    """Scaled latents, drawn as the pipelines draw them: afterwards the generator stands where theirs would."""
    vae = pipe.vae
    latents = vae.encode(pixels.to(vae.dtype)).latent_dist.sample(generator)
    return vae.config.scaling_factor * latents.to(pipe.unet.dtype)  # type: ignore[no-any-return]


def twin(generator: torch.Generator) -> torch.Generator:
    """Another generator that will draw the same numbers."""
    return torch.Generator(generator.device).set_state(generator.get_state())


@torch.no_grad()
def decode(pipe: Any, latents: Tensor) -> Tensor:  # [B, C, h, w] -> [B, 3, H, W]
    """The picture of scaled latents, from -1 to 1."""
    vae = pipe.vae
    return vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]  # type: ignore[no-any-return]

"""Pictures to latents and back, as diffusers' pipelines do it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

__all__ = ["as_pixels", "decode", "encode", "spared_encoding", "twin", "upcast"]


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


@contextmanager
def spared_encoding(pipe: Any) -> Iterator[None]:
    """Inside, an inpainting pipeline does not encode the masked picture for a UNet that does not take it.

    Diffusers' pipelines do (0.42.1, `prepare_mask_latents`) and throw the result away. They get latents of nothing
    instead, of the same shape and drawn alike: a sampler that draws later goes on where it would have.
    """
    prepare = getattr(pipe, "prepare_mask_latents", None)
    if prepare is None or pipe.unet.config.in_channels != pipe.vae.config.latent_channels:
        yield
        return

    def prepare_unseen(*args: Any, **kwargs: Any) -> Any:
        with _replaced(pipe.vae, "encode", partial(_encode_nothing, pipe.vae)):
            return prepare(*args, **kwargs)

    with _replaced(pipe, "prepare_mask_latents", prepare_unseen):
        yield


@contextmanager
def _replaced(owner: Any, name: str, method: Any) -> Iterator[None]:
    """Inside, the object has that method; afterwards its own, or its class's, as before."""
    own = vars(owner).get(name)
    setattr(owner, name, method)
    try:
        yield
    finally:
        delattr(owner, name)
        if own is not None:
            setattr(owner, name, own)


def _encode_nothing(vae: Any, pixels: Tensor) -> Any:  # [B, 3, H, W] -> latents [B, C, h, w]
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
    from diffusers.models.modeling_outputs import AutoencoderKLOutput

    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    sides = [side // factor for side in pixels.shape[2:]]
    nothing = pixels.new_zeros(pixels.shape[0], 2 * vae.config.latent_channels, *sides)
    return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(nothing))


@torch.no_grad()
def decode(pipe: Any, latents: Tensor) -> Tensor:  # [B, C, h, w] -> [B, 3, H, W]
    """The picture of scaled latents, from -1 to 1."""
    vae = pipe.vae
    return vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]  # type: ignore[no-any-return]

"""Makes an inpainting UNet of a text-to-image one: five more input channels, which change nothing at first."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from sdxl.checkpoint.load import Parts

__all__ = ["GROWN", "grow", "inpaints"]

GROWN = {"sdxl-base": "sdxl-inpaint", "sd15": "sd15-inpaint"}


def inpaints(parts: Parts) -> bool:
    """Says whether the UNet also takes a mask and the latents of the masked picture.

    >>> from sdxl.checkpoint.load import load
    >>> from sdxl.checkpoint.tiny import tiny_weights
    >>> inpaints(load(tiny_weights("sd15-inpaint"), progress=False))
    True
    """
    return bool(parts.unet.config.in_channels == 2 * parts.vae.config.latent_channels + 1)


@torch.no_grad()
def grow(parts: Parts) -> Parts:
    """The checkpoint for inpainting; its UNet is changed in place.

    The weights of the mask and of the masked latents begin at zero, so the UNet predicts the same as before at first.
    """
    unet, narrow = parts.unet, parts.unet.conv_in
    latents = narrow.in_channels
    where = {"device": narrow.weight.device, "dtype": narrow.weight.dtype}
    wide = nn.Conv2d(2 * latents + 1, narrow.out_channels, narrow.kernel_size, padding=narrow.padding, **where)
    wide.weight.zero_()
    wide.weight[:, :latents] = narrow.weight
    wide.bias.copy_(narrow.bias)  # type: ignore[union-attr]
    unet.conv_in = wide.train(unet.training).requires_grad_(narrow.weight.requires_grad)
    unet.register_to_config(in_channels=wide.in_channels)
    return replace(parts, kind=GROWN[parts.kind])

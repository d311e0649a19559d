"""Contexts that mend faults of diffusers' pipelines (0.42.1) from outside, each for as long as its block lasts."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sige.sizes import Size

__all__ = ["mended", "own_negative_crop", "quiet", "spared_encoding", "upcast", "with_negative_sizes"]


@contextmanager
def mended(pipe: Any) -> Iterator[None]:
    """Inside, a call of the pipeline has none of the faults below that occur within one call."""
    with own_negative_crop(pipe), spared_encoding(pipe):
        yield


# ---- size conditioning -----------------------------------------------------------------------------------------------


@contextmanager
def own_negative_crop(pipe: Any) -> Iterator[None]:
    """Inside, the negative prompt has its own `negative_crops_coords_top_left`.

    The SDXL pipelines that begin with a picture take that argument and give the negative prompt the positive crop
    (`_get_add_time_ids`). So their method is called twice: once with each crop.
    """
    method = getattr(pipe, "_get_add_time_ids", None)
    crop = "negative_crops_coords_top_left"
    if method is None or crop not in inspect.signature(method).parameters:  # text to image, SD 1.5
        yield
        return
    signature = inspect.signature(method)

    def call_twice(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(*args, **kwargs).arguments
        positive, _ = method(**arguments)
        _, negative = method(**arguments | {"crops_coords_top_left": arguments[crop]})
        return positive, negative

    with _replaced(pipe, "_get_add_time_ids", call_twice):
        yield


def with_negative_sizes(arguments: dict[str, Any], size: Size) -> dict[str, Any]:
    """The arguments of a call, with those added without which the pipelines silently ignore others.

    They read the sizes and the crop of the negative prompt only where both sizes are given, and `negative_prompt_2`
    only beside a `negative_prompt`.
    """
    completed = dict(arguments)
    if completed.get("negative_prompt_2") is not None and completed.get("negative_prompt") is None:
        completed["negative_prompt"] = ""
    if any(name.startswith("negative_") and name.endswith(("size", "left")) for name in completed):
        completed.setdefault("negative_original_size", completed.get("original_size", size))
        completed.setdefault("negative_target_size", completed.get("target_size", size))
    return completed


# ---- the VAE ---------------------------------------------------------------------------------------------------------


@contextmanager
def upcast(vae: Any) -> Iterator[None]:
    """Inside, a VAE that overflows in fp16 runs in fp32, as its configuration asks: SDXL's does.

    The pipelines do this around their own calls of the VAE, but not for a caller.
    """
    half = vae.dtype == torch.float16 and vae.config.force_upcast
    if half:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if half:
            vae.to(torch.float16)


@contextmanager
def spared_encoding(pipe: Any) -> Iterator[None]:
    """Inside, an inpainting pipeline does not encode the masked picture for a UNet that does not take it.

    The pipelines encode it all the same (`prepare_mask_latents`) and throw the result away. Here they get zeros of
    the same shape and draw the same random numbers, so that a sampler that draws later draws the same noise.
    """
    prepare = getattr(pipe, "prepare_mask_latents", None)
    if prepare is None or pipe.unet.config.in_channels != pipe.vae.config.latent_channels:
        yield
        return

    def prepare_without(*args: Any, **kwargs: Any) -> Any:
        with _replaced(pipe.vae, "encode", partial(_encode_to_zeros, pipe.vae)):
            return prepare(*args, **kwargs)

    with _replaced(pipe, "prepare_mask_latents", prepare_without):
        yield


def _encode_to_zeros(vae: Any, pixels: Tensor) -> Any:  # [B, 3, H, W] -> latents [B, C, h, w]
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
    from diffusers.models.modeling_outputs import AutoencoderKLOutput

    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    sides = [side // factor for side in pixels.shape[2:]]
    moments = pixels.new_zeros(pixels.shape[0], 2 * vae.config.latent_channels, *sides)
    return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))


# ---- warnings --------------------------------------------------------------------------------------------------------


def quiet() -> None:
    """Silences two warnings that nobody can act on: about an empty list of modules and about a missing torchvision."""
    for name in ("diffusers.models.modeling_utils", "transformers.utils.import_utils"):
        logging.getLogger(name).addFilter(_is_worth_reading)


def _is_worth_reading(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return "should be kept in float32: []" not in message and "requires torchvision" not in message


@contextmanager
def _replaced(owner: Any, name: str, method: Any) -> Iterator[None]:
    """Inside, the object has that method; afterwards it has its own or its class's again."""
    own = vars(owner).get(name)
    setattr(owner, name, method)
    try:
        yield
    finally:
        delattr(owner, name)
        if own is not None:
            setattr(owner, name, own)

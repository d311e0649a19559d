"""From what a user passes to enable() to the components that can run packed."""

from __future__ import annotations

from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel

from sige.errors import UnsupportedError
from sige.models.component import Component
from sige.models.unet import PackedUNet
from sige.models.vae import vae_components

__all__ = ["find_components", "is_pipeline"]


def find_components(target: object) -> list[Component]:
    """The UNet, the VAE's encoder and decoder, or all of a pipeline's."""
    if isinstance(target, UNet2DConditionModel):
        return [PackedUNet(target)]
    if isinstance(target, AutoencoderKL):
        return list(vae_components(target))
    if isinstance(target, DiffusionPipeline):
        parts = [getattr(target, name, None) for name in ("unet", "vae")]
        found = [component for part in parts if part is not None for component in find_components(part)]
        if found:
            return found
    raise UnsupportedError(
        f"enable: got {type(target).__module__}.{type(target).__name__}, expected a UNet2DConditionModel, an "
        "AutoencoderKL or a pipeline that has them"
    )


def is_pipeline(target: object) -> bool:
    """Is it a whole pipeline, whose calls have steps?"""
    return isinstance(target, DiffusionPipeline)

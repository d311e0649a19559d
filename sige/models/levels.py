"""The transformers of a UNet, each with its level."""

from __future__ import annotations

from typing import Any

from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.transformers.transformer_2d import Transformer2DModel

from sige.errors import UnsupportedError

__all__ = ["transformers_of", "unet_of"]


def unet_of(target: Any) -> Any:
    """The UNet of a pipeline, or the UNet itself; anything else is refused by its class."""
    unet = getattr(target, "unet", None) if isinstance(target, DiffusionPipeline) else target
    if "_orig_mod" in getattr(unet, "_modules", {}):
        raise UnsupportedError("tome: torch.compile has wrapped this UNet: apply to the UNet first, then compile it")
    if not isinstance(unet, UNet2DConditionModel):
        got = f"{type(target).__module__}.{type(target).__name__}"
        raise UnsupportedError(f"tome: got {got}, expected a UNet2DConditionModel or a pipeline that has one")
    return unet


def transformers_of(unet: Any) -> list[tuple[Any, int]]:
    """The transformers in the order of the forward; with each, how many latents one of its positions is wide."""
    down, up = list(unet.down_blocks), list(unet.up_blocks)
    levels = [(block, 2**k) for k, block in enumerate(down)]
    levels += [(unet.mid_block, 2 ** (len(down) - 1))] if unet.mid_block is not None else []
    levels += [(block, 2 ** (len(up) - 1 - k)) for k, block in enumerate(up)]
    found = [(model, width) for block, width in levels for model in getattr(block, "attentions", None) or []]
    for model, _ in found:
        for part in getattr(model, "transformer_blocks", [model]):
            if not isinstance(model, Transformer2DModel) or not isinstance(part, BasicTransformerBlock):
                raise UnsupportedError(f"tome: this UNet has attention in a {type(part).__name__}, which cannot merge")
    if not found:
        raise UnsupportedError("tome: this UNet has no transformer, so there are no rows that could merge")
    return found

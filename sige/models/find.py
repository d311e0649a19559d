"""The parts of enable()'s argument that can run packed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel

from sige.errors import UnsupportedError
from sige.models.component import Part
from sige.models.unet import PackedUNet
from sige.models.vae import PackedCoder

__all__ = ["find_parts", "is_pipeline"]


def find_parts(target: object) -> list[Part]:
    """The parts of a UNet, of a VAE (its encoder and decoder), or of a pipeline that has them.

    Policies run a pipeline's VAE dense, so it need not run packed.
    """
    if isinstance(target, UNet2DConditionModel):
        return [Part(PackedUNet.name, PackedUNet.role, target, partial(PackedUNet, target))]
    if isinstance(target, AutoencoderKL):
        coders = {"vae.encoder": target.encoder, "vae.decoder": target.decoder}
        return [
            Part(name, PackedCoder.role, coder, partial(PackedCoder, name, coder, target))
            for name, coder in coders.items()
        ]
    if isinstance(target, DiffusionPipeline):
        found = _parts_of_pipeline(target)
        if found:
            return found
    raise UnsupportedError(f"enable: got {_class(target)}, expected {_wanted(target)}")


def _parts_of_pipeline(pipe: DiffusionPipeline) -> list[Part]:
    unet, vae = (getattr(pipe, name, None) for name in ("unet", "vae"))
    denoisers = [] if unet is None else find_parts(unet)
    coders = find_parts(vae) if isinstance(vae, AutoencoderKL) else []
    return [*denoisers, *(replace(part, required=not denoisers) for part in coders)]


def is_pipeline(target: object) -> bool:
    """Says whether the target is a whole pipeline with a UNet, so that its calls have steps."""
    return isinstance(target, DiffusionPipeline) and getattr(target, "unet", None) is not None


def _class(target: object) -> str:
    return f"{type(target).__module__}.{type(target).__name__}"


def _wanted(target: object) -> str:
    wanted = "a UNet2DConditionModel, an AutoencoderKL or a pipeline that has them"
    if "_orig_mod" in getattr(target, "_modules", {}):
        return (
            f"{wanted}; torch.compile has wrapped this model, and it cannot run packed: enable the one inside, then "
            "call handle.compile()"
        )
    return wanted

"""The rules for what is added to a model's weights, and for the memory that they take."""

from __future__ import annotations

from sdxl.commands.fields import Fields
from sdxl.commands.rules import flag
from sdxl.edits.limits import MOST_SKIPPED, STRONGEST_CONTROL
from sdxl.errors import InputError
from sdxl.pipelines.lora import with_strength

__all__ = ["check_weights"]

CONTROL = ("control_image", "control_scale")
NEGATIVE_SIZES = ("negative_original_size", "negative_target_size", "negative_crops_coords_top_left")


def check_weights(settings: Fields) -> None:
    """Raises `InputError` for the first rule that is broken."""
    for text in settings.lora:
        with_strength(text)
    if settings.clip_skip is not None and not 1 <= settings.clip_skip <= MOST_SKIPPED:
        raise InputError(f"--clip_skip: got {settings.clip_skip}, expected a number from 1 to {MOST_SKIPPED}")
    _check_controlnet(settings)
    _check_offload(settings)


def _check_controlnet(settings: Fields) -> None:
    if settings.controlnet is None:
        for name in CONTROL:
            if getattr(settings, name) is not None:
                raise InputError(f"{flag(name)} has no effect without --controlnet: name the ControlNet's folder")
        return
    scale = settings.control_scale
    if scale is not None and not 0 < scale <= STRONGEST_CONTROL:
        raise InputError(f"--control_scale: got {scale}, expected a number above 0, up to {STRONGEST_CONTROL:g}")
    if settings.task != "inpainting":
        raise InputError(f"--controlnet has no effect with --task {settings.task}, only with inpainting: leave it out")
    if settings.control_image is None:
        raise InputError("--control_image is missing: --controlnet follows a picture")
    if settings.session is not None:
        raise InputError("--controlnet does not go with --session, which does not keep its picture: leave it out")
    if settings.policy == "lockstep":
        raise InputError("--policy lockstep gives latents to the pipeline, which a ControlNet's refuses: take temporal")
    if settings.model != "sd15":
        for name in NEGATIVE_SIZES:
            if getattr(settings, name) is not None:
                raise InputError(f"{flag(name)} has no effect with --controlnet, whose pipeline has none: leave it out")


def _check_offload(settings: Fields) -> None:
    if settings.offload == "none":
        return
    if settings.device == "cpu":
        raise InputError("--offload model has no effect with --device cpu, where all models are already: leave it out")
    if settings.sparse:
        raise InputError(
            f"--offload model does not go with --run_type {settings.run_type}: packed passes read weights that "
            "would be on the CPU; take --dtype fp16, or leave it out"
        )

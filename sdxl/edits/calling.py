"""Calling: the arguments with which an edit calls a diffusers pipeline."""

from __future__ import annotations

import inspect
from typing import Any

from sdxl.edits.sampling import REFINER_STRENGTH, Sampling
from sdxl.errors import InputError
from sdxl.pipelines.embedding import WORDS, embedded, prompt_tokens
from sdxl.pipelines.mended import with_negative_sizes
from sdxl.pipelines.schedulers import takes_eta
from sige.sizes import Size

__all__ = ["from_split", "pipeline_arguments", "tokens_of", "until_split"]

SDXL_ONLY = (
    "prompt_2",
    "negative_prompt_2",
    "original_size",
    "target_size",
    "crops_coords_top_left",
    "negative_original_size",
    "negative_target_size",
    "negative_crops_coords_top_left",
)


def pipeline_arguments(pipe: Any, task: str, size: Size, sampling: Sampling) -> dict[str, Any]:
    """The sampling under this pipeline's names; raises `InputError` for a set value that the pipeline cannot take."""
    known = inspect.signature(pipe.__call__).parameters
    if sampling.eta and not takes_eta(pipe.scheduler):
        scheduler = type(pipe.scheduler).__name__
        raise InputError(f"eta has no effect on {scheduler}: take the scheduler ddim, or eta 0", "eta")
    arguments: dict[str, Any] = {
        "prompt": sampling.prompt,
        "negative_prompt": sampling.negative_prompt,
        "num_inference_steps": sampling.steps,
        "guidance_scale": sampling.scale,
        "eta": sampling.eta,
    }
    for name in SDXL_ONLY:
        value = getattr(sampling, name)
        if value is not None and name not in known:
            if hasattr(pipe, "text_encoder_2"):
                raise InputError(f"{name} has no effect: {type(pipe).__name__} takes none: leave it out", name)
            raise InputError(f"{name} is SDXL's: this model has no such conditioning", name)
        if value is not None:
            arguments[name] = value
    arguments = with_negative_sizes(arguments, size)
    if "strength" in known:
        arguments["strength"] = sampling.strength_of(task)
    if "height" in known:
        arguments |= {"height": size[0], "width": size[1]}
    if "controlnet_conditioning_scale" in known:
        arguments["controlnet_conditioning_scale"] = float(sampling.control_scale)
    if sampling.clip_skip is not None:
        arguments["clip_skip"] = sampling.clip_skip
    return embedded(pipe, arguments, guided=sampling.is_guided)


def tokens_of(pipe: Any, sampling: Sampling) -> int:
    """The number of tokens that the pipeline's UNet reads of each prompt."""
    prompts = {name: getattr(sampling, name) for name in WORDS}
    return prompt_tokens(pipe, prompts, guided=sampling.is_guided)


def until_split(sampling: Sampling) -> dict[str, Any]:
    """The argument that ends the base early, where a refiner takes over before the last step."""
    return {} if sampling.denoising_split is None else {"denoising_end": sampling.denoising_split}


def from_split(sampling: Sampling) -> dict[str, Any]:
    """The argument that says where the refiner begins: at the split, or with its own noise on the finished picture."""
    if sampling.denoising_split is None:
        return {"strength": REFINER_STRENGTH}
    return {"denoising_start": sampling.denoising_split}

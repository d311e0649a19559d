"""Sampling: what is asked of the model, and how a diffusers pipeline takes it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch

from sdxl.errors import InputError, SdxlError
from sdxl.pipelines.schedulers import takes_eta
from sige.sizes import Size

__all__ = ["Sampling", "pipeline_arguments"]

STRENGTH = {"inpainting": 1.0, "sdedit": 0.8, "img2img": 0.8}
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


@dataclass(frozen=True)
class Sampling:
    """What is asked of the model: prompts, steps, guidance, seed, micro-conditioning."""

    prompt: str = ""
    negative_prompt: str | None = None
    prompt_2: str | None = None
    negative_prompt_2: str | None = None
    steps: int = 50
    scale: float = 7.5
    eta: float = 0.0
    strength: float | None = None  # None: 1 for inpainting, 0.8 from a picture
    seed: int = 0
    original_size: Size | None = None
    target_size: Size | None = None
    crops_coords_top_left: Size | None = None
    negative_original_size: Size | None = None
    negative_target_size: Size | None = None
    negative_crops_coords_top_left: Size | None = None
    denoising_split: float | None = None  # where a refiner takes over; None: it follows the finished picture

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("strength", self.strength, 0, 1),
            ("denoising_split", self.denoising_split, 0, 1),
            ("eta", self.eta, 0, 1),
        ):
            if value is not None and not low <= value <= high:
                raise InputError(f"{name}: got {value}, expected a number from {low} to {high}")
        if self.steps < 1:
            raise InputError(f"steps: got {self.steps}, expected at least 1")

    def strength_of(self, task: str) -> float:
        """The strength that was set, or the task's own; refused where it leaves no step."""
        strength = STRENGTH.get(task, 1.0) if self.strength is None else self.strength
        if int(self.steps * strength) < 1:
            raise InputError(f"strength {strength} of {self.steps} steps leaves none: raise one of the two")
        return strength


def pipeline_arguments(pipe: Any, task: str, size: Size, sampling: Sampling) -> dict[str, Any]:
    """The settings as this pipeline names them; one that it does not have is refused if it was set."""
    known = inspect.signature(pipe.__call__).parameters
    if sampling.eta and not takes_eta(pipe.scheduler):
        raise InputError(f"eta has no effect on {type(pipe.scheduler).__name__}: take the scheduler ddim, or eta 0")
    arguments: dict[str, Any] = {
        "prompt": sampling.prompt,
        "negative_prompt": sampling.negative_prompt,
        "num_inference_steps": sampling.steps,
        "guidance_scale": sampling.scale,
        "eta": sampling.eta,
        "callback_on_step_end": check_step,
    }
    for name in SDXL_ONLY:
        value = getattr(sampling, name)
        if value is not None and name not in known:
            raise InputError(f"{name} is SDXL's: this model has no such conditioning")
        if value is not None:
            arguments[name] = value
    if sampling.negative_prompt_2 is not None and sampling.negative_prompt is None:
        arguments["negative_prompt"] = ""  # without one diffusers takes zeros and leaves the second out
    if any(name.startswith("negative_") and name.endswith(("size", "left")) for name in arguments):
        # Diffusers reads them together or not at all.
        arguments.setdefault("negative_original_size", sampling.original_size or size)
        arguments.setdefault("negative_target_size", sampling.target_size or size)
    if "strength" in known:
        arguments["strength"] = sampling.strength_of(task)
    if "height" in known:
        arguments |= {"height": size[0], "width": size[1]}
    return arguments


def check_step(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Latents that are no numbers would end as a black picture."""
    if not torch.isfinite(values["latents"]).all():
        raise SdxlError(
            f"step {step + 1}: the latents are no longer finite numbers: take --dtype fp32 or bf16, or other weights"
        )
    return values

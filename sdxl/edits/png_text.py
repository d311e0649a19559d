"""What a picture of the server or of a batch carries: the settings that `run.py` would paint it with, and A1111's."""

from __future__ import annotations

from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdxl.edits.request import Request
from sdxl.pictures.png import png_text

__all__ = ["settings_of", "with_text"]


def settings_of(request: Request, model: str, scheduler: str) -> dict[str, Any]:
    """The request's settings by the names that the command line knows; its pictures have no files to name."""
    sampling = request.sampling
    said = {
        "task": request.task,
        "run_type": "original" if request.policy is None else "sige",
        "model": model,
        "scheduler": scheduler,
        "prompt": sampling.prompt,
        "negative_prompt": sampling.negative_prompt,
        "steps": sampling.steps,
        "scale": sampling.scale,
        "strength": sampling.strength,
        "seed": sampling.seed,
        "grow": request.grow or None,
        "mask_blur": request.mask_blur or None,
        "match_edge": request.match_edge or None,
        "only_masked": request.only_masked,
        "preset": getattr(request.policy, "preset", None),
        "dense_steps": getattr(request.policy, "dense_steps", None),
    }
    return {name: value for name, value in said.items() if value is not None}


def with_text(image: Image.Image, request: Request, model: str, scheduler: str) -> PngInfo:
    """The texts of a picture that the request made."""
    return png_text(image, settings_of(request, model, scheduler))

"""Chooses the weights, the device and the dtype of a command: what `auto` means on this machine."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from sdxl.checkpoint.embedded import EMBEDDED, embedded_kind, embedded_weights
from sdxl.commands.fields import Fields
from sdxl.commands.rules import in_flags
from sdxl.errors import CheckpointError, InputError, SdxlError
from sdxl.pipelines.find import Weights, find, kind_of

__all__ = ["Chosen", "choose_weights", "place"]

logger = logging.getLogger(__name__)

Said = TypeVar("Said", bound=Fields)  # a command's settings, or the fields of another caller


@dataclass(frozen=True)
class Chosen(Generic[Said]):
    """All weights that a command needs, found before any is read."""

    settings: Said  # with the model's name in the place of `auto`
    base: Weights
    refiner: Weights | None


def choose_weights(settings: Said) -> Chosen[Said]:
    """Finds the weights; `auto` takes those in the folder, or the embedded model where the folder has none."""
    model = _named_by(settings) if settings.model == "auto" else settings.model
    named = replace(settings, model=model)
    try:
        base = _find(named)
    except SdxlError as error:
        if settings.model != "auto":
            raise
        return _without_weights(settings, error)
    return _with_refiner(named, base)


def _find(settings: Fields, refiner: bool = False) -> Weights:
    return find(settings.model, settings.run_type, settings.weight_path, refiner=refiner, task=settings.task)


def _with_refiner(settings: Said, base: Weights) -> Chosen[Said]:
    return Chosen(settings, base, _find(settings, refiner=True) if settings.refined else None)


def _without_weights(settings: Said, error: SdxlError) -> Chosen[Said]:
    """The embedded model, if it can run the command and no file was named; else raises the error, with advice."""
    advice = f"{in_flags(error)}; --model tiny runs without any, on random weights"
    try:
        embedded_weights(embedded_kind(settings.task, settings.turbo))
        if settings.refined:
            embedded_weights("sdxl-refiner")
    except CheckpointError as missing:
        raise type(error)(advice) from missing
    if settings.weight_path.suffix == ".safetensors":
        raise type(error)(f"{advice}; --model embedded takes the small trained one") from error
    logger.warning(
        "note: no weights in %s: using the embedded demo model, trained on 256x256 drawings "
        "(docs/checkpoints.md says how to get SDXL)",
        settings.weight_path,
    )
    named = replace(settings, model=EMBEDDED)
    return _with_refiner(named, _find(named))


def _named_by(settings: Fields) -> str:
    """The name of the model that a file holds; sdxl for a folder."""
    path = settings.weight_path
    kind = kind_of(path) if path.is_file() else "sdxl-base"
    return {"sd15": "sd15", "sd15-inpaint": "sd15", "sdxl-inpaint": "sdxl-inpaint"}.get(kind, "sdxl")


def place(settings: Said) -> Said:
    """The settings with the device and the dtype that `auto` means on this machine."""
    import torch

    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    count = torch.cuda.device_count() if device.startswith("cuda") and torch.cuda.is_available() else 0
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= count:
        raise InputError(f"--device {device}: torch sees {count} GPUs here; take --device cpu")
    if settings.offload != "none" and device == "cpu":
        raise InputError("--offload model has no effect on the CPU, which --device auto means here: leave it out")
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "fp32" if device == "cpu" else "fp16"
    return replace(settings, device=device, dtype=dtype)

"""Builds diffusers' own pipelines from checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdxl.checkpoint.embedded import EMBEDDED
from sdxl.errors import InputError
from sdxl.pipelines.extras import add_lora, add_words
from sdxl.pipelines.find import Weights, find, kind_of
from sdxl.pipelines.lora import with_strength
from sdxl.pipelines.memory import set_attention, set_offload
from sdxl.pipelines.mended import quiet
from sdxl.pipelines.schedulers import make_scheduler
from sige.dtypes import named_dtype

if TYPE_CHECKING:
    import torch

    from sdxl.checkpoint.load import Parts

__all__ = ["TASKS", "for_task", "load_pipeline", "load_weights", "make_pipeline"]

TASKS = {  # the suffix of diffusers' class names
    "inpainting": "InpaintPipeline",
    "sdedit": "Img2ImgPipeline",
    "img2img": "Img2ImgPipeline",
    "text2img": "Pipeline",
}
ALIKE = {"sdxl-base": "sdxl", "sdxl-turbo": "sdxl", "sd15-inpaint": "sd15"}  # kinds that load as each other


def load_pipeline(
    model: str = "sdxl",
    *,
    task: str = "inpainting",
    run_type: str = "original",
    weight_path: Path | str = "pretrained",
    config_path: Path | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    scheduler: str | None = None,
    lora: Sequence[str] = (),
    textual_inversion: Sequence[str] = (),
    refiner: bool = False,
    vae: Path | str | None = None,
    controlnet: Path | str | None = None,
    attention: str = "auto",
    offload: str = "none",
) -> Any:
    """Finds the weights that the names mean, loads them strictly, and builds diffusers' pipeline for the task.

    `lora` names files, each with a strength behind a colon if it has one: `style.safetensors:0.8`.
    `dtype` None means fp32 on the CPU and fp16 elsewhere.

    >>> type(load_pipeline("tiny", task="sdedit")).__name__
    'StableDiffusionXLImg2ImgPipeline'
    """
    weights = find(model, run_type, Path(weight_path), refiner=refiner, task=task)
    return load_weights(
        weights,
        task=task,
        config_path=config_path,
        device=device,
        dtype=dtype,
        scheduler=scheduler,
        lora=lora,
        textual_inversion=textual_inversion,
        vae=None if vae is None else Path(vae),
        controlnet=None if controlnet is None else Path(controlnet),
        attention=attention,
        offload=offload,
    )


def load_weights(
    weights: Weights,
    *,
    task: str,
    config_path: Path | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    scheduler: str | None = None,
    lora: Sequence[str] = (),
    textual_inversion: Sequence[str] = (),
    vae: Path | None = None,
    controlnet: Path | None = None,
    attention: str = "auto",
    offload: str = "none",
) -> Any:
    """Diffusers' pipeline for the task, with weights that were found."""
    from sdxl.checkpoint.controlnet import open_controlnet
    from sdxl.checkpoint.load import load

    opened = None if controlnet is None else open_controlnet(controlnet)
    if weights.path.is_file():
        _check_kind(kind_of(weights.path), weights)  # from the header, before minutes of reading
    # The embedded weights and their shapes come together, wherever the command runs.
    shapes = None if weights.model == EMBEDDED else config_path
    dtype = dtype or named_dtype("fp32" if device == "cpu" else "fp16")
    first = "cpu" if offload != "none" else device
    parts = load(weights.path, config_path=shapes, dtype=dtype, device=first, vae=vae)
    _check_kind(parts.kind, weights)
    steered = None
    if opened is not None:
        opened.check_fits(parts.unet)
        steered = opened.filled(dtype, first)
    pipe = make_pipeline(parts, task, scheduler, controlnet=steered)
    for file in lora:
        add_lora(pipe, *with_strength(file))
    for file in textual_inversion:
        add_words(pipe, file)
    set_attention(pipe, attention)
    set_offload(pipe, offload, device)
    return pipe


def for_task(pipe: Any, task: str) -> Any:
    """The pipeline of another task on the same models.

    >>> pipe = load_pipeline("tiny")
    >>> for_task(pipe, "sdedit").unet is pipe.unet
    True
    """
    import diffusers

    family = "StableDiffusionXL" if hasattr(pipe, "text_encoder_2") else "StableDiffusion"
    channels = {"inpainting": (4, 9)}.get(task, (4,))
    got = int(pipe.unet.config.in_channels)
    if got not in channels:
        raise InputError(f"task: got {task}, but the UNet has {got} input channels: it can only inpaint", "task")
    options = {} if family.endswith("XL") else {"requires_safety_checker": False}
    return getattr(diffusers, f"{family}{TASKS[task]}")(**pipe.components, **options)


def _check_kind(got: str, weights: Weights) -> None:
    """Refuses weights of another kind: a refiner in place of a base makes noise. Base and turbo load as each other."""
    if ALIKE.get(got, got) != ALIKE.get(weights.kind, weights.kind):
        raise InputError(
            f"weight_path: {weights.path} holds {got} weights, expected {weights.kind}: name another file, or another "
            "model",
            "weight_path",
        )


def make_pipeline(parts: Parts, task: str, scheduler: str | None = None, *, controlnet: Any = None) -> Any:
    """Diffusers' pipeline for the task, with parts that are already loaded, and with a ControlNet if there is one."""
    import diffusers

    quiet()
    noise = make_scheduler(scheduler, parts.kind, parts.scheduler_config)
    shared = {"vae": parts.vae, "unet": parts.unet, "scheduler": noise}
    suffix = TASKS[task]
    if controlnet is not None:
        if task != "inpainting":
            raise InputError(f"controlnet: got one for {task}, expected inpainting: leave it out", "controlnet")
        shared, suffix = shared | {"controlnet": controlnet}, f"ControlNet{suffix}"
    if parts.kind.startswith("sd15"):
        checker = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        encoders = {"text_encoder": parts.text_encoder, "tokenizer": parts.tokenizer}
        return getattr(diffusers, f"StableDiffusion{suffix}")(**shared, **encoders, **checker)
    encoders = {name: getattr(parts, name) for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")}
    options: dict[str, Any] = {"add_watermarker": False}
    if parts.kind == "sdxl-refiner":
        options |= {"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False}
    if task == "text2img":
        if parts.kind == "sdxl-refiner":
            raise InputError(
                "task: got text2img, but the refiner makes no pictures of its own: run it after a base model", "task"
            )
        options.pop("requires_aesthetics_score", None)
    return getattr(diffusers, f"StableDiffusionXL{suffix}")(**shared, **encoders, **options)

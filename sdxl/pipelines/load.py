"""From checkpoints to diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdxl.checkpoint.embedded import EMBEDDED, embedded_kind, embedded_weights
from sdxl.errors import InputError
from sdxl.pipelines.extras import add_lora, add_words
from sdxl.pipelines.mended import quiet
from sdxl.pipelines.schedulers import SCHEDULERS, make_scheduler

if TYPE_CHECKING:
    import torch

    from sdxl.checkpoint.load import Parts

__all__ = ["SCHEDULERS", "TASKS", "find_kind", "kind_of", "load_pipeline", "make_pipeline"]

TASKS = {  # the suffix of diffusers' class names
    "inpainting": "InpaintPipeline",
    "sdedit": "Img2ImgPipeline",
    "img2img": "Img2ImgPipeline",
    "text2img": "Pipeline",
}
MODELS = {  # what --model means, by the file that is looked for
    "sdxl": "sdxl-base",
    "sdxl-inpaint": "sdxl-inpaint",
    "sd15": "sd15",
}


def load_pipeline(
    *,
    model: str,
    run_type: str,
    task: str,
    weight_path: Path,
    config_path: Path,
    device: str,
    dtype: torch.dtype,
    scheduler: str | None = None,
    lora: Sequence[str] = (),
    textual_inversion: Sequence[str] = (),
    refiner: bool = False,
) -> Any:
    """Finds the weights that the names mean, loads them strictly, and builds diffusers' pipeline for the task."""
    from sdxl.checkpoint.load import load

    kind, path = find_kind(model, run_type, weight_path, refiner, task)
    if path.is_file():
        _check_kind(kind_of(path), kind, path)  # from the header, before minutes of reading
    # The embedded weights and their shapes come together, wherever the command runs.
    shapes = None if model == EMBEDDED else config_path
    parts = load(path, config_path=shapes, dtype=dtype, device=device)
    _check_kind(parts.kind, kind, path)
    pipe = make_pipeline(parts, task, scheduler)
    for file in lora:
        add_lora(pipe, file)
    for file in textual_inversion:
        add_words(pipe, file)
    return pipe


def kind_of(file: Path) -> str:
    """What a single file holds, from its header."""
    from sdxl.checkpoint.header import read_header
    from sdxl.checkpoint.kinds import identify

    return identify(read_header(file)).kind


def find_kind(
    model: str, run_type: str, weight_path: Path, refiner: bool = False, task: str = "text2img"
) -> tuple[str, Path]:
    """What is wanted, and where it lies."""
    from sdxl.checkpoint.find import find_weights
    from sdxl.checkpoint.tiny import tiny_weights

    turbo = "turbo" in run_type
    if turbo and model not in ("auto", "sdxl", "tiny"):
        raise InputError(
            f"--run_type {run_type} takes SDXL turbo's weights: got --model {model}, expected sdxl or tiny"
        )
    if model == EMBEDDED:
        kind = "sdxl-refiner" if refiner else embedded_kind(task)
        return kind, embedded_weights(kind)
    kind = "sdxl-refiner" if refiner else "sdxl-turbo" if turbo else MODELS.get(model, "sdxl-base")
    if model == "tiny":
        return kind, tiny_weights(kind)
    return kind, find_weights(weight_path, kind)


def _check_kind(got: str, wanted: str, path: Path) -> None:
    """A refiner in place of a base makes noise; base and turbo have the same tensors."""
    alike = {"sdxl-base": "sdxl", "sdxl-turbo": "sdxl", "sd15-inpaint": "sd15"}
    if alike.get(got, got) != alike.get(wanted, wanted):
        raise InputError(f"{path} holds {got} weights, expected {wanted}: name another file, or another --model")


def make_pipeline(parts: Parts, task: str, scheduler: str | None = None) -> Any:
    """Diffusers' pipeline for the task, of parts that are already loaded."""
    import diffusers

    quiet()
    noise = make_scheduler(scheduler, parts.kind, parts.scheduler_config)
    shared = {"vae": parts.vae, "unet": parts.unet, "scheduler": noise}
    if parts.kind.startswith("sd15"):
        checker = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        encoders = {"text_encoder": parts.text_encoder, "tokenizer": parts.tokenizer}
        return getattr(diffusers, f"StableDiffusion{TASKS[task]}")(**shared, **encoders, **checker)
    encoders = {name: getattr(parts, name) for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")}
    options: dict[str, Any] = {"add_watermarker": False}
    if parts.kind == "sdxl-refiner":
        options |= {"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False}
    if task == "text2img":
        if parts.kind == "sdxl-refiner":
            raise InputError("the refiner makes no pictures of its own: run it after a base model, with --refined True")
        options.pop("requires_aesthetics_score", None)
    return getattr(diffusers, f"StableDiffusionXL{TASKS[task]}")(**shared, **encoders, **options)

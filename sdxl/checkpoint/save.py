"""Writes models into a single file or a diffusers folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdxl.checkpoint.configs import FULL_SIZE
from sdxl.checkpoint.folder import INDEX, VARIANT_KEY
from sdxl.checkpoint.keys import PREFIXES, Entry, make_entries
from sdxl.checkpoint.kinds import CONFIG_KEY, KIND_KEY, family
from sdxl.checkpoint.load import Parts
from sdxl.checkpoint.models import build_scheduler
from sdxl.checkpoint.tensors import NAMES, Written, file_bytes, write_tensors
from sdxl.errors import InputError
from sige.files import atomic_write, check_free_space, flush, named_if_full, unfinished

__all__ = ["save_folder", "save_single_file"]

PIPELINES = {
    "sdxl-base": "StableDiffusionXLPipeline",
    "sdxl-turbo": "StableDiffusionXLPipeline",
    "sdxl-refiner": "StableDiffusionXLImg2ImgPipeline",
    "sdxl-inpaint": "StableDiffusionXLInpaintPipeline",
    "sd15": "StableDiffusionPipeline",
    "sd15-inpaint": "StableDiffusionInpaintPipeline",
}


def save_single_file(
    parts: Parts,
    path: Path | str,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> None:
    """Writes the single-file layout, without the vocabulary; `dtype` None keeps the dtype of each tensor.

    The metadata has the kind and the config, so the loader knows a turbo file or a small copy by any name.
    """
    models = parts.models()
    states = {part: model.state_dict() for part, model in models.items()}
    entries = make_entries(models, PREFIXES[family(parts.kind)])
    tensors = {entry.file_key: _written(entry, states[entry.part], dtype) for entry in entries}
    own = {KIND_KEY: parts.kind} | ({CONFIG_KEY: parts.variant} if parts.variant != FULL_SIZE else {})
    facts = {**(metadata or {}), **own}
    check_free_space(path, file_bytes(tensors, facts))
    with atomic_write(path) as temporary:
        write_tensors(temporary, tensors, facts, advance)


def _written(entry: Entry, state: Mapping[str, Tensor], dtype: torch.dtype | None) -> Written:
    tensors = [state[key] for key in entry.model_keys]
    chosen = dtype or tensors[0].dtype
    return Written(NAMES[chosen], entry.shape, partial(_rows, tensors, entry, chosen))


def _rows(tensors: list[Tensor], entry: Entry, dtype: torch.dtype) -> Iterator[Tensor]:
    for tensor in tensors:
        yield (tensor.t() if entry.transposed else tensor).to("cpu", dtype)


def save_folder(parts: Parts, path: Path | str) -> None:
    """Writes a diffusers folder, whole or not at all; it must not exist yet."""
    path = Path(path)
    if path.exists():
        raise InputError(f"{path}: exists; take another name, or remove it first")
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; create it first")
    check_free_space(path, sum(_size(model) for model in parts.models().values()))
    pipeline = _pipeline(parts)
    with unfinished(path) as beside, named_if_full(path):
        temporary = beside / path.name
        pipeline.save_pretrained(temporary, safe_serialization=True)
        if parts.variant != FULL_SIZE:
            _note_variant(temporary / INDEX, parts.variant)
        for file in temporary.rglob("*"):
            flush(file)
        os.rename(temporary, path)


def _note_variant(index: Path, variant: str) -> None:
    """Writes the variant into the folder's index. Diffusers ignores keys that begin with an underscore."""
    content = json.loads(index.read_text())
    index.write_text(json.dumps(content | {VARIANT_KEY: variant}, indent=2) + "\n")


def _size(model: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def _pipeline(parts: Parts) -> Any:
    """The pipeline that diffusers saves, so that diffusers writes the index and the configs of the folder."""
    import diffusers

    config = parts.scheduler_config
    scheduler = build_scheduler(config.get("_class_name"), config, parts.path)
    shared = {"unet": parts.unet, "vae": parts.vae, "scheduler": scheduler}
    first = {"text_encoder": parts.text_encoder, "tokenizer": parts.tokenizer}
    second = {"text_encoder_2": parts.text_encoder_2, "tokenizer_2": parts.tokenizer_2}
    pipeline = getattr(diffusers, PIPELINES[parts.kind])
    if family(parts.kind) == "sd15":
        no_filter = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return pipeline(**shared, **first, **no_filter)
    extra = {"add_watermarker": False}
    if parts.kind == "sdxl-refiner":
        extra |= {"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False}
    return pipeline(**shared, **first, **second, **extra)

"""`load` makes a checkpoint, a single file or a diffusers folder, into models that are ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdxl.checkpoint.check import check, common_dtype
from sdxl.checkpoint.configs import PARTS
from sdxl.checkpoint.folder import open_folder
from sdxl.checkpoint.read import Options, fill
from sdxl.checkpoint.sources import open_file
from sdxl.checkpoint.tokenizers import check_vocabulary, load_tokenizers
from sdxl.checkpoint.vae import with_vae
from sdxl.errors import InputError

__all__ = ["Parts", "load"]

COMPUTED = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Parts:
    """A checkpoint in memory. A small copy has the kind of the checkpoint that it imitates."""

    kind: str  # one of configs.KINDS
    unet: Any  # diffusers.UNet2DConditionModel
    vae: Any  # diffusers.AutoencoderKL
    text_encoder: Any | None  # transformers.CLIPTextModel; None for the refiner
    text_encoder_2: Any | None  # transformers.CLIPTextModelWithProjection; None for SD 1.5
    tokenizer: Any | None  # transformers.CLIPTokenizer, where there is a text encoder
    tokenizer_2: Any | None
    scheduler_config: dict[str, Any]  # with `_class_name`, as diffusers writes it
    path: Path
    variant: str  # the config of its shapes: "full", "tiny"

    def models(self) -> dict[str, Any]:
        """The models of the kind, by diffusers' names."""
        return {part: getattr(self, part) for part in PARTS if getattr(self, part) is not None}


def load(
    path: Path | str,
    *,
    config_path: Path | str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    check_finite: bool = True,
    progress: bool = True,
    tokenizers: bool = True,
    vae: Path | None = None,
) -> Parts:
    """The models, the tokenizers and the scheduler's settings of a checkpoint on disk; nothing is downloaded.

    Keys, shapes and dtypes are checked in the header before any weight is read, and weights while they are read. Every
    fault raises `CheckpointError`, and no model is left half loaded. All models get one `dtype`; None takes the
    narrowest that holds every stored weight. Shapes come from `<config_path>/<kind>.yaml`; with the metadata
    `sige.config: tiny`, from its changes in `tiny.yaml` too. `vae` is a file or a folder whose VAE takes
    the place of the checkpoint's own.

    >>> load(tiny_weights("sdxl-refiner"), progress=False).kind
    'sdxl-refiner'
    """
    path = Path(path)
    if dtype is not None and dtype not in COMPUTED:
        raise InputError(f"dtype: got {dtype}, expected one of {', '.join(map(str, COMPUTED))}")
    opened = open_folder(path) if path.is_dir() else open_file(path, config_path)
    check(path, opened.sources, opened.kind)
    if vae is not None:
        opened = with_vae(opened, vae)
    beside = path if path.is_dir() else path.parent
    words = load_tokenizers(beside, tuple(opened.models)) if tokenizers else {}
    for name, tokenizer in words.items():
        check_vocabulary(tokenizer, opened.models[name.replace("tokenizer", "text_encoder")], name, beside)
    chosen = dtype or common_dtype(opened.sources)
    fill(opened.models, opened.sources, Options(chosen, torch.device(device), check_finite, progress))
    return Parts(
        kind=opened.kind,
        unet=opened.models["unet"],
        vae=opened.models["vae"],
        text_encoder=opened.models.get("text_encoder"),
        text_encoder_2=opened.models.get("text_encoder_2"),
        tokenizer=words.get("tokenizer"),
        tokenizer_2=words.get("tokenizer_2"),
        scheduler_config=opened.scheduler,
        path=path,
        variant=opened.variant,
    )

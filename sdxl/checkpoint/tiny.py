"""Small checkpoints of random weights with the topology, layout and file names of the real ones."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdxl.checkpoint.configs import KINDS, load_shapes
from sdxl.checkpoint.find import FILE_NAMES
from sdxl.checkpoint.load import Parts
from sdxl.checkpoint.models import build_parts, complete
from sdxl.checkpoint.save import save_single_file
from sdxl.checkpoint.tokenizers import PADDING
from sdxl.checkpoint.vocabulary import write_tokenizer
from sdxl.errors import InputError

__all__ = ["make_tiny", "tiny_weights", "write_tiny"]

VARIANT = "tiny"
RECIPE = 1  # raise it when this file makes other weights from the same config
CACHE = "SIGE_CACHE"


def tiny_weights(kind: str = "sdxl-base") -> Path:
    """The small checkpoint of a kind. The first call makes it and keeps it in `$SIGE_CACHE` or `~/.cache/sige`.

    >>> load(tiny_weights("sdxl-turbo"), progress=False).unet.config.cross_attention_dim
    64
    """
    shapes = [asdict(load_shapes(each, variant=VARIANT)) for each in KINDS]
    digest = hashlib.sha256(json.dumps([RECIPE, shapes], sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "sige") / f"tiny-{digest}"
    if kind in FILE_NAMES and (folder / FILE_NAMES[kind]).is_file():
        return folder / FILE_NAMES[kind]
    return write_tiny(folder, [kind])[kind]


def write_tiny(folder: Path | str, kinds: Iterable[str] = KINDS) -> dict[str, Path]:
    """Writes small checkpoints under the file names of the real ones, with `tokenizer/` and `tokenizer_2/` beside them.

    >>> write_tiny(folder, ["sd15"])["sd15"].name
    'v1-5-pruned-emaonly.safetensors'
    """
    folder, kinds = Path(folder), list(kinds)
    if unknown := [kind for kind in kinds if kind not in FILE_NAMES]:
        raise InputError(f"kind: got {unknown[0]!r}, expected one of {', '.join(KINDS)}")
    for name, padding in PADDING.items():
        write_tokenizer(folder / name, padding)
    paths = {kind: folder / FILE_NAMES[kind] for kind in kinds}
    for kind, path in paths.items():
        save_single_file(make_tiny(kind, path), path)
    return paths


def make_tiny(kind: str, path: Path = Path(), variant: str = VARIANT) -> Parts:
    """The parts of a small checkpoint, without tokenizers. Weights are seeded by part, so kinds share equal parts."""
    shapes = load_shapes(kind, variant=variant)
    models = build_parts(shapes.parts)
    for part, model in models.items():
        complete(model, _weights(model, f"{kind} {part}" if part == "unet" else part), "cpu")
    names = {part: models.get(part) for part in ("text_encoder", "text_encoder_2")}
    words: dict[str, Any] = {"tokenizer": None, "tokenizer_2": None}
    return Parts(kind, models["unet"], models["vae"], **names, **words,
                 scheduler_config=shapes.scheduler, path=path, variant=variant)  # fmt: skip


def _weights(model: nn.Module, seed: str) -> dict[str, Tensor]:
    """Random weights with unit gain in every layer. None is zero or one, so a test sees a forgotten bias or norm."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7], "little")
    generator = torch.Generator().manual_seed(number)
    weights = {}
    for name, tensor in model.state_dict().items():
        mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        spread = tensor[0].numel() ** -0.5 if tensor.dim() > 1 else 0.1
        weights[name] = torch.randn(tensor.shape, generator=generator) * spread + mean
    return weights

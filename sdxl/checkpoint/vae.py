"""A VAE of its own in the place of a checkpoint's: a single file, or a folder in the diffusers layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sdxl.checkpoint.check import check
from sdxl.checkpoint.folder import open_part, part_sources
from sdxl.checkpoint.header import Header, read_header
from sdxl.checkpoint.keys import make_entries
from sdxl.checkpoint.sources import Opened, Source
from sdxl.errors import CheckpointError, InputError

__all__ = ["with_vae"]

PART = "vae"
CLASS = "AutoencoderKL"
PREFIX = "first_stage_model."  # of the VAE in a whole checkpoint; some files of a VAE alone keep it
ALIKE = ("latent_channels", "in_channels", "out_channels", "scaling_factor")  # what the diffusion model relies on


def with_vae(opened: Opened, path: Path) -> Opened:
    """The checkpoint with another VAE, whose header is checked as strictly as its own; no weight is read.

    SD 1.5's VAE and SDXL's have the same names and shapes. Only a folder says which of the two it is, by its scaling
    factor.
    """
    if not path.exists():
        raise InputError(f"vae: {path} does not exist", "vae")
    own = opened.models[PART]
    model, sources = _in_folder(path, own) if path.is_dir() else (own, _in_file(path, own))
    check(path, sources, "VAE")
    others = [(header, [entry for entry in entries if entry.part != PART]) for header, entries in opened.sources]
    return replace(opened, models=opened.models | {PART: model}, sources=[*others, *sources])


def _in_folder(path: Path, own: Any) -> tuple[Any, list[Source]]:
    """The VAE of a folder, or of the folder of a whole model."""
    inner = path / PART
    config, model, sources = open_part(inner if (inner / "config.json").is_file() else path, PART)
    if config.get("_class_name", CLASS) != CLASS:
        raise CheckpointError(f"{path}: is a {config['_class_name']}, expected an {CLASS}; take another VAE")
    depths = {name: len(one.config.block_out_channels) for name, one in (("got", model), ("expected", own))}
    facts = {name: (model.config.get(name), own.config.get(name)) for name in ALIKE}
    facts["levels"] = depths["got"], depths["expected"]
    for name, (got, expected) in facts.items():
        if got != expected:
            raise CheckpointError(f"{path}: is a VAE of {name} {got}, expected {expected}; take one for this model")
    return model, sources


def _in_file(path: Path, model: Any) -> list[Source]:
    """The entries of a single file: the model's own VAE must fit them."""
    header = read_header(path)
    names = header.tensors
    if any(name.startswith("model.diffusion_model.") for name in names):
        raise CheckpointError(f"{path}: is a whole checkpoint, expected a VAE; name a file that holds the VAE alone")
    if any(".down_blocks." in name for name in names):
        return part_sources([header], PART, model)
    prefix = PREFIX if any(name.startswith(PREFIX) for name in names) else ""
    _check_is_vae(header, prefix)
    return [(header, make_entries({PART: model}, {PART: prefix}))]


def _check_is_vae(header: Header, prefix: str) -> None:
    if f"{prefix}decoder.conv_in.weight" not in header.tensors:
        header.fault("is no VAE: it has no decoder.conv_in.weight; take a file that holds an AutoencoderKL")

"""Identifies a checkpoint by its header: its kind, and the config of its shapes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from sdxl.checkpoint.configs import FULL_SIZE, KINDS
from sdxl.checkpoint.header import Header

__all__ = ["CONFIG_KEY", "KIND_KEY", "Identity", "family", "identify"]

KIND_KEY = "sige.kind"  # in the metadata of files that we write
CONFIG_KEY = "sige.config"
UNET = "model.diffusion_model."
SINGLE_FILE = "single file"


@dataclass(frozen=True)
class Identity:
    """The kind of a checkpoint, and the variant of its shapes: full size or the name of a config."""

    kind: str
    variant: str = FULL_SIZE
    layout: str = SINGLE_FILE


def family(kind: str) -> str:
    """The family whose names the file uses: a key of `keys.PREFIXES`."""
    return "refiner" if kind == "sdxl-refiner" else "sd15" if kind.startswith("sd15") else "sdxl"


def identify(header: Header) -> Identity:
    """The identity of a checkpoint, found by the topology of its UNet, which a small copy shares.

    Base and turbo have the same topology: the metadata or the file's name tells them apart.
    """
    first = header.tensors.get(UNET + "input_blocks.0.0.weight")
    if first is None:
        _not_a_checkpoint(header)
    channels = first.shape[1] if len(first.shape) == 4 else 0
    if channels not in (4, 9):
        header.fault(f"has a UNet with {channels} input channels, expected 4, or 9 for inpainting")
    inpaints = channels == 9
    if UNET + "label_emb.0.0.weight" not in header.tensors:
        if any(name.startswith("cond_stage_model.model.") for name in header.tensors):
            header.fault("is a Stable Diffusion 2 checkpoint; take SDXL or Stable Diffusion 1.5")
        kind = "sd15-inpaint" if inpaints else "sd15"
    elif any(name.startswith(UNET + "input_blocks.9.") for name in header.tensors):  # four levels
        if inpaints:
            header.fault("is a refiner with 9 input channels, expected 4")
        kind = "sdxl-refiner"
    else:
        kind = "sdxl-inpaint" if inpaints else "sdxl-turbo" if _says_turbo(header) else "sdxl-base"
    return Identity(kind, _variant(header))


def _variant(header: Header) -> str:
    variant = header.metadata.get(CONFIG_KEY, FULL_SIZE)
    if not re.fullmatch(r"[\w-]+", variant):  # it becomes part of a path
        header.fault(f"names the config {variant!r} in its metadata, expected a name such as tiny")
    return variant


def _says_turbo(header: Header) -> bool:
    if header.metadata.get(KIND_KEY) in KINDS:
        return header.metadata[KIND_KEY] == "sdxl-turbo"
    titles = (header.metadata.get(f"modelspec.{key}", "") for key in ("title", "architecture"))
    return any("turbo" in text.lower() for text in (*titles, header.path.name))


def _not_a_checkpoint(header: Header) -> NoReturn:
    names = header.tensors
    if not names:
        header.fault("holds no tensors; download it again")
    if any(re.match(r"(down_blocks|decoder\.up_blocks|text_model|unet)\.", name) for name in names):
        header.fault("is one part in the diffusers layout, expected a single file with all; give the model's folder")
    if any(re.search(r"lora_(down|up|A|B)\b", name) for name in names):
        header.fault("is a LoRA, expected a checkpoint; give it as lora, beside one")
    header.fault(f"has no {UNET}*: expected the single-file layout of SDXL or Stable Diffusion 1.5")

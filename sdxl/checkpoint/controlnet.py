"""A ControlNet in the diffusers layout: read strictly, and compared with the model that it is to steer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdxl.checkpoint.check import check
from sdxl.checkpoint.folder import open_part
from sdxl.checkpoint.read import Options, fill
from sdxl.checkpoint.sources import Source
from sdxl.errors import CheckpointError, InputError

__all__ = ["OpenedControlNet", "open_controlnet"]

PART = "controlnet"
CLASS = "ControlNetModel"
ALIKE = (  # what a ControlNet has in common with its UNet
    "block_out_channels",
    "layers_per_block",
    "cross_attention_dim",
    "addition_embed_type",
    "projection_class_embeddings_input_dim",
)


@dataclass(frozen=True)
class OpenedControlNet:
    """A ControlNet with only its headers and its configuration read."""

    path: Path
    model: Any  # diffusers.ControlNetModel, without weights
    sources: list[Source]

    def check_fits(self, unet: Any) -> None:
        """Refuses a ControlNet for a model of another family or size."""
        for name in ALIKE:
            got, expected = (_plain(model.config.get(name)) for model in (self.model, unet))
            if got != expected:
                raise CheckpointError(
                    f"{self.path}: is a ControlNet of {name} {got}, but the model has {expected}; take another"
                )

    def filled(self, dtype: torch.dtype, device: str) -> Any:
        """The model with its weights."""
        fill({PART: self.model}, self.sources, Options(dtype, torch.device(device)))
        return self.model


def open_controlnet(path: Path) -> OpenedControlNet:
    """The ControlNet in a folder with `config.json`; its header is checked, and no weight is read."""
    if not (path / "config.json").is_file():
        raise InputError(
            f"controlnet: {path} has no config.json, expected the folder of a ControlNet in the diffusers layout",
            "controlnet",
        )
    config, model, sources = open_part(path, PART)
    if config.get("_class_name") != CLASS:
        raise CheckpointError(f"{path}: is a {config.get('_class_name')}, expected a {CLASS}; take another folder")
    check(path, sources, "ControlNet")
    return OpenedControlNet(path, model, sources)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

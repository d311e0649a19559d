"""The identity of a training: settings, weights and pictures that must be the same for its state to go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdxl.checkpoint.load import Parts
from sdxl.training.pictures import Pictures
from sdxl.training.plan import Plan

__all__ = ["identity"]

FREE = ("out", "prompts", "loop")  # they change no weight; the loop adds its own settings to the state
VALUES = 16  # of each tensor, which tell two checkpoints apart


def identity(plan: Plan, parts: Parts, pictures: Pictures | None = None) -> dict[str, Any]:
    """The settings by their keys in a configuration, and digests of what begins and of what is learned from.

    A file may change under its name, so its weights count, not its name alone.
    """
    said = {name: value for name, value in asdict(plan).items() if name not in FREE} | {"learn": plan.learns}
    if plan.learns != "lora":
        del said["lora"]
    if plan.stage != "distil":
        del said["distil"]
    began = parts.models() if plan.start else {"vae": parts.vae} if plan.vae else {}
    digests = {"weights at the start": _weights(began)}
    if pictures is not None:
        digests["pictures and captions"] = _digest(json.dumps(pictures.identity()).encode())
    return _flat(said) | digests


def _flat(said: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without nesting: `data: {side: 64}` becomes `data.side: 64`."""
    flat: dict[str, Any] = {}
    for name, value in said.items():
        if isinstance(value, Mapping):
            flat |= _flat({f"{name}.{key}": each for key, each in value.items()})
        else:
            flat[name] = str(value) if isinstance(value, (Path, tuple)) else value
    return flat


@torch.no_grad()
def _weights(models: Mapping[str, nn.Module]) -> str:
    """A digest of a few values of each tensor, which takes no second for SDXL."""
    content = hashlib.sha256()
    for part, model in models.items():
        for name, value in model.state_dict().items():
            some = value.flatten()[:: max(value.numel() // VALUES, 1)].float().cpu()
            content.update(f"{part}.{name} {tuple(value.shape)}".encode() + some.numpy().tobytes())
    return content.hexdigest()[:12]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]

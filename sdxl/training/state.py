"""The state of a training: weights, optimizer, average and step in one file, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdxl.errors import CheckpointError
from sdxl.training.ema import Average
from sige.files import atomic_write

__all__ = ["load_state", "save_state"]


def save_state(
    path: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, average: Average, about: dict[str, Any]
) -> None:
    """Writes everything that the next step depends on, and `about`, the settings that identify the training."""
    learning = {name: value.detach().cpu() for name, value in module.named_parameters() if value.requires_grad}
    state = {
        "step": step,
        "weights": learning,
        "optimizer": optimizer.state_dict(),
        "average": {name: value.cpu() for name, value in average.values.items()},
        "about": about,
    }
    with atomic_write(path) as temporary:
        torch.save(state, temporary)


def load_state(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, average: Average, about: dict[str, Any]
) -> int:
    """Restores a state and returns the step to go on with; refuses the state of a training with other settings."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved, names = state["about"], set(state["weights"])
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read: {' '.join(str(error).split())[:120]}; remove it") from error
    learning = {name: value for name, value in module.named_parameters() if value.requires_grad}
    changed = sorted(key for key in {*saved, *about} if saved.get(key) != about.get(key))
    if changed or names != set(learning):
        what = ", ".join(f"{key} {saved.get(key)!r} -> {about.get(key)!r}" for key in changed) or "other weights learn"
        raise CheckpointError(f"{path} is of another run ({what}): take another folder, or remove it")
    with torch.no_grad():
        for name, value in learning.items():
            value.copy_(state["weights"][name])
            average.values[name].copy_(state["average"][name])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])

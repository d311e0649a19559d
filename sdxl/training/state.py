"""The state of a training: weights, optimizer, average and step in one file, written whole or not at all."""

from __future__ import annotations

import reprlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdxl.errors import CheckpointError
from sdxl.training.ema import Average
from sige.files import atomic_write

__all__ = ["check_state", "load_state", "save_state"]

_short = reprlib.Repr()  # of what a damaged file may hold: it may be endless
_short.maxstring = 100
MOMENTS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps for each parameter, besides its number of steps


def save_state(
    path: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, average: Average, about: dict[str, Any]
) -> None:
    """Writes everything that the next step depends on, and `about`, the settings that identify the training."""
    learning = {name: value.detach().cpu() for name, value in module.named_parameters() if value.requires_grad}
    state = {
        "step": step,
        "weights": learning,
        "optimizer": optimizer.state_dict()["state"],
        "average": {name: value.cpu() for name, value in average.values.items()},
        "about": about,
    }
    with atomic_write(path) as temporary, temporary.open("wb") as file:  # torch says in no words that a disk is full
        torch.save(state, file)


def load_state(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, average: Average, about: dict[str, Any]
) -> int:
    """Restores a state and returns the step to go on with; refuses the state of a training with other settings."""
    learning = {name: value for name, value in module.named_parameters() if value.requires_grad}
    try:
        state = _read(path)
        _check_about(path, state["about"], about)
        step = _step(state["step"])
        weights, averages = (_tensors(state[name], learning) for name in ("weights", "average"))
        moments = _moments(state["optimizer"], list(learning.values()))
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # a damaged file may hold anything
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise CheckpointError(f"{path} cannot be read: {why}; remove it, and the training begins anew") from error
    with torch.no_grad():
        for name, value in learning.items():
            value.copy_(weights[name])
            average.values[name].copy_(averages[name])
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    return step


def check_state(path: Path, about: dict[str, Any]) -> None:
    """Refuses the state of a training with other settings, before pictures are encoded; reads no weights."""
    try:
        _check_about(path, _read(path, mmap=True)["about"], about)
    except CheckpointError:
        raise
    except Exception:  # `load_state` says what is wrong with it
        return


def _read(path: Path, mmap: bool = False) -> Any:
    """The content of the file; compressed parts, which `torch.save` does not make, could be of any size."""
    with zipfile.ZipFile(path) as file:
        if any(part.compress_type != zipfile.ZIP_STORED for part in file.infolist()):
            raise ValueError("it has compressed parts")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _check_about(path: Path, saved: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Refuses the state of a training with other settings, and says which."""
    if not isinstance(saved, Mapping):
        raise ValueError("it names no settings")
    changed = sorted(key for key in {*saved, *about} if saved.get(key) != about.get(key))
    if changed:
        what = ", ".join(f"{key} {_short.repr(saved.get(key))} -> {_short.repr(about.get(key))}" for key in changed)
        raise CheckpointError(f"{path} is of another run ({what}): take another folder, or remove it")


def _step(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**31:
        raise ValueError(f"its step is {_short.repr(value)}")
    return value


def _tensors(saved: Mapping[str, Tensor], learning: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The saved tensors, one of the right shape for each parameter that learns."""
    if set(saved) != set(learning):
        raise ValueError("other weights learn")
    for name, value in learning.items():
        _check_shape(name, saved[name], value)
    return saved


def _moments(saved: Mapping[int, Mapping[str, Tensor]], parameters: list[Tensor]) -> dict[int, dict[str, Tensor]]:
    """The optimizer's moments and steps by the parameters' numbers; one that never had a gradient has none."""
    if not set(saved) <= set(range(len(parameters))):
        raise ValueError("its optimizer has other parameters")
    for number, kept in saved.items():
        if set(kept) != {"step", *MOMENTS} or not isinstance(kept["step"], Tensor) or kept["step"].numel() != 1:
            raise ValueError(f"its optimizer keeps something else of parameter {number}")
        for name in MOMENTS:
            _check_shape(name, kept[name], parameters[number])
    return {number: dict(kept) for number, kept in saved.items()}


def _check_shape(name: str, saved: Any, expected: Tensor) -> None:
    if not isinstance(saved, Tensor) or saved.shape != expected.shape or not saved.is_floating_point():
        raise ValueError(f"{name} has another shape or type than the model's")

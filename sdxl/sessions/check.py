"""Checks what a session's folder says: latents and masks that fit their picture, else the folder is refused."""

from __future__ import annotations

import torch
from torch import Tensor

from sdxl.edits.request import CELL
from sdxl.pictures.images import size_of
from sdxl.sessions.book import Recorded, State
from sige.sizes import Size

__all__ = ["check_entry"]


def check_entry(state: State, recorded: Recorded) -> None:
    """Raises `ValueError` where a tensor has another shape or type than the session would have written."""
    height, width = size_of(state.picture)
    size = -(-height // CELL), -(-width // CELL)
    for name, value in (("latents", state.latents), ("unet", recorded.unet), ("decoder", recorded.decoder)):
        if value is not None:
            _check_latents(name, value, size, 1)
    for name, value in (("known", state.known), ("mask", recorded.mask)):
        if value is not None and (tuple(value.shape) != (1, 1, *size) or value.dtype != torch.bool):
            raise ValueError(f"{name} is {value.dtype} {list(value.shape)}, which does not fit the picture")
    if state.path is not None:
        _check_latents("path", state.path, size, len(state.path))
    if (state.path is None) != (state.known is None) or (recorded.unet is None) != (recorded.mask is None):
        raise ValueError("one of two tensors is missing that belong together")


def _check_latents(name: str, value: Tensor, size: Size, count: int) -> None:
    """Refuses a tensor that is not [count, C, *size] of floats."""
    right = value.dim() == 4 and len(value) == count and tuple(value.shape[2:]) == size
    if not right or not value.dtype.is_floating_point:
        raise ValueError(f"{name} is {value.dtype} {list(value.shape)}, which does not fit the picture")

"""The activations that a gather applies on the way: one table for schema, reference and kernels."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from sige.errors import OpError

__all__ = ["Activation", "activate", "activation_code"]

Activation = Literal["none", "silu"]

_CODES: dict[str, int] = {"none": 0, "silu": 1}  # csrc/common/types.h holds the same numbers


def activation_code(name: Activation) -> int:
    """The number that stands for `name` in an op schema."""
    if name not in _CODES:
        raise OpError(f"activation is {name!r}, expected one of {', '.join(_CODES)}")
    return _CODES[name]


def check_activation(op: str, code: int) -> None:
    """Refuses a number that names no activation."""
    if code not in _CODES.values():
        raise OpError(f"{op}: activation is {code}, expected 0 (none) or 1 (silu)")


def activate(values: Tensor, code: int) -> Tensor:
    """Applies the activation that `code` names."""
    return F.silu(values) if code == _CODES["silu"] else values

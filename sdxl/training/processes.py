"""This process among those that `accelerate launch` started; alone, it is the first of one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch

__all__ = ["processes"]

_PATIENCE = timedelta(days=1)  # how long the others wait for the first one, which encodes and paints samples


def processes() -> Any:  # accelerate.PartialState
    """This process among those of a training: its number, its device, and how it waits for the others."""
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)

"""The place of this process among those that `accelerate launch` started; a process alone is the first of one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch

__all__ = ["processes"]

_PATIENCE = timedelta(days=1)  # how long the others wait for the first one, which encodes and paints samples


def processes() -> Any:  # accelerate.PartialState
    """Accelerate's state of this process: its number, its device, and how to wait for the others."""
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)

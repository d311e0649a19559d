"""A probe: what a recording keeps of one layer. A `Tap` on the layer's module fills it during a dense pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

__all__ = ["Probe"]


@dataclass(frozen=True)
class Probe:
    """The input or the output of a module, kept as rows under a key; with `groups`, the sums of its groups too."""

    key: str
    module: nn.Module
    of: Literal["input", "output"]
    groups: int = 0
    restore: Callable[[Tensor], Tensor] | None = None  # makes a row for every position, where rows were merged

"""What packed layers hand to each other, and what they all read: the layout of a region and the blend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from sige.geometry import Geometry, gather_map, row_map
from sige.recording import BlendedComponent
from sige.region import Int32Array, Region
from sige.sizes import Size

__all__ = ["Features", "Layout", "PackedPass", "Tap", "TextCache"]


@dataclass(frozen=True)
class Features:
    """The active positions' features at one level."""

    rows: Tensor  # [B, N, C]
    size: Size


@dataclass(frozen=True)
class Tap:
    """What a recording keeps for a packed layer: the input or the output of a module, as rows."""

    key: str
    module: nn.Module
    of: Literal["input", "output"]
    groups: int = 0  # sums of so many groups are kept too


@dataclass(eq=False)
class Layout:
    """A region's index tensors on one device, made once."""

    region: Region
    device: torch.device
    _kept: dict[object, Tensor] = field(default_factory=dict)

    def index(self, size: Size) -> Tensor:  # int32 [N]
        """The active positions of a level."""
        return self._keep(("index", size), lambda: self.region.index(*size))

    def gather(self, geometry: Geometry, size: Size) -> tuple[Tensor, Tensor]:  # int32 [N_out, T], int32 [M]
        """A layer's gather map, and the halo rows that it reads."""
        found = gather_map(self.region, geometry, *size)
        key = (geometry, size)
        return self._keep(("map", key), lambda: found.index), self._keep(("halo", key), lambda: found.halo)

    def inactive(self, size: Size) -> Tensor:  # int32 [H * W - N]
        """The positions of a level that are not active."""
        return self._keep(("inactive", size), lambda: (~self.region).index(*size))

    def keys(self, size: Size, compact: bool = False) -> Tensor:  # int32 [H * W]
        """The rows that attention sees: packed ones, and recorded ones elsewhere.

        Recorded rows are numbered by position, or, where `compact`, in the order of `inactive`.
        """
        if compact:
            count = size[0] * size[1]
            return self._keep(("compact keys", size), lambda: np.arange(count, dtype=np.int32))
        return self._keep(("keys", size), lambda: row_map(self.region, *size))

    def identity(self, size: Size) -> Tensor:  # int32 [N, 1]
        """The gather map that changes nothing."""
        count = len(self.region.index(*size))
        return self._keep(("identity", size), lambda: np.arange(count, dtype=np.int32)[:, None])

    def _keep(self, key: object, make: Callable[[], Int32Array]) -> Tensor:
        if key not in self._kept:
            self._kept[key] = torch.tensor(make(), device=self.device)
        return self._kept[key]


@dataclass
class TextCache:
    """Keys and values of the text, computed once per prompt: while the very same tensor is passed, unchanged."""

    text: Tensor | None = None
    version: int = -1
    projected: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def use(self, text: Tensor) -> None:
        """Forgets what another prompt left."""
        version = text._version if not text.is_inference() else -1
        if self.text is not text or self.version != version or text.is_inference():
            self.projected.clear()
        self.text, self.version = text, version

    def clear(self) -> None:
        """Forgets everything."""
        self.text, self.version = None, -1
        self.projected.clear()


@dataclass(frozen=True)
class PackedPass:
    """One packed pass: where (layout), on what (recorded), for which prompt (text)."""

    layout: Layout
    recorded: BlendedComponent
    exact_statistics: bool = True
    text: Tensor | None = None  # [B, tokens, C]
    text_cache: TextCache = field(default_factory=TextCache)

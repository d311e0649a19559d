"""The index tensors of a region on one device: they name the rows that packed layers read at each level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sige.geometry import Geometry, gather_map, row_map
from sige.positions import Int32Array
from sige.region import Region
from sige.sizes import Size

__all__ = ["Layout"]


@dataclass(eq=False)
class Layout:
    """The index tensors of one region, made when a layer first asks for them and then kept."""

    region: Region
    device: torch.device
    _kept: dict[object, Tensor] = field(default_factory=dict)

    def index(self, size: Size) -> Tensor:  # int32 [N]
        """The active positions of a level, in the order of packed rows."""
        return self._keep(("index", size), lambda: self.region.index(*size))

    def gather(self, geometry: Geometry, size: Size) -> tuple[Tensor, Tensor]:  # int32 [N_out, T], int32 [M]
        """The gather map of a layer, and the positions of the halo that it reads."""
        found = gather_map(self.region, geometry, *size)
        key = (geometry, size)
        return self._keep(("map", key), lambda: found.index), self._keep(("halo", key), lambda: found.halo)

    def inactive(self, size: Size) -> Tensor:  # int32 [H * W - N]
        """The positions of a level that are not active."""
        return self._keep(("inactive", size), lambda: (~self.region).index(*size))

    def keys(self, size: Size, compact: bool = False) -> Tensor:  # int32 [H * W]
        """The rows that attention sees: packed rows at active positions, recorded rows at all others.

        Recorded rows are numbered by position; with `compact`, in the order of `inactive`.
        """
        if compact:
            count = size[0] * size[1]
            return self._keep(("compact keys", size), lambda: np.arange(count, dtype=np.int32))
        return self._keep(("keys", size), lambda: row_map(self.region, *size))

    def identity(self, size: Size) -> Tensor:  # int32 [N, 1]
        """The gather map in which each output reads its own packed row."""
        count = len(self.region.index(*size))
        return self._keep(("identity", size), lambda: np.arange(count, dtype=np.int32)[:, None])

    def _keep(self, key: object, make: Callable[[], Int32Array]) -> Tensor:
        if key not in self._kept:
            self._kept[key] = torch.tensor(make(), device=self.device)
        return self._kept[key]

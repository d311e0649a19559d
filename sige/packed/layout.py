"""The index tensors of a region on one device: they name the rows that packed layers read at each level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sige.errors import GeometryError
from sige.geometry import GatherMap, Geometry, gather_map, row_map
from sige.positions import Int32Array
from sige.region import Region
from sige.sizes import Size

__all__ = ["IndexName", "Layout"]


@dataclass(frozen=True)
class IndexName:
    """The name of an index tensor, which is the same in the layouts of all regions."""

    kind: str  # a key of _MAKERS
    size: Size  # of the level
    geometry: Geometry | None = None  # of the layer that reads through it


@dataclass(eq=False)
class Layout:
    """The index tensors of one region, made when a layer first asks for them and then kept."""

    region: Region
    device: torch.device
    _kept: dict[IndexName, Tensor] = field(default_factory=dict)

    def index(self, size: Size) -> Tensor:  # int32 [N]
        """The active positions of a level, in the order of packed rows."""
        return self.read(IndexName("active", size))

    def gather(self, geometry: Geometry, size: Size) -> tuple[Tensor, Tensor]:  # int32 [N_out, T], int32 [M]
        """The gather map of a layer, and the positions of the halo that it reads."""
        return self.read(IndexName("map", size, geometry)), self.read(IndexName("halo", size, geometry))

    def inactive(self, size: Size) -> Tensor:  # int32 [H * W - N]
        """The positions of a level that are not active."""
        return self.read(IndexName("inactive", size))

    def keys(self, size: Size, compact: bool = False) -> Tensor:  # int32 [H * W]
        """The rows that attention sees: packed rows at active positions, recorded rows at all others.

        Recorded rows are numbered by position; with `compact`, in the order of `inactive`.
        """
        return self.numbers(size[0] * size[1]) if compact else self.read(IndexName("keys", size))

    def numbers(self, count: int) -> Tensor:  # int32 [count]
        """The numbers from 0 on."""
        return self.read(IndexName("numbers", (count, 1)))

    def identity(self, size: Size) -> Tensor:  # int32 [N, 1]
        """The gather map in which each output reads its own packed row."""
        return self.read(IndexName("identity", size))

    def read(self, name: IndexName) -> Tensor:
        """The index tensor of that name."""
        if name not in self._kept:
            self._kept[name] = torch.tensor(_MAKERS[name.kind](self.region, name), device=self.device)
        return self._kept[name]


def _gathered(region: Region, name: IndexName) -> GatherMap:
    if name.geometry is None:
        raise GeometryError(f"{name.kind}: the geometry of the layer is missing")
    return gather_map(region, name.geometry, *name.size)


def _count(count: int) -> Int32Array:  # [count]
    return np.arange(count, dtype=np.int32)


_MAKERS: dict[str, Callable[[Region, IndexName], Int32Array]] = {
    "active": lambda region, name: region.index(*name.size),
    "inactive": lambda region, name: (~region).index(*name.size),
    "map": lambda region, name: _gathered(region, name).index,  # [N_out, T]
    "halo": lambda region, name: _gathered(region, name).halo,  # [M]
    "keys": lambda region, name: row_map(region, *name.size),
    "numbers": lambda region, name: _count(name.size[0]),
    "identity": lambda region, name: _count(len(region.index(*name.size)))[:, None],
}

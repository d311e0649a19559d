"""The index tensors that a component reads of a region: they name the rows that packed layers read at each level."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from sige.geometry import Geometry
from sige.packed.index_tensors import IndexName, index_tensors
from sige.region import Region
from sige.sizes import Size

__all__ = ["IndexName", "Layout", "PaddedLayout"]


class Layout:
    """The index tensors of one region on one device, as one reader asks for them.

    They are made when some layout of the region first asks for them, and kept as long as the region lives. `expected`
    names those that will be asked for: they are made at once, and moved to the device in one copy.
    """

    def __init__(self, region: Region, device: torch.device, expected: Iterable[IndexName] = ()) -> None:
        self.region = region
        self.device = device
        self._tensors = index_tensors(region, device)
        self._read: dict[IndexName, Tensor] = {}
        self._padded: PaddedLayout | None = None
        self.prepare(expected)

    @property
    def names(self) -> list[IndexName]:
        """What was asked for so far, in this order."""
        return list(self._read)

    def prepare(self, names: Iterable[IndexName]) -> None:
        """Makes the index tensors of these names, and moves those that are new to the device in one copy."""
        names = [name for name in names if name not in self._read]
        if names:
            self._read.update(zip(names, self._tensors.get(self.region, names), strict=True))

    @property
    def padded(self) -> PaddedLayout:
        """The same index tensors, padded for graphs."""
        if self._padded is None:
            self._padded = PaddedLayout(self)
        return self._padded

    def index(self, size: Size) -> Tensor:  # int32 [N]
        """The active positions of a level, in the order of packed rows; -1 for a row that is padding."""
        return self.read(IndexName("active", size))

    def positions(self, size: Size) -> Tensor:  # int32 [N]
        """The same; some position for a row that is padding, so that a value can be read there."""
        return self.read(IndexName("positions", size))

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
        return self.read(IndexName("compact" if compact else "keys", size))

    def numbers(self, count: int) -> Tensor:  # int32 [count]
        """The numbers from 0 on."""
        return self.read(IndexName("numbers", (count, 1)))

    def identity(self, size: Size) -> Tensor:  # int32 [N, 1]
        """The gather map in which each output reads its own packed row."""
        return self.read(IndexName("identity", size))

    def read(self, name: IndexName) -> Tensor:
        """The index tensor of that name."""
        if name not in self._read:
            self.prepare([name])
        return self._read[name]


class PaddedLayout(Layout):
    """The index tensors of a layout, padded to a grid of lengths (buckets.py)."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout.region, layout.device)
        self._layout = layout

    def read(self, name: IndexName) -> Tensor:
        return self._layout.read(replace(name, padded=True))

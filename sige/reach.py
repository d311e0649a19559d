"""The input positions that a box of outputs reads, and the rows that lie there; integers alone, no layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import numpy.typing as npt

from sige.positions import BoolArray, Box, Int32Array

__all__ = ["AxisReach", "Reach", "Rows"]


@dataclass(frozen=True)
class Rows:
    """The row that each place of a box holds; -1 where there is none. The box begins at the place (top, left)."""

    grid: Int32Array  # [h, w]
    top: int
    left: int

    def put(
        self,
        positions: Int32Array,  # [n], flat
        width: int,  # of their level
        first: int,
    ) -> None:
        """Gives the positions the rows `first`, `first` + 1 and so on."""
        pitch = self.grid.shape[1]
        places = _moved(positions, width, pitch, -(self.top * pitch + self.left))
        self.grid.ravel()[places] = np.arange(first, first + len(positions), dtype=np.int32)


@dataclass(frozen=True)
class AxisReach:
    """The reach of the outputs from `start` to `stop` along one axis; they are one at least.

    A place is a position of the upsampled and padded input; 0 is the first one that is not padding.
    """

    start: int
    stop: int
    kernel: int
    stride: int
    padding: int  # before the first position
    inputs: int
    upsampled: int

    @cached_property
    def places(self) -> tuple[int, int]:
        """The first place that is read, and the one after the last."""
        first = self.start * self.stride - self.padding
        return first, first + (self.stop - self.start - 1) * self.stride + self.kernel

    @cached_property
    def inside(self) -> tuple[int, int]:
        """The same without padding; equal numbers where all is padding."""
        first, end = (min(max(place, 0), self.upsampled) for place in self.places)
        return first, end

    @cached_property
    def span(self) -> tuple[int, int]:
        """The first input position that is read, and the one after the last."""
        first, end = self.inside
        if first == end:
            return 0, 0
        return first * self.inputs // self.upsampled, (end - 1) * self.inputs // self.upsampled + 1

    @property
    def is_stretched(self) -> bool:
        """Says whether places and input positions differ."""
        return self.upsampled != self.inputs

    def read_at(
        self,
        outputs: Int32Array,  # [n], from `start` to `stop`
        first: int,
        pitch: int,
    ) -> list[npt.NDArray[np.intp]]:  # for each kernel tap [n]
        """The input position that each output reads, counted from `first` on, times `pitch`; padding is -1."""
        place = np.arange(*self.places)
        inside = (place >= 0) & (place < self.upsampled)
        source = np.where(inside, place * self.inputs // self.upsampled - first, -1) * pitch
        at = (outputs.astype(np.intp) - self.start) * self.stride
        return [source[tap:].take(at) for tap in range(self.kernel)]

    def needed(
        self,
        outputs: BoolArray,  # [stop - start, n], or [n, stop - start] for axis 1
        axis: int,
    ) -> BoolArray:  # [span, n] or [n, span]
        """Says of each input position of the span whether some true output reads it."""
        low, high = self.places
        reached = _zeros(outputs, axis, high - low)
        for tap in range(self.kernel):
            end = tap + (self.stop - self.start - 1) * self.stride + 1
            read = _part(reached, axis, slice(tap, end, self.stride))
            read |= outputs
        first, end = self.inside
        reached = _part(reached, axis, slice(first - low, end - low))
        return self._shrunk(reached, axis) if self.is_stretched else reached

    def _shrunk(self, reached: BoolArray, axis: int) -> BoolArray:
        """Says of each input position whether any of its places is true."""
        (first, end), (begin, stop) = self.inside, self.span
        needed = _zeros(reached, axis, stop - begin)
        if self.upsampled % self.inputs == 0:
            factor = self.upsampled // self.inputs
            for place in range(first, min(first + factor, end)):
                part = _part(reached, axis, slice(place - first, None, factor))
                at = place // factor - begin
                source = _part(needed, axis, slice(at, at + part.shape[axis]))
                source |= part
        elif first < end:
            sources = np.arange(first, end) * self.inputs // self.upsampled
            changes = np.flatnonzero(np.diff(sources, prepend=-1))
            needed[_at(axis, sources[changes] - begin)] = np.logical_or.reduceat(reached, changes, axis)
        return needed


@dataclass(frozen=True)
class Reach:
    """The reach of a box of outputs."""

    rows: AxisReach
    columns: AxisReach

    @property
    def is_stretched(self) -> bool:
        """Says whether places and input positions differ."""
        return self.rows.is_stretched or self.columns.is_stretched

    def halo(
        self,
        outputs: BoolArray,  # [h_out, w_out]
        active: BoolArray,  # [h, w]
    ) -> Int32Array:  # [M]
        """The flat input positions that true outputs of the box read and that are not active, ascending."""
        rows, columns = self.rows, self.columns
        outputs = outputs[rows.start : rows.stop, columns.start : columns.stop]
        needed = rows.needed(columns.needed(outputs, 1), 0)
        (top, bottom), (left, right) = rows.span, columns.span
        inside = np.flatnonzero(np.greater(needed, active[top:bottom, left:right]))
        return _moved(inside.astype(np.int32), right - left, active.shape[1], top * active.shape[1] + left)

    def numbered(
        self,
        active: Box,  # holds all packed positions
        packed: Int32Array,  # [N], flat input positions
        halo: Int32Array,  # [M], flat input positions
    ) -> Rows:
        """The rows that the outputs can read: first the packed ones, then the halo."""
        rows, columns = self.rows, self.columns
        if self.is_stretched:
            box = _around(Box(rows.span[0], columns.span[0], rows.span[1], columns.span[1]), active)
            box = box._replace(bottom=box.bottom + 1, right=box.right + 1)  # the last ones stand for the padding
        else:
            box = _around(Box(rows.places[0], columns.places[0], rows.places[1], columns.places[1]), active)
        found = Rows(np.full(box.shape, -1, dtype=np.int32), box.top, box.left)
        found.put(packed, columns.inputs, 0)
        found.put(halo, columns.inputs, len(packed))
        return found

    def read(
        self,
        rows: Rows,
        outputs: Int32Array,  # [n], flat positions
        width: int,  # of the outputs' level
        index: Int32Array,  # [n, T], filled
    ) -> None:
        """Looks up the row that each output reads at each kernel tap."""
        grid, pitch = rows.grid.ravel(), rows.grid.shape[1]
        if self.is_stretched:
            y = outputs // np.int32(width)
            down = self.rows.read_at(y, rows.top, pitch)
            across = self.columns.read_at(outputs - y * np.int32(width), rows.left, 1)
            for tap, (from_row, from_column) in enumerate(product(down, across)):
                index[:, tap] = grid.take(from_row + from_column, mode="wrap")
            return
        # The place of the first tap; each other tap is as far from it for all outputs.
        start = _moved(outputs, width, pitch, 0).astype(np.intp)
        start *= self.rows.stride
        start -= (self.rows.padding + rows.top) * pitch + self.columns.padding + rows.left
        for tap in range(index.shape[1]):
            y_tap, x_tap = divmod(tap, self.columns.kernel)
            index[:, tap] = grid[y_tap * pitch + x_tap :].take(start, mode="clip")


def _around(box: Box, other: Box) -> Box:
    """The smallest box around both, of which the second may be empty."""
    if not other.bottom:
        return box
    return Box(*map(min, box[:2], other[:2]), *map(max, box[2:], other[2:]))


def _moved(
    positions: Int32Array,  # [n], flat, of a level `width` wide
    width: int,
    pitch: int,
    offset: int,
) -> Int32Array:  # [n]
    """The same positions in rows of `pitch`, moved by `offset`."""
    row = positions // np.int32(max(width, 1))
    row *= np.int32(pitch - width)
    row += positions
    row += np.int32(offset)
    return row


def _zeros(like: BoolArray, axis: int, length: int) -> BoolArray:
    shape = (length, like.shape[1]) if axis == 0 else (like.shape[0], length)
    return np.zeros(shape, dtype=bool)


def _part(array: BoolArray, axis: int, part: slice) -> BoolArray:
    return array[part] if axis == 0 else array[:, part]


def _at(axis: int, positions: npt.NDArray[np.intp]) -> tuple[slice | npt.NDArray[np.intp], ...]:
    return (positions,) if axis == 0 else (slice(None), positions)

"""Gather maps: from a layer's geometry and a region to the row that each output reads at each kernel tap."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from sige.errors import GeometryError
from sige.positions import Box, Int32Array, read_only
from sige.reach import AxisReach, Reach
from sige.region import Region
from sige.sizes import Size

__all__ = ["GatherMap", "Geometry", "gather_map", "row_map"]

_T = TypeVar("_T")

_MAX_ROWS = np.iinfo(np.int32).max
_BLOCK = 32768  # outputs that are mapped at a time, so that the addresses of a block stay in the L2 cache


@dataclass(frozen=True)
class Geometry:
    """The geometry of a convolution: its kernel, stride and zero padding, and the nearest upsampling of its input.

    >>> Geometry.downsample().output_size(128, 64)
    (64, 32)
    """

    kernel: Size = (3, 3)  # height, width
    stride: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    upsample: int = 1  # factor of the nearest upsampling, which comes before the padding
    upsample_size: Size | None = None  # the size to upsample to, where it is another than the factor gives

    def __post_init__(self) -> None:
        _check_ints("kernel", self.kernel, length=2, minimum=1)
        _check_ints("stride", (self.stride,), length=1, minimum=1)
        _check_ints("padding", self.padding, length=4, minimum=0)
        _check_ints("upsample", (self.upsample,), length=1, minimum=1)
        if self.upsample_size is not None:
            _check_ints("upsample_size", self.upsample_size, length=2, minimum=1)

    @classmethod
    def conv1x1(cls) -> Geometry:
        """A 1x1 convolution, or any layer that works on rows."""
        return cls(kernel=(1, 1))

    @classmethod
    def conv3x3(cls) -> Geometry:
        """A 3x3 convolution that keeps the size."""
        return cls(padding=(1, 1, 1, 1))

    @classmethod
    def downsample(cls) -> Geometry:
        """A 3x3 convolution of stride 2, padded all round: the downsampler of a UNet."""
        return cls(stride=2, padding=(1, 1, 1, 1))

    @classmethod
    def downsample_asymmetric(cls) -> Geometry:
        """A 3x3 convolution of stride 2, padded at the bottom and right only: the downsampler of a VAE encoder."""
        return cls(stride=2, padding=(0, 0, 1, 1))

    @classmethod
    def upsample_conv3x3(cls, size: Size | None = None) -> Geometry:
        """Nearest upsampling by 2, or to `size`, then a 3x3 convolution: the upsampler of UNet and VAE decoder.

        A UNet upsamples to the size of the skip connection when its input is no multiple of its strides.
        """
        return cls(padding=(1, 1, 1, 1), upsample=2, upsample_size=size)

    @property
    def taps(self) -> int:
        """Number of kernel taps: the rows that one output reads, padding included."""
        return self.kernel[0] * self.kernel[1]

    def upsampled_size(self, height: int, width: int) -> Size:
        """Size of the upsampled input."""
        return self.upsample_size or (height * self.upsample, width * self.upsample)

    def padded_size(self, height: int, width: int) -> Size:
        """Size of the upsampled and padded input."""
        top, left, bottom, right = self.padding
        upsampled = self.upsampled_size(height, width)
        return upsampled[0] + top + bottom, upsampled[1] + left + right

    def output_size(self, height: int, width: int) -> Size:
        """Size of the output for an input of height x width before upsampling."""
        padded = self.padded_size(height, width)
        if min(height, width) < 1 or padded[0] < self.kernel[0] or padded[1] < self.kernel[1]:
            raise GeometryError(
                f"input: got {height} x {width}, expected the padded {padded[0]} x {padded[1]} to hold "
                f"a kernel of {self.kernel[0]} x {self.kernel[1]}; use a larger input, or more padding"
            )
        return (
            (padded[0] - self.kernel[0]) // self.stride + 1,
            (padded[1] - self.kernel[1]) // self.stride + 1,
        )


@dataclass(frozen=True, eq=False)
class GatherMap:
    """The row that every active output reads at every kernel tap, and the halo that these reads need.

    An entry v of `index` names a row: -1 is zero padding, v < packed_rows is packed row v of the input level, and
    v >= packed_rows is halo row v - packed_rows. The rows of `index` are in the order of `Region.index`, the kernel
    taps go row by row over the kernel. All arrays are read-only.
    """

    index: Int32Array = field(repr=False)  # [N_out, T]
    halo: Int32Array = field(repr=False)  # [M], flat input positions, ascending
    packed_rows: int  # N
    input_size: Size
    output_size: Size

    @cached_property
    def index_full(self) -> Int32Array:  # [N_out, T]
        """`index` for a caller that has all recorded rows: v >= packed_rows is recorded row v - packed_rows."""
        packed = np.arange(self.packed_rows, dtype=np.int32)
        rows = np.concatenate((packed, self.halo + np.int32(self.packed_rows), np.full(1, -1, np.int32)))
        return read_only(rows.take(self.index, mode="wrap"))  # -1 wraps to the last entry, which is -1


def gather_map(region: Region, geometry: Geometry, height: int, width: int) -> GatherMap:
    """Gather map of a layer whose input is height x width before upsampling; built once per region.

    >>> mask = np.zeros((4, 4), dtype=bool)
    >>> mask[0, 0] = True
    >>> corner = gather_map(Region.from_mask(mask, dilation=0), Geometry.conv3x3(), 4, 4)
    >>> corner.halo
    array([1, 4, 5], dtype=int32)
    >>> corner.index
    array([[-1, -1, -1, -1,  0,  1, -1,  2,  3]], dtype=int32)
    >>> corner.index_full
    array([[-1, -1, -1, -1,  0,  2, -1,  5,  6]], dtype=int32)
    """
    return _once(region, (geometry, height, width), partial(_build_map, region, geometry, height, width))


def row_map(region: Region, height: int, width: int) -> Int32Array:  # [H * W], read-only
    """Row of every position: its packed row where it is active, elsewhere N + position, its row in a full recording.

    >>> row_map(Region.from_mask([[0, 1, 0]], dilation=0), 1, 3)
    array([1, 0, 3], dtype=int32)
    """
    return _once(region, (height, width), partial(_build_rows, region, height, width))


# The maps of each region by the builder's arguments. The table drops them together with the region, so a map must not
# refer to the region.
_built: WeakKeyDictionary[Region, dict[Hashable, object]] = WeakKeyDictionary()


def _once(region: Region, key: Hashable, build: Callable[[], _T]) -> _T:
    known = _built.setdefault(region, {})
    if key not in known:
        known.setdefault(key, build())  # two threads may both build; both return the first
    return known[key]  # type: ignore[return-value]


def _build_map(region: Region, geometry: Geometry, height: int, width: int) -> GatherMap:
    output_size = geometry.output_size(height, width)
    _check_rows(height, width)
    packed, outputs = region.index(height, width), region.index(*output_size)
    index = np.empty((len(outputs), geometry.taps), dtype=np.int32)
    halo = np.empty(0, dtype=np.int32)
    if len(outputs):
        reach = _reach(geometry, region.box(*output_size), (height, width))
        halo = reach.halo(region.active(*output_size), region.active(height, width))
        rows = reach.numbered(region.box(height, width), packed, halo)
        for start in range(0, len(outputs), _BLOCK):
            block = slice(start, start + _BLOCK)
            reach.read(rows, outputs[block], output_size[1], index[block])
    return GatherMap(read_only(index), read_only(halo), len(packed), (height, width), output_size)


def _reach(geometry: Geometry, outputs: Box, size: Size) -> Reach:
    top, left, _, _ = geometry.padding
    (height, width), upsampled, stride = geometry.kernel, geometry.upsampled_size(*size), geometry.stride
    return Reach(
        AxisReach(outputs.top, outputs.bottom, height, stride, top, size[0], upsampled[0]),
        AxisReach(outputs.left, outputs.right, width, stride, left, size[1], upsampled[1]),
    )


def _build_rows(region: Region, height: int, width: int) -> Int32Array:
    _check_rows(height, width)
    packed = region.index(height, width)
    rows = np.arange(len(packed), len(packed) + height * width, dtype=np.int32)
    rows[packed] = np.arange(len(packed))
    return read_only(rows)


def _check_rows(height: int, width: int) -> None:
    # Packed rows and a full recording are at most height * width each.
    if 2 * height * width > _MAX_ROWS:
        raise GeometryError(
            f"input: got {height} x {width}, expected at most {_MAX_ROWS // 2} positions, whose row numbers "
            "fit in int32; tile the image"
        )


def _check_ints(name: str, values: tuple[int, ...], *, length: int, minimum: int) -> None:
    valid = isinstance(values, tuple) and len(values) == length
    if not valid or not all(type(value) is int and value >= minimum for value in values):
        got = values[0] if isinstance(values, tuple) and length == 1 else values
        expected = "an int" if length == 1 else f"a tuple of {length} ints"
        raise GeometryError(f"{name}: got {got!r}, expected {expected} of at least {minimum}; take it from the layer")

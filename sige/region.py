"""Region: which positions of each resolution an edit touches, derived from a mask or from two images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sige.errors import RegionError
from sige.positions import BoolArray, Box, Int32Array, bounds, cover_box, dilate, read_only
from sige.sizes import Size

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Region"]

_MAX_POSITIONS = np.iinfo(np.int32).max
_FINEST_HALVED = 8  # pixels: levels with wider positions dilate less, see Region.from_mask


@dataclass(frozen=True, eq=False, repr=False)
class Region:
    """The active positions of every level of an image; immutable, and compared by identity.

    A level is a resolution h x w at which a layer works. The region derives a level's active positions at the first
    request and keeps them. Make a region with `from_mask`, `from_images`, `full` or `empty`; combine regions with `|`,
    `&`, `-` and `~`. These act on every level by itself, so regions of different dilation combine too.

    >>> mask = np.zeros((64, 64), dtype=bool)
    >>> mask[20, 3:60] = True  # a stroke one pixel thin
    >>> region = Region.from_mask(mask, dilation=0)
    >>> region.active(8, 8).sum(axis=1)
    array([0, 0, 8, 0, 0, 0, 0, 0])
    >>> (region | ~region).ratio(8, 8)
    1.0
    """

    image_size: Size
    _derive: Callable[[int, int], BoolArray]  # (h, w) -> [h, w]; `active` keeps what it returns
    _active: dict[Size, BoolArray] = field(default_factory=dict, init=False)
    _index: dict[Size, Int32Array] = field(default_factory=dict, init=False)
    _box: dict[Size, Box] = field(default_factory=dict, init=False)

    @classmethod
    def from_mask(
        cls,
        mask: Any,  # [H, W] array, tensor on any device, PIL image ("1", "L") or nested lists
        *,
        dilation: int = 1,
    ) -> Region:
        """Region of a mask: any value but zero is active, so soft edges belong to the edit.

        A position is active when any pixel that it covers is masked. Then each level is dilated, diagonals included: by
        `dilation` positions where a position is up to 8 pixels wide (SDXL's latents, the VAE), and by half as many,
        rounded down, at each coarser level: one position there is a larger share of the level, and the result gets
        little closer to dense for it (docs/accuracy.md). The mask is copied.

        >>> Region.from_mask([[0, 0, 0, 0, 0.5]], dilation=1).active(1, 5).astype(int)
        array([[0, 0, 0, 1, 1]])
        """
        array = _as_array(mask, "mask")
        if array.ndim != 2:
            raise RegionError(
                f"mask: got shape {array.shape}, expected [H, W]; "
                "index the batch and channel dimensions away, or convert a colour image with .convert('L')"
            )
        dilation = _as_int(dilation, "dilation", minimum=0)
        pixels = read_only(array.astype(bool, order="C"))
        return cls(_as_size(*pixels.shape), partial(_mask_level, pixels, bounds(pixels), dilation))

    @classmethod
    def from_images(
        cls,
        original: Any,  # [H, W] or [H, W, C], uint8, or float from 0 to 1; array, tensor or PIL image
        edited: Any,  # the same shape and kind
        *,
        threshold: float = 0.0,
        dilation: int = 1,
    ) -> Region:
        """Region of the pixels where any channel, alpha included, differs by more than `threshold`.

        The threshold is on the scale from 0 to 1, for uint8 images too: 8 / 255 ignores differences of up to 8.

        >>> original = np.zeros((4, 4, 3), dtype=np.uint8)
        >>> edited = original.copy()
        >>> edited[0, 0], edited[3, 3] = (0, 0, 200), (9, 0, 0)
        >>> Region.from_images(original, edited, threshold=9 / 255, dilation=0).index(4, 4)
        array([0], dtype=int32)
        """
        before, after = _as_array(original, "original"), _as_array(edited, "edited")
        for name, image in (("original", before), ("edited", after)):
            if image.ndim not in (2, 3) or not (image.dtype == np.uint8 or image.dtype.kind == "f"):
                raise RegionError(
                    f"{name}: got {image.dtype} of shape {image.shape}, expected uint8 or float of shape "
                    "[H, W] or [H, W, C]; permute channels last, and convert the values"
                )
        if before.shape != after.shape or before.dtype.kind != after.dtype.kind:
            raise RegionError(
                f"edited: got {after.dtype} of shape {after.shape}, expected the kind and shape of original, "
                f"{before.dtype} of {before.shape}; resize or convert one of the two"
            )
        if isinstance(threshold, bool) or not isinstance(threshold, Real) or not 0 <= threshold < np.inf:
            raise RegionError(f"threshold: got {threshold!r}, expected a number from 0 to 1; take 0 for any change")
        differs = _differs(before, after, float(threshold))
        return cls.from_mask(differs.any(axis=2) if differs.ndim == 3 else differs, dilation=dilation)

    @classmethod
    def full(cls, height: int, width: int) -> Region:
        """Region of an image of height x width with every position active.

        >>> Region.full(64, 64).ratio(8, 8)
        1.0
        """
        return cls(_as_size(height, width), partial(_constant_level, True))

    @classmethod
    def empty(cls, height: int, width: int) -> Region:
        """Region of an image of height x width with no active position.

        >>> Region.empty(64, 64).index(8, 8)
        array([], dtype=int32)
        """
        return cls(_as_size(height, width), partial(_constant_level, False))

    def active(self, height: int, width: int) -> BoolArray:
        """Active positions of the level height x width: bool [h, w], read-only.

        Position (i, j) covers the pixel rows floor(i * H / h) to ceil((i + 1) * H / h) - 1, columns alike,
        so levels need not divide the image, and may be larger.

        >>> Region.from_mask(np.eye(4), dilation=0).active(2, 2)
        array([[ True, False],
               [False,  True]])
        """
        level = _as_size(height, width)
        if level not in self._active:
            # Two threads may both derive a level; setdefault lets both return the same array.
            self._active.setdefault(level, read_only(self._derive(*level)))
        return self._active[level]

    def index(self, height: int, width: int) -> Int32Array:
        """Flat positions i * width + j of the active positions: int32 [N], ascending, read-only.

        >>> Region.from_mask(np.eye(4), dilation=0).index(2, 2)
        array([0, 3], dtype=int32)
        """
        level = _as_size(height, width)
        if level not in self._index:
            self._index.setdefault(level, read_only(_positions(self.active(*level), self.box(*level))))
        return self._index[level]

    def box(self, height: int, width: int) -> Box:
        """The smallest box that holds every active position of a level; 0 x 0 where there is none.

        >>> Region.from_mask([[0, 0, 0], [0, 1, 0]], dilation=0).box(2, 3)
        Box(top=1, left=1, bottom=2, right=2)
        """
        level = _as_size(height, width)
        if level not in self._box:
            self._box.setdefault(level, bounds(self.active(*level)))
        return self._box[level]

    def ratio(self, height: int, width: int) -> float:
        """Share of a level's positions that are active, from 0 to 1.

        >>> Region.from_mask(np.eye(4), dilation=0).ratio(2, 2)
        0.5
        """
        active = self.active(height, width)
        return int(np.count_nonzero(active)) / active.size

    def __or__(self, other: Region) -> Region:
        return self._combine(np.logical_or, other)

    def __and__(self, other: Region) -> Region:
        return self._combine(np.logical_and, other)

    def __sub__(self, other: Region) -> Region:
        return self._combine(np.greater, other)  # True > False: active here and not in the other

    def __invert__(self) -> Region:
        return Region(self.image_size, partial(_combined_level, np.logical_not, (self,)))

    def _combine(self, operation: np.ufunc, other: Region) -> Region:
        if not isinstance(other, Region):
            return NotImplemented
        if other.image_size != self.image_size:
            raise RegionError(
                f"regions: got image sizes {self.image_size} and {other.image_size}, expected the same; "
                "resize one of the masks"
            )
        return Region(self.image_size, partial(_combined_level, operation, (self, other)))

    def __repr__(self) -> str:
        return f"Region(image_size={self.image_size}, ratio={self.ratio(*self.image_size):.4f})"

    def preview(
        self,
        levels: Iterable[Size] | None = None,  # (h, w); None: the image, 1/8, 1/16, 1/32
    ) -> Image.Image:
        """Picture of the active positions, one panel per level (needs Pillow).

        >>> Region.full(64, 64).preview([(8, 8), (4, 4)]).mode
        'RGB'
        """
        from sige.preview import draw_levels

        height, width = self.image_size
        if levels is None:
            levels = [(-(-height // step), -(-width // step)) for step in (1, 8, 16, 32)]
        return draw_levels(self.image_size, {(h, w): self.active(h, w) for h, w in levels})


def _mask_level(pixels: BoolArray, masked: Box, dilation: int, height: int, width: int) -> BoolArray:
    cell = max(pixels.shape[0] / height, pixels.shape[1] / width)  # width of a position in pixels
    by = dilation >> max(round(math.log2(cell / _FINEST_HALVED)), 0)
    active = np.zeros((height, width), dtype=bool)
    if masked.bottom:
        covered, box = cover_box(pixels, masked, height, width)
        active[box.slices] = covered
        if by:
            near = box.grown(by, height, width).slices
            active[near] = dilate(active[near], by)
    return active


def _positions(active: BoolArray, box: Box) -> Int32Array:  # [h, w] -> [N], flat and ascending
    inside = np.flatnonzero(active[box.slices]).astype(np.int32)
    if box.shape[1]:
        inside += inside // np.int32(box.shape[1]) * np.int32(active.shape[1] - box.shape[1])
    inside += np.int32(box.top * active.shape[1] + box.left)
    return inside


def _constant_level(value: bool, height: int, width: int) -> BoolArray:
    return np.full((height, width), value)


def _combined_level(operation: np.ufunc, regions: tuple[Region, ...], height: int, width: int) -> BoolArray:
    combined: BoolArray = operation(*(region.active(height, width) for region in regions))
    return combined


def _differs(before: npt.NDArray[Any], after: npt.NDArray[Any], threshold: float) -> BoolArray:
    if before.dtype == np.uint8:
        change = np.maximum(before, after) - np.minimum(before, after)  # stays in uint8, never wraps
        allowed = np.count_nonzero(np.arange(256) / 255 <= threshold)  # changes of 0 .. allowed - 1 pass
        return np.asarray(change >= allowed)
    change = np.subtract(before, after, dtype=np.result_type(before, after, np.float32))
    return np.asarray(np.abs(change) > threshold)


def _as_array(value: Any, name: str) -> npt.NDArray[Any]:
    if getattr(value, "mode", None) in ("P", "PA"):
        raise RegionError(
            f"{name}: got a palette image, whose values are not colours, expected 'L' or 'RGB'; use .convert"
        )
    try:
        if hasattr(value, "detach"):  # a torch tensor; this test does not import torch
            value = value.detach().cpu()
            value = value.double() if value.is_floating_point() else value  # numpy has no bfloat16
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RegionError(
            f"{name}: got {type(value).__name__} ({error}), expected an array, a tensor or a PIL image"
        ) from error
    if array.dtype.kind not in "biuf" or array.size == 0:
        raise RegionError(
            f"{name}: got {array.dtype} of shape {array.shape}, expected real numbers of at least 1 x 1; "
            "pass an array, a tensor or a PIL image"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise RegionError(f"{name}: got NaN or infinite values, expected finite ones; use numpy.nan_to_num")
    return array


def _as_int(value: int, name: str, *, minimum: int) -> int:
    if type(value) is int and value >= minimum:
        return value  # the usual case; the test of an Integral takes ten times as long
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise RegionError(f"{name}: got {value!r}, expected an integer of at least {minimum}; pass one")
    return int(value)


def _as_size(height: int, width: int) -> Size:
    size = _as_int(height, "height", minimum=1), _as_int(width, "width", minimum=1)
    if size[0] * size[1] > _MAX_POSITIONS:
        raise RegionError(
            f"level: got {size[0]} x {size[1]}, expected at most {_MAX_POSITIONS} positions; tile the image"
        )
    return size

"""Buckets: index tensors that are padded to a grid of lengths, so that most regions fit a graph that was captured.

A CUDA graph is captured for the shapes of one region. Active positions and halos are padded to the next length of a
grid. What is padded changes nothing:

    active       -1: a norm leaves the row out
    positions    0: the row is computed, and nobody reads it
    map, keys    packed rows come first, so the numbers of recorded rows move up; no entry names a padded row
    halo         0: the row is read, and no entry of the map names it

There are eight lengths between a number and its double, so that a ninth more is computed at most. A halo is only read,
and differs more from shape to shape: two lengths.
"""

from __future__ import annotations

import numpy as np

from sige.positions import Int32Array
from sige.region import Region
from sige.sizes import Size

__all__ = ["bucket", "padded"]

STEPS, HALO_STEPS = 8, 2  # lengths between a number and its double
LEAST = 8  # between two lengths: rows that cost a GPU next to nothing


def bucket(count: int, steps: int = STEPS) -> int:
    """The next length of the grid. None stays none: a level without active positions is left out.

    >>> [bucket(count) for count in (0, 1, 17, 140, 484, 1000)]
    [0, 8, 24, 144, 512, 1024]
    """
    if count == 0:
        return 0
    step = max((1 << (count - 1).bit_length()) // 2 // steps, LEAST)
    return -(-count // step) * step


def padded(region: Region, kind: str, size: Size, array: Int32Array) -> Int32Array:
    """An index tensor as graphs read it; `array` is that of the layers."""
    count = len(region.index(*size))
    moved = bucket(count) - count
    if kind == "active":
        return _longer(array, -1)
    if kind == "halo":
        return _longer(array, 0, HALO_STEPS)
    if kind in ("positions", "inactive"):
        return _longer(array, 0)
    if kind == "map":
        return _longer(_shifted(array, count, moved), -1)
    if kind in ("keys", "compact"):
        return _shifted(array, count, moved)
    if kind == "identity":
        return np.arange(bucket(count), dtype=np.int32).reshape(-1, 1)
    return array


def _longer(array: Int32Array, value: int, steps: int = STEPS) -> Int32Array:  # [N, ...] -> [bucket(N), ...]
    rows = bucket(len(array), steps) - len(array)
    return np.concatenate((array, np.full((rows, *array.shape[1:]), value, dtype=np.int32)))


def _shifted(array: Int32Array, count: int, by: int) -> Int32Array:
    """The entries that name recorded rows, which come after `count` packed ones, moved up."""
    return np.where(array >= count, array + np.int32(by), array).astype(np.int32, copy=False)

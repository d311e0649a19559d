"""The region of a profile, from what a user names: a mask file, a rectangle, two images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from sige.profiling.macs import ProfilingError
from sige.region import Region
from sige.sizes import Size

__all__ = ["from_files", "from_mask_file", "from_rectangle"]

FORMATS = ("PNG", "JPEG", "WEBP")


def from_rectangle(size: Size, rectangle: Sequence[int], dilation: int) -> Region:
    """Region of a rectangle of pixels, given as top, left, height, width."""
    top, left, height, width = rectangle
    inside = min(top, left) >= 0 and min(height, width) > 0 and top + height <= size[0] and left + width <= size[1]
    if not inside:
        raise ProfilingError(
            f"--rect: got top {top}, left {left}, height {height}, width {width}, "
            f"expected at least one pixel, all inside {_text(size)}"
        )
    mask = np.zeros(size, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return Region.from_mask(mask, dilation=dilation)


def from_mask_file(size: Size, path: Path, dilation: int) -> Region:
    """Region of a mask in a .npy file or a picture: any value but zero is active."""
    mask = _load_array(path) if path.suffix.lower() == ".npy" else _load_mask_image(path)
    if mask.ndim != 2 or mask.shape != size:
        raise ProfilingError(
            f"--mask: {path} has shape {'x'.join(map(str, mask.shape))}, expected {_text(size)} as in --size"
        )
    return Region.from_mask(mask, dilation=dilation)


def from_files(size: Size, original: Path, edited: Path, threshold: float, dilation: int) -> Region:
    """Region of the pixels in which two pictures differ."""
    images = {}
    for flag, path in (("--original", original), ("--edited", edited)):
        images[flag] = np.asarray(_open(path).convert("RGBA"))
        if images[flag].shape[:2] != size:
            got = _text(images[flag].shape)
            raise ProfilingError(f"{flag}: {path} is {got}, expected {_text(size)} as in --size")
    return Region.from_images(images["--original"], images["--edited"], threshold=threshold, dilation=dilation)


def _load_array(path: Path) -> npt.NDArray[Any]:
    try:
        loaded = np.load(path, allow_pickle=False)
    except OSError as error:
        raise ProfilingError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise ProfilingError(f"{path}: is not an array that can be read without pickle: {error}") from error
    if not isinstance(loaded, np.ndarray):
        raise ProfilingError(f"{path}: holds several arrays, expected one: save the mask with numpy.save")
    return loaded


def _load_mask_image(path: Path) -> npt.NDArray[Any]:
    image = _open(path)
    if image.mode not in ("1", "L", "I", "F") and not image.mode.startswith("I;"):
        image = image.convert("RGB")  # leaves alpha out: it is not the mask
    array: npt.NDArray[Any] = np.asarray(image)
    return np.asarray(array.any(axis=2)) if array.ndim == 3 else array


def _open(path: Path) -> Image.Image:
    """The whole picture, upright."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise ProfilingError(f"{path}: is no picture of a known kind, expected {', '.join(FORMATS)}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ProfilingError(f"{path}: cannot be read: {reason}") from error


def _text(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"

"""Masks: a number per pixel from 0 (keep) to 1 (repaint). They are read strictly, and used to put a result together."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sdxl.errors import InputError
from sdxl.pictures.images import MAX_PIXELS, check_same_size, flatten, open_picture, sixteen_bits, size_of, size_text

__all__ = [
    "Mask",
    "check_mask",
    "composite",
    "is_empty",
    "is_full",
    "latent_cells",
    "load_mask",
    "mask_from_array",
    "mask_from_image",
    "pad_mask",
]

Mask = npt.NDArray[np.float32]  # [H, W], 0 to 1

_LOSSY = ("JPEG", "WEBP")
_NOISE = 32  # of 255: the largest change that JPEG of usual quality makes to black and white
_COLOUR = 32  # of 255: a pixel whose channels differ by more is not grey


def load_mask(path: Path | str) -> Mask:
    """The mask of an image file or an array file: white is repainted, black kept, grey blended.

    An array is bool, whole numbers 0 and 1 or 0 to 255, or floats 0 to 1, of shape [H, W] or [1, H, W]. Transparent
    parts of a picture are kept. In JPEG and WebP, near black counts as black and near white as white: compression
    leaves traces, and a trace in a black part would change pixels that the user wants to keep.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        return mask_from_array(_load_array(path), str(path))
    return mask_from_image(open_picture(path), str(path))


def _load_array(path: Path) -> npt.NDArray[Any]:
    expected = "expected one array from numpy.save"
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # reading a pipe would wait for ever
            raise InputError(f"{path} is no file, {expected}: check the path")
        size = path.stat().st_size
        if size > 8 * MAX_PIXELS + 4096:
            raise InputError(f"{path} is {size / 1e6:.0f} MB, too large for a mask: save it as bool")
        if _said_bytes(path) > size:  # numpy takes the memory before it reads
            raise ValueError("its header says more than the file has")
        loaded = np.load(path, allow_pickle=False)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # numpy's reader raises errors of many kinds
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path} cannot be read ({error.strerror}), {expected}: check the path") from error
        raise InputError(f"{path} is damaged or holds Python objects, {expected}: save the mask again") from error
    if not isinstance(loaded, np.ndarray):
        raise InputError(f"{path} holds several arrays, {expected}: save the mask alone")
    return loaded


def _said_bytes(path: Path) -> int:
    """The bytes of the array that the file's header describes; 0 for a file of another format."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with path.open("rb") as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            return 0
        file.seek(0)
        shape, _, dtype = readers[np.lib.format.read_magic(file)](file)
    return math.prod(shape) * dtype.itemsize


def mask_from_array(
    array: npt.NDArray[Any],  # [H, W] or [1, H, W]
    name: str = "mask",
) -> Mask:
    """The mask of an array, by the rules of `load_mask`.

    >>> mask_from_array(np.array([[0, 128, 255]], dtype=np.uint8)).round(2)
    array([[0. , 0.5, 1. ]], dtype=float32)
    """
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"{name} has shape {list(array.shape)}, expected [height, width]: select one mask")
    if array.size > MAX_PIXELS:
        raise InputError(f"{name} has {array.size:,} values, expected at most {MAX_PIXELS:,}: take that of the image")
    if array.dtype.kind not in "buif":
        raise InputError(f"{name} holds {array.dtype}, expected bool, whole numbers or floats: convert it")
    low, high = array.min(), array.max()
    limit = 1 if array.dtype.kind in "bf" else 255
    if not (low >= 0 and high <= limit):  # also where NaN makes both comparisons false
        raise InputError(
            f"{name} holds {array.dtype} values from {low} to {high}, expected 0 to {limit}: "
            f"scale them, or save array > threshold"
        )
    return array.astype(np.float32) / np.float32(255 if high > 1 else 1)


def mask_from_image(image: Image.Image, name: str = "mask") -> Mask:
    """The mask of a picture, by the rules of `load_mask`. A coloured picture is refused: it may be the wrong file.

    >>> mask_from_image(Image.new("L", (2, 1), 255))
    array([[1., 1.]], dtype=float32)
    """
    if (values := sixteen_bits(image, name)) is not None:
        return values.astype(np.float32) / np.float32(65535)
    pixels, _ = flatten(image, "black", name)
    channels = np.asarray(pixels)  # [H, W, 3]
    if (channels.max(axis=2) - channels.min(axis=2)).max() > _COLOUR:
        raise InputError(f"{name} is a coloured picture, expected white (repaint) on black: paint the mask in white")
    grey = np.asarray(pixels.convert("L"))  # [H, W]
    if image.format in _LOSSY:
        grey = np.where(grey < _NOISE, 0, np.where(grey > 255 - _NOISE, 255, grey))
    return grey.astype(np.float32) / np.float32(255)


def check_mask(
    mask: Mask,  # [H, W]
    image_size: tuple[int, int],  # height, width
    name: str = "mask",
) -> None:
    """Refuses a mask of another size than its image."""
    if mask.shape != image_size:
        raise InputError(
            f"{name} is {size_text((mask.shape[0], mask.shape[1]))}, expected the size of the image, "
            f"{size_text(image_size)}: resize the mask"
        )


def is_empty(
    mask: Mask,  # [H, W]
) -> bool:
    """Says whether the mask repaints no pixel."""
    return not mask.any()


def is_full(
    mask: Mask,  # [H, W]
) -> bool:
    """Says whether the mask repaints every pixel and blends none."""
    return bool((mask == 1).all())


def pad_mask(
    mask: Mask,  # [H, W]
    multiple: int = 8,
) -> Mask:
    """The mask for an image after `pad_to_multiple`, with its last column and row repeated in the same way."""
    return np.pad(mask, [(0, -side % multiple) for side in mask.shape], mode="edge")


def latent_cells(
    mask: Mask,  # [H, W]
    cell: int = 8,
) -> npt.NDArray[np.bool_]:
    """The mask grown to whole cells of 8x8 pixels, one cell per latent position: bool [H, W].

    Pipelines sample one pixel of each cell. Whole cells keep a stroke of one pixel, also a faint one.

    >>> mask = np.zeros((16, 16), dtype=np.float32)
    >>> mask[3, 9] = 0.1
    >>> latent_cells(mask)[::8, ::8]
    array([[False,  True],
           [False, False]])
    """
    height, width = mask.shape
    padded = np.pad(mask > 0, [(0, -side % cell) for side in mask.shape])
    cells = padded.reshape(padded.shape[0] // cell, cell, padded.shape[1] // cell, cell).any(axis=(1, 3))
    return cells.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]


def composite(
    original: Image.Image,
    result: Image.Image,
    mask: Mask,  # [H, W]
) -> Image.Image:
    """The original where the mask is 0 and the result where it is 1, bit for bit; between, both blended and rounded.

    >>> white, black = Image.new("RGB", (3, 1), "white"), Image.new("RGB", (3, 1))
    >>> np.asarray(composite(white, black, np.array([[0, 0.2, 1]], dtype=np.float32)))[0, :, 0]
    array([255, 204,   0], dtype=uint8)
    """
    check_same_size(original, result, ("original", "result"))
    check_mask(mask, size_of(original))
    before, after = np.asarray(original.convert("RGB")), np.asarray(result.convert("RGB"))  # [H, W, 3]
    pixels = np.where(mask[..., None] == 1, after, before)
    soft = (mask > 0) & (mask < 1)
    old, new, share = before[soft].astype(np.float32), after[soft].astype(np.float32), mask[soft][:, None]
    pixels[soft] = np.rint(old + (new - old) * share)
    image = Image.fromarray(pixels)
    if "icc_profile" in original.info:
        image.info["icc_profile"] = original.info["icc_profile"]
    return image

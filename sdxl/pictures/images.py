"""Pictures for the models: read strictly, in RGB of eight bits, with sides that the models can halve."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from sdxl.errors import InputError
from sige.sizes import Size

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "check_finite_image",
    "check_pixels",
    "check_same_size",
    "crop_back",
    "flatten",
    "load_image",
    "open_picture",
    "opened",
    "pad_to_multiple",
    "resize",
    "size_of",
    "size_text",
    "sixteen_bits",
    "to_rgb",
]

logger = logging.getLogger(__name__)

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 25_000_000  # of a camera with 24 million; while a picture is converted, each takes up to 20 bytes
_KINDS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")


def load_image(path: Path | str) -> Image.Image:
    """The picture in RGB, upright.

    Transparent parts are shown on white, with a warning. Grey, palettes and 16 bits are converted; CMYK is refused,
    because its colours depend on a profile. The `info` of the result keeps an RGB picture's colour profile, and nothing
    else of the file.
    """
    return to_rgb(open_picture(path), str(path))


def to_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """A copy in RGB, by the rules of `load_image`.

    >>> to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    profile = image.info.get("icc_profile") if image.mode in ("P", "RGB", "RGBA") else None
    rgb, transparent = flatten(image, "white", name)
    if transparent:
        logger.warning("%s has transparent parts: they are taken as white", name)
    rgb.info = {} if profile is None else {"icc_profile": profile}
    return rgb


def flatten(image: Image.Image, background: str, name: str = "image") -> tuple[Image.Image, bool]:
    """The picture in RGB on a background, and whether the background shows; opaque pixels keep their values."""
    if (values := sixteen_bits(image, name)) is not None:
        image = _eight_bits(values, image.info.get("transparency"))
    if image.mode not in _KINDS:
        raise InputError(f"{name} is a picture in {image.mode}, expected RGB or grey: convert and save it again")
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB"), False
    try:
        image = image.convert("RGBA")
    except (ValueError, TypeError) as error:
        why = _line(error)
        raise InputError(f"{name}: its transparency does not fit its palette ({why}): save it again") from error
    transparent = np.asarray(image.getchannel("A")).min() < 255
    return Image.alpha_composite(Image.new("RGBA", image.size, background), image).convert("RGB"), bool(transparent)


def sixteen_bits(image: Image.Image, name: str = "image") -> npt.NDArray[np.uint16] | None:
    """The values [H, W] of a picture with 16 bits per pixel, in any of Pillow's modes; None for other pictures."""
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return None
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise InputError(f"{name} has values from {values.min()} to {values.max()}, expected 0 to 65535: scale them")
    return values.astype(np.uint16)


def _eight_bits(
    values: npt.NDArray[np.uint16],  # [H, W]
    transparent: int | None,
) -> Image.Image:
    grey = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def open_picture(path: Path | str) -> Image.Image:
    """The whole picture, upright, in the mode and with the `format` of its file; the first frame of an animation."""
    with opened(path) as image:
        upright = ImageOps.exif_transpose(image)
        upright.format = image.format
    return upright


@contextmanager
def opened(path: Path | str, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """The picture with its header read and its size checked; an error of Pillow in the block becomes `InputError`."""
    path = Path(path)
    expected = ", ".join(formats)
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # reading a pipe would wait for ever
            raise InputError(f"{path} is no file, expected a picture: check the path")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            image = Image.open(path, formats=formats)
        with image:
            check_pixels(str(path), size_of(image))
            yield image
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is no picture that can be read, expected {expected}: save it as such") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} has too many pixels, expected at most {MAX_PIXELS:,}: make it smaller") from error
    except Exception as error:  # decoders raise errors of many kinds
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path} cannot be read ({error.strerror}), expected a picture: check the path") from error
        raise InputError(f"{path} is damaged ({_line(error)}), expected {expected}: save or copy it again") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def check_pixels(name: str, size: Size) -> None:
    """Refuses a size that is empty or takes too much memory; it is known before a pixel is decoded."""
    if min(size) < 1:
        raise InputError(f"{name} is {size_text(size)}, expected at least one pixel: take another picture")
    if size[0] * size[1] > MAX_PIXELS:
        advice = "make it smaller, or cut out the part to edit"
        raise InputError(f"{name} is {size_text(size)}, expected at most {MAX_PIXELS:,} pixels: {advice}")


def size_of(image: Image.Image) -> Size:
    """Height and width."""
    return image.height, image.width


def size_text(size: Size) -> str:
    """Height and width as a text that says which is which."""
    return f"{size[0]} high x {size[1]} wide"


def check_same_size(
    first: Image.Image, second: Image.Image, names: tuple[str, str] = ("image", "edited image")
) -> None:
    """Refuses two pictures of different size."""
    if first.size != second.size:
        raise InputError(
            f"{names[1]} is {size_text(size_of(second))}, expected the size of {names[0]}, "
            f"{size_text(size_of(first))}: resize one of the two"
        )


def check_finite_image(
    array: npt.NDArray[Any],  # any shape
    name: str = "decoded image",
) -> None:
    """Refuses NaN and infinite values, which would be saved as black."""
    wrong = array.size - int(np.count_nonzero(np.isfinite(array)))
    if wrong:
        raise InputError(
            f"{name}: {wrong} of {array.size} values are NaN or infinite, expected numbers: "
            "fp16 may have overflowed, take the dtype fp32 or bf16, or check the weights"
        )


def resize(image: Image.Image, height: int, width: int) -> Image.Image:
    """The picture at another size, by Lanczos; at its own size, a copy with the same pixels."""
    check_pixels("the size asked for", (height, width))
    return image.resize((width, height), Image.Resampling.LANCZOS)


def pad_to_multiple(image: Image.Image, multiple: int = 8) -> tuple[Image.Image, Size]:
    """The picture with its last column and row repeated until both sides are multiples, and its original size.

    >>> padded, size = pad_to_multiple(Image.new("RGB", (13, 8)))
    >>> padded.size, crop_back(padded, size).size
    ((16, 8), (13, 8))
    """
    size = size_of(image)
    bottom, right = (-side % multiple for side in size)
    if not (bottom or right):
        return image, size
    pixels = np.asarray(image)  # [H, W] or [H, W, C]
    edges = [(0, bottom), (0, right), (0, 0)][: pixels.ndim]
    return Image.fromarray(np.pad(pixels, edges, mode="edge")), size


def crop_back(image: Image.Image, size: Size) -> Image.Image:
    """The picture without the padding of `pad_to_multiple`."""
    return image.crop((0, 0, size[1], size[0]))

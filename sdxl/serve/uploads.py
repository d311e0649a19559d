"""Uploads: bytes that a client has sent become pictures and masks, by the rules of each protocol."""

from __future__ import annotations

import base64
import binascii
import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sdxl.errors import InputError
from sdxl.pictures.images import FORMATS, check_pixels, flatten, size_of, to_rgb
from sdxl.pictures.masks import Mask, mask_from_image

__all__ = ["POLARITIES", "decoded", "drawn_mask", "encoded", "mask_of", "opacity_mask", "picture_of", "raw_rgb"]

POLARITIES = ("transparent", "white")  # what a mask's pixels to paint look like
WRITTEN = {"png": "PNG", "jpeg": "JPEG", "jpg": "JPEG", "webp": "WEBP"}


def picture_of(content: bytes, field: str = "image") -> Image.Image:
    """The whole picture, upright, in the mode of its file. Its size is checked before a pixel is decoded."""
    if not content:
        raise InputError(f"{field}: is empty, expected a picture as PNG, JPEG or WebP", field)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        check_pixels(field, size_of(image))
        upright = ImageOps.exif_transpose(image)
        upright.load()
        upright.format = image.format
        return upright
    except InputError as error:
        raise InputError(str(error), field) from error
    except MemoryError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"{field}: is no picture that can be read, expected PNG, JPEG or WebP", field) from error
    except Exception as error:  # decoders raise errors of many kinds
        raise InputError(f"{field}: is damaged, expected a whole PNG, JPEG or WebP: send it again", field) from error


def decoded(text: str, field: str = "image") -> bytes:
    """The bytes of a base64 text, with or without `data:image/png;base64,` before it."""
    text = text.partition(",")[2] if text[:5] == "data:" else text
    try:
        return base64.b64decode("".join(text.split()), validate=True)  # some programs break the text into lines
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{field}: is no base64, expected a picture in base64", field) from error


def raw_rgb(image: Image.Image) -> Image.Image:
    """The picture's colours as they are also under transparent parts, where those say what to paint."""
    return to_rgb(image.convert("RGBA").convert("RGB")) if has_alpha(image) else to_rgb(image)


def has_alpha(image: Image.Image) -> bool:
    """Says whether the picture can have transparent parts."""
    return "A" in image.getbands() or "transparency" in image.info


def opacity_mask(image: Image.Image) -> Mask:  # [H, W]
    """The mask of a picture whose transparent parts are to be painted: 1 - opacity."""
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    return (255 - alpha).astype(np.float32) / np.float32(255)


def mask_of(image: Image.Image, polarity: str = "transparent", field: str = "mask") -> Mask:  # [H, W]
    """The mask that a client has sent: its transparent parts are painted, or its white ones."""
    if polarity not in POLARITIES:
        raise InputError(f"mask_polarity: got {polarity!r}, expected one of {', '.join(POLARITIES)}", "mask_polarity")
    if polarity == "white":
        try:
            return mask_from_image(image, field)
        except InputError as error:
            raise InputError(str(error), field) from error
    if not has_alpha(image):
        raise InputError(
            f"{field}: has no transparency, so nothing says what to paint: send a PNG whose transparent pixels are to "
            "be painted, or a black and white one with mask_polarity=white",
            field,
        )
    return opacity_mask(image)


def drawn_mask(image: Image.Image, field: str = "mask") -> Mask:  # [H, W], 0 or 1
    """The mask as other web UIs' clients draw it: opaque where it has transparent parts, else lighter than grey.

    >>> drawn_mask(Image.new("RGBA", (1, 1), (255, 204, 0, 0))), drawn_mask(Image.new("L", (1, 1), 200))
    (array([[0.]], dtype=float32), array([[1.]], dtype=float32))
    """
    if has_alpha(image):
        opacity = np.asarray(image.convert("RGBA").getchannel("A"))  # [H, W]
        if opacity.min() < 255:
            return (opacity > 127).astype(np.float32)
    lightness = np.asarray(flatten(image, "black", field)[0].convert("L"))  # [H, W]
    return (lightness > 127).astype(np.float32)


def encoded(image: Image.Image, output_format: str = "png", text: object = None) -> bytes:
    """The picture as a file's bytes; a PNG carries the text.

    A PNG is packed at the fastest level: it is about a fifth larger so, and ready in half the time.
    """
    buffer = io.BytesIO()
    options: dict[str, object] = {"quality": 95}
    if output_format == "png":
        options = {"compress_level": 1} | ({} if text is None else {"pnginfo": text})
    image.save(buffer, format=WRITTEN[output_format], **options)
    return buffer.getvalue()

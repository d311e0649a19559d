"""Uploads: what clients send becomes pictures and masks, or one sentence."""

from __future__ import annotations

import base64
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdxl.errors import InputError
from sdxl.serve.uploads import decoded, drawn_mask, encoded, mask_of, opacity_mask, picture_of, raw_rgb
from tests.serve.standing import a_mask, a_picture, clear_mask, white_mask


def png_header(width: int, height: int) -> bytes:
    """A PNG that says a size, and holds a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8000, 8000), (65_000, 65_000), (2**31 - 1, 2**31 - 1), (25_000_001, 1)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    tracemalloc.start()
    with pytest.raises(InputError, match="image"):
        picture_of(png_header(*size))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_whole_bomb_is_refused_too() -> None:
    buffer = io.BytesIO()
    Image.new("1", (8000, 8000)).save(buffer, format="PNG")
    with pytest.raises(InputError, match="at most 25,000,000 pixels"):
        picture_of(buffer.getvalue())


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_truncated_picture_is_one_sentence(kind: str) -> None:
    content = encoded(a_picture(), kind)
    for length in (0, 1, 10, 40, len(content) // 2, len(content) * 9 // 10):
        with pytest.raises(InputError, match="image: is ") as caught:
            picture_of(content[:length])
        assert caught.value.field == "image" and "\n" not in str(caught.value)


@given(st.integers(0, 1 << 16), st.integers(0, 255), st.sampled_from(["png", "jpeg", "webp"]))
def test_a_damaged_picture_is_read_or_refused(place: int, value: int, kind: str) -> None:
    content = bytearray(encoded(a_picture(size=(16, 24)), kind))
    content[place % len(content)] = value
    try:
        picture = picture_of(bytes(content))
        raw_rgb(picture), drawn_mask(picture), opacity_mask(picture)
    except InputError as error:
        assert str(error).startswith(("image", "mask"))


def test_other_formats_are_refused() -> None:
    for kind in ("GIF", "BMP", "TIFF", "PPM"):
        buffer = io.BytesIO()
        a_picture().save(buffer, format=kind)
        with pytest.raises(InputError, match="expected PNG, JPEG or WebP"):
            picture_of(buffer.getvalue())


def test_a_picture_is_turned_upright() -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[274] = 6
    a_picture().save(buffer, format="PNG", exif=exif)
    assert picture_of(buffer.getvalue()).size == (64, 96)


def test_base64_may_have_a_prefix_and_lines() -> None:
    content = encoded(a_picture())
    text = base64.b64encode(content).decode()
    lines = "\n".join(text[place : place + 76] for place in range(0, len(text), 76))
    for one in (text, f"data:image/png;base64,{text}", lines, f"data:image/png;base64,{lines}\n"):
        assert decoded(one) == content


@given(st.text(max_size=50))
def test_other_texts_are_bytes_or_refused(text: str) -> None:
    try:
        decoded(text)
    except InputError as error:
        assert str(error).startswith("image: is no base64")


def test_masks_of_each_polarity_are_the_same() -> None:
    mask = a_mask()
    strokes = Image.new("RGBA", a_picture().size, (0, 0, 0, 0))
    strokes.paste((255, 204, 0, 187), (24, 16, 60, 40))
    for found in (
        mask_of(clear_mask(mask)),
        mask_of(white_mask(mask), "white"),
        opacity_mask(clear_mask(mask, a_picture())),
        drawn_mask(white_mask(mask)),
        drawn_mask(white_mask(mask).convert("RGBA")),
        drawn_mask(strokes),
    ):
        assert found.dtype == np.float32 and np.array_equal(found, mask.astype(np.float32))


def test_colours_under_transparent_parts_are_kept() -> None:
    assert raw_rgb(clear_mask(a_mask(), a_picture())).tobytes() == a_picture().tobytes()


def test_a_mask_that_says_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="no transparency"):
        mask_of(white_mask(a_mask()))
    with pytest.raises(InputError, match="mask_polarity"):
        mask_of(white_mask(a_mask()), "black")

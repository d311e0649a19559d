"""Pictures: every kind is converted exactly or refused by name, and none is trusted."""

from __future__ import annotations

import doctest
import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from sdxl.errors import InputError
from sdxl.pictures import images
from sdxl.pictures.images import (
    MAX_PIXELS,
    check_finite_image,
    check_same_size,
    crop_back,
    load_image,
    pad_to_multiple,
    resize,
    to_rgb,
)
from sdxl.pictures.masks import load_mask
from sige.profiling import peak_bytes

Pixels = npt.NDArray[np.uint8]


def noise(*shape: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def png(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"", transparent: bytes = b"") -> bytes:
    """A PNG made by hand, for what Pillow does not write."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))]
    chunks += [(b"tRNS", transparent)] if transparent else []
    chunks += [(b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    out = b"\x89PNG\r\n\x1a\n"
    for name, body in chunks:
        out += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return out


def loaded(path: Path) -> Pixels:
    image = load_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def grey(values: Pixels) -> Pixels:
    return np.repeat(values[..., None], 3, axis=-1)


# ---- promise 4: what a file may be -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"), [("a.png", {}), ("a.webp", {"lossless": True}), ("a.jpg", {"quality": 100})]
)
def test_promise_4_png_webp_and_jpeg_are_read(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    pixels = np.full((9, 12, 3), (200, 100, 50), dtype=np.uint8)
    got = loaded(saved(tmp_path / name, Image.fromarray(pixels), **options))
    assert np.abs(got.astype(int) - pixels).max() <= (2 if name == "a.jpg" else 0)


def test_promise_4_the_format_is_that_of_the_content(tmp_path: Path) -> None:
    pixels = noise(9, 12, 3)
    assert np.array_equal(loaded(saved(tmp_path / "a.jpg", Image.fromarray(pixels), format="PNG")), pixels)


@pytest.mark.parametrize("suffix", ["gif", "bmp", "tiff", "ico", "ppm"])
def test_promise_4_other_formats_are_refused(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(noise(16, 16, 3)))
    with pytest.raises(InputError, match="expected PNG, JPEG, WEBP: save it as such"):
        load_image(path)


def test_promise_4_grey_and_one_bit(tmp_path: Path) -> None:
    values = noise(9, 12)
    assert np.array_equal(loaded(saved(tmp_path / "l.png", Image.fromarray(values))), grey(values))
    bits = Image.fromarray(values > 127)
    assert bits.mode == "1"
    assert np.array_equal(
        loaded(saved(tmp_path / "1.png", bits)), grey(np.where(values > 127, 255, 0).astype(np.uint8))
    )


def test_promise_4_palettes(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8), mode="P")
    image.putpalette([1, 2, 3, 40, 50, 60, 200, 201, 202])
    expected = [[[1, 2, 3], [40, 50, 60]], [[200, 201, 202], [40, 50, 60]]]
    assert loaded(saved(tmp_path / "p.png", image)).tolist() == expected
    expected[0][1] = expected[1][1] = [255, 255, 255]  # on white
    assert loaded(saved(tmp_path / "t.png", image, transparency=1)).tolist() == expected


def test_promise_4_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    got = loaded(saved(tmp_path / "16.png", Image.fromarray(values)))
    assert np.array_equal(got, grey(np.rint(values / 257).astype(np.uint8)))
    data = b"\0" + values[:1].astype(">u2").tobytes()
    (tmp_path / "key.png").write_bytes(png(256, 1, 16, 0, data, transparent=struct.pack(">H", 255)))
    assert loaded(tmp_path / "key.png")[0, 250:, 0].tolist() == [1, 1, 1, 1, 1, 255]


def test_promise_4_sixteen_bits_in_colour(tmp_path: Path) -> None:
    data = b"\0" + np.array([65535, 32768, 0], dtype=">u2").tobytes()
    (tmp_path / "rgb.png").write_bytes(png(1, 1, 16, 2, data))
    assert loaded(tmp_path / "rgb.png").tolist() == [[[255, 128, 0]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_promise_4_an_opaque_alpha_is_dropped(tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    pixels = noise(9, 12, 3) if mode == "RGBA" else grey(noise(9, 12))
    image = Image.fromarray(pixels).convert(mode)
    assert np.array_equal(loaded(saved(tmp_path / "a.png", image)), pixels)
    assert not caplog.records


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_promise_4_transparent_parts_are_white_and_said(
    tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = noise(9, 12, 3) if mode == "RGBA" else grey(noise(9, 12))
    image = Image.fromarray(pixels).convert(mode)
    alpha = np.full((9, 12), 255, dtype=np.uint8)
    alpha[0, :2] = 0, 128
    image.putalpha(Image.fromarray(alpha))
    got = loaded(saved(tmp_path / "a.png", image))
    assert got[0, 0].tolist() == [255] * 3
    assert np.abs(got[0, 1] - (pixels[0, 1] * 128.0 + 255 * 127) / 255).max() <= 1
    assert np.array_equal(got[alpha == 255], pixels[alpha == 255])
    assert "transparent parts: they are taken as white" in caplog.text


def test_promise_4_cmyk_is_refused_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.fromarray(noise(16, 16, 3)).convert("CMYK"))
    with pytest.raises(InputError, match="is a picture in CMYK, expected RGB or grey"):
        load_image(path)


def turned(orientation: int, stored: Pixels) -> Pixels:
    """The stored picture as a viewer shows it: EXIF's orientation says which edge is up."""
    as_stored: dict[int, Callable[[], Pixels]] = {
        1: lambda: stored,
        2: lambda: stored[:, ::-1],
        3: lambda: stored[::-1, ::-1],
        4: lambda: stored[::-1],
        5: lambda: stored.swapaxes(0, 1),
        6: lambda: np.rot90(stored, -1),
        7: lambda: stored[::-1, ::-1].swapaxes(0, 1),
        8: lambda: np.rot90(stored),
    }
    return as_stored[orientation]()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg"])
def test_promise_4_pictures_are_turned_upright(tmp_path: Path, name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    pixels = noise(9, 12, 3)
    path = saved(tmp_path / name, Image.fromarray(pixels), exif=exif, lossless=True, quality=100, subsampling=0)
    got, expected = loaded(path), turned(orientation, pixels)
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).max() <= (8 if name == "a.jpg" else 0)


def test_promise_4_only_the_profile_of_a_colour_picture_goes_along(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    image = Image.fromarray(noise(9, 12, 3))
    path = saved(tmp_path / "a.png", image, exif=exif, icc_profile=b"a profile", dpi=(72, 72))
    assert load_image(path).info == {"icc_profile": b"a profile"}
    path = saved(tmp_path / "l.png", image.convert("L"), icc_profile=b"a grey profile")
    assert load_image(path).info == {}


@pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 5), (5, 0)])
def test_promise_4_a_picture_without_pixels_is_refused(tmp_path: Path, width: int, height: int) -> None:
    (tmp_path / "a.png").write_bytes(png(width, height))
    with pytest.raises(InputError, match="a.png"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize("side", [3126, 8000, 20_000, 2**31 - 1])
def test_promise_4_the_pixel_limit_is_our_own(tmp_path: Path, side: int) -> None:
    assert Image.MAX_IMAGE_PIXELS is not None and MAX_PIXELS < Image.MAX_IMAGE_PIXELS
    (tmp_path / "a.png").write_bytes(png(side, 8000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # without this Pillow warns and continues
        with pytest.raises(InputError, match="expected at most 25,000,000"):
            load_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_promise_4_a_truncated_picture_is_refused(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(noise(64, 64, 3)))
    whole = path.read_bytes()
    for length in (0, 1, 10, len(whole) // 3, len(whole) // 2, len(whole) * 9 // 10):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="is damaged|no picture that can be read") as caught:
            load_image(path)
        assert str(path) in str(caught.value)


def test_promise_4_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture" * 100)
    (tmp_path / "code.png").write_bytes(b"%!PS-Adobe-3.0\n" * 20)
    for name, message in (
        ("missing.png", "No such file or directory"),
        ("text.png", "no picture that can be read"),
        ("code.png", "no picture that can be read"),
        (".", "Is a directory"),
        ("nul\0.png", "damaged"),
    ):
        with pytest.raises(InputError, match=message):
            load_image(tmp_path / name)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@given(data=st.data())
def test_promise_4_damaged_bytes_give_a_picture_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    out, exif = io.BytesIO(), Image.Exif()
    exif[274] = 6
    Image.fromarray(noise(8, 8, 3)).save(out, format=kind, exif=exif)
    content = bytearray(out.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, over odd metadata
            assert load_image(path).mode == "RGB"
    except InputError as error:
        assert "\n" not in str(error)


# ---- sizes -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([8, 64]), st.sampled_from([(), (3,)]))
def test_promise_4_any_size_is_padded_by_its_edge_and_cropped_back(
    height: int, width: int, multiple: int, channels: tuple[int, ...]
) -> None:
    pixels = noise(height, width, *channels)
    padded, size = pad_to_multiple(Image.fromarray(pixels), multiple)
    got = np.asarray(padded)
    assert size == (height, width)
    assert [side % multiple for side in got.shape[:2]] == [0, 0]
    assert got.shape[0] < height + multiple and got.shape[1] < width + multiple
    rows, columns = np.arange(got.shape[0]).clip(max=height - 1), np.arange(got.shape[1]).clip(max=width - 1)
    assert np.array_equal(got, pixels[rows][:, columns])
    assert np.array_equal(np.asarray(crop_back(padded, size)), pixels)


def test_resize_takes_height_then_width() -> None:
    image = Image.fromarray(noise(64, 32, 3))
    assert resize(image, 16, 24).size == (24, 16)
    assert np.array_equal(np.asarray(resize(image, 64, 32)), np.asarray(image))
    flat = np.asarray(resize(Image.new("RGB", (100, 50), (9, 99, 199)), 23, 77))
    assert (flat == (9, 99, 199)).all()


@pytest.mark.parametrize("size", [(0, 8), (8, -1), (8001, 8000)])
def test_resize_refuses_sizes_that_cannot_be(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="the size asked for is"):
        resize(Image.new("RGB", (8, 8)), *size)


def test_two_sizes_are_named() -> None:
    check_same_size(Image.new("RGB", (8, 4)), Image.new("L", (8, 4)))
    message = "edited image is 8 high x 4 wide, expected the size of image, 4 high x 8 wide: resize one of the two"
    with pytest.raises(InputError, match=message):
        check_same_size(Image.new("RGB", (8, 4)), Image.new("RGB", (4, 8)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_picture_that_is_no_number_is_refused(bad: float) -> None:
    array = np.zeros((3, 4, 4), dtype=np.float32)
    check_finite_image(array)
    array[1, 2, 3] = bad
    with pytest.raises(InputError, match="the result: 1 of 48 values are NaN or infinite, expected numbers: .*fp32"):
        check_finite_image(array, "the result")


@pytest.mark.parametrize("mode", ["CMYK", "HSV", "YCbCr", "F", "LAB"])
def test_pictures_of_other_kinds_are_refused_by_name(mode: str) -> None:
    with pytest.raises(InputError, match=f"photo is a picture in {mode}, expected RGB or grey"):
        to_rgb(Image.new(mode, (4, 4)), "photo")


def test_a_picture_in_whole_numbers_must_be_in_sixteen_bits() -> None:
    assert to_rgb(Image.new("I", (1, 1), 65535)).getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(InputError, match="values from 65536 to 65536, expected 0 to 65535"):
        to_rgb(Image.new("I", (1, 1), 65536))


def test_a_converted_picture_is_a_copy() -> None:
    image = Image.new("RGB", (4, 4))
    to_rgb(image).putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) == (0, 0, 0)


def test_the_examples_hold() -> None:
    found = doctest.testmod(images)
    assert found.attempted and not found.failed


def test_too_many_pixels_are_refused_before_one_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", Image.new("1", (5001, 5000)))
    monkeypatch.setattr(PngImageFile, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(InputError, match="is 5000 high x 5001 wide, .* make it smaller, or cut out the part to edit"):
        load_image(path)


def test_the_largest_picture_takes_less_than_500_mb(tmp_path: Path) -> None:
    """One of 8000x8000 once took a gigabyte; transparency costs most."""
    path = saved(tmp_path / "a.png", Image.new("RGBA", (5000, 5000), (9, 9, 9, 9)), compress_level=1)
    device = torch.device("cpu")
    idle = peak_bytes(lambda: None, device)
    assert peak_bytes(lambda: load_image(path), device) - idle < 500e6


@pytest.mark.parametrize("name", ["pipe.png", "pipe.npy"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="is no file"):
        (load_mask if name.endswith("npy") else load_image)(tmp_path / name)


def test_a_transparency_that_does_not_fit_its_palette_is_refused() -> None:
    """Found by `make fuzz`: Pillow reads such a picture and fails when it is converted."""
    image = Image.new("P", (2, 2))
    image.info["transparency"] = bytes(300)
    with pytest.raises(InputError, match="^a.png: its transparency does not fit its palette"):
        to_rgb(image, "a.png")

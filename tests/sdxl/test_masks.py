"""Masks: what each kind of file means, what a mask does to latents, and how a result is put together with it."""

from __future__ import annotations

import doctest
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from torch.nn.functional import interpolate

from sdxl.errors import InputError
from sdxl.pictures import masks
from sdxl.pictures.masks import (
    check_mask,
    composite,
    is_empty,
    is_full,
    latent_cells,
    load_mask,
    mask_from_array,
    mask_from_image,
    pad_mask,
)

SIDES = st.tuples(st.integers(1, 30), st.integers(1, 30))
SHARES = st.sampled_from([0.0, 0.0, 1.0, 1.0, 0.25, 0.5, 1 / 255, 254 / 255])
GREY = np.array([[0, 1, 128], [200, 254, 255]], dtype=np.uint8)


def soft_masks(shape: tuple[int, int]) -> st.SearchStrategy[npt.NDArray[np.float32]]:
    return arrays(np.float32, shape, elements=SHARES.map(np.float32), fill=st.just(np.float32(0)))


def stored(path: Path, array: npt.NDArray[Any]) -> Path:
    np.save(path, array)
    return path


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def is_mask(mask: npt.NDArray[Any], expected: npt.NDArray[Any]) -> bool:
    return mask.dtype == np.float32 and mask.shape == expected.shape and bool(np.allclose(mask, expected, atol=1e-6))


# ---- promise 4: arrays -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [bool, np.uint8, np.int8, np.int64, np.uint16, np.float16, np.float32, np.float64, ">f4"]
)
@pytest.mark.parametrize("shape", [(3, 4), (1, 3, 4)])
def test_promise_4_an_array_of_zeros_and_ones(tmp_path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    values = np.arange(12) % 2
    mask = load_mask(stored(tmp_path / "a.npy", values.reshape(shape).astype(dtype)))
    assert is_mask(mask, values.reshape(3, 4))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_promise_4_whole_numbers_to_255(tmp_path: Path, dtype: Any) -> None:
    assert is_mask(load_mask(stored(tmp_path / "a.npy", GREY.astype(dtype))), GREY / 255)


def test_promise_4_floats_are_taken_as_they_are(tmp_path: Path) -> None:
    assert is_mask(load_mask(stored(tmp_path / "a.npy", GREY / 255)), GREY / 255)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 2), np.nan), "from nan to nan, expected 0 to 1"),
        (np.array([[0.0, np.inf]]), "to inf, expected 0 to 1"),
        (np.array([[0.0, 255.0]]), "from 0.0 to 255.0, expected 0 to 1"),
        (np.array([[-0.1, 1.0]]), "from -0.1 to 1.0"),
        (np.array([[0, 256]]), "from 0 to 256, expected 0 to 255"),
        (np.array([[-1, 1]]), "from -1 to 1, expected 0 to 255"),
        (np.zeros((2, 2), dtype=complex), "holds complex128"),
        (np.full((2, 2), "white"), "holds <U5"),
        (np.zeros((2, 2, 3)), r"shape \[2, 2, 3\], expected \[height, width\]"),
        (np.zeros((1, 1, 2, 2)), r"shape \[1, 1, 2, 2\]"),
        (np.zeros(4), r"shape \[4\]"),
        (np.zeros((0, 4)), r"shape \[0, 4\]"),
        (np.array(1.0), r"shape \[\]"),
    ],
)
def test_promise_4_other_arrays_are_refused(tmp_path: Path, array: npt.NDArray[Any], message: str) -> None:
    path = stored(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=message) as caught:
        load_mask(path)
    assert str(path) in str(caught.value)


class _Bomb:
    """An object that fails the test when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("the pickle was read",)


def test_promise_4_pickles_are_never_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[_Bomb()]], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="holds Python objects, expected one array"):
        load_mask(tmp_path / "a.npy")


def test_promise_4_array_files_that_are_none(tmp_path: Path) -> None:
    whole = io.BytesIO()
    np.save(whole, np.zeros((8, 8)))
    several = io.BytesIO()
    np.savez(several, a=np.zeros(1), b=np.zeros(1))
    for content, message in (
        (b"", "damaged"),
        (b"junk" * 30, "damaged"),
        (whole.getvalue()[:-1], "damaged"),
        (whole.getvalue()[:40], "damaged"),
        (several.getvalue(), "several arrays"),
        (b"PK\x03\x04" + bytes(60), "damaged"),
    ):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_mask(tmp_path / "a.npy")
    for name, message in (("missing.npy", "No such file"), ("missing.png", "No such file")):
        with pytest.raises(InputError, match=message):
            load_mask(tmp_path / name)
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(InputError, match="Is a directory"):
        load_mask(tmp_path / "folder.npy")


@given(data=st.data())
def test_promise_4_damaged_arrays_give_a_mask_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    out = io.BytesIO()
    np.save(out, GREY)
    content = bytearray(out.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.npy"
    path.write_bytes(content)
    try:
        mask = load_mask(path)
        assert mask.ndim == 2 and mask.dtype == np.float32 and ((mask >= 0) & (mask <= 1)).all()
    except InputError as error:
        assert "\n" not in str(error)


def test_promise_4_an_array_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        file.truncate(10**12)  # a sparse file: takes no space
    with pytest.raises(InputError, match="1000000 MB, too large for a mask"):
        load_mask(path)


# ---- promise 4: pictures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_promise_4_white_is_repainted_and_grey_is_soft(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(GREY).convert(mode))
    assert is_mask(load_mask(path), GREY / 255)


def test_promise_4_one_and_sixteen_bits(tmp_path: Path) -> None:
    path = saved(tmp_path / "1.png", Image.fromarray(GREY > 127))
    assert is_mask(load_mask(path), (GREY > 127).astype(float))
    values = np.array([[0, 1, 32768, 65535]], dtype=np.uint16)
    path = saved(tmp_path / "16.png", Image.fromarray(values))
    assert is_mask(load_mask(path), values / 65535)
    assert load_mask(path)[0, 1] > 0  # 16 bits are not cut to 8


def test_promise_4_what_is_transparent_is_kept(tmp_path: Path) -> None:
    """White paint on a transparent layer, whatever colour the program left under the transparency."""
    pixels = np.full((1, 3, 4), 255, dtype=np.uint8)
    pixels[0, :, 3] = 0, 128, 255
    assert is_mask(load_mask(saved(tmp_path / "a.png", Image.fromarray(pixels))), np.array([[0, 128 / 255, 1]]))


def test_promise_4_a_photo_is_no_mask(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.new("RGB", (4, 4), (255, 0, 0)))
    with pytest.raises(InputError, match=r"coloured picture, expected white \(repaint\) on black"):
        load_mask(path)


@pytest.mark.parametrize(("suffix", "options"), [("jpg", {"quality": 75}), ("webp", {"quality": 80})])
def test_promise_4_traces_of_compression_are_not_masked(tmp_path: Path, suffix: str, options: dict[str, int]) -> None:
    disc = np.hypot(*np.mgrid[-48:48, -48:48]) < 30.5
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(disc), **options)
    with Image.open(path) as image:
        stored_values = np.asarray(image.convert("L"))
    assert 0 < stored_values[~disc].max() and stored_values[disc].min() < 255, "no trace to remove"
    mask = load_mask(path)
    assert (mask[~disc] == 0).mean() > 0.99
    assert (mask[disc] == 1).mean() > 0.99


def test_promise_4_a_mask_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = saved(tmp_path / "a.png", Image.fromarray(GREY), exif=exif)
    assert is_mask(load_mask(path), np.rot90(GREY, -1) / 255)


# ---- promise 5 -------------------------------------------------------------------------------------------------------


def test_promise_5_another_size_than_the_image_is_refused() -> None:
    mask = np.zeros((512, 1024), dtype=np.float32)
    check_mask(mask, (512, 1024))
    message = "mask is 512 high x 1024 wide, expected the size of the image, 1024 high x 512 wide: resize the mask"
    with pytest.raises(InputError, match=message):
        check_mask(mask, (1024, 512))
    with pytest.raises(InputError, match="resize the mask"):
        composite(Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8)), mask)


def test_promise_5_empty_and_full() -> None:
    mask = np.zeros((4, 4), dtype=np.float32)
    assert is_empty(mask) and not is_full(mask)
    mask[1, 2] = 1e-3
    assert not is_empty(mask) and not is_full(mask)
    mask[:] = 1
    assert is_full(mask) and not is_empty(mask)
    mask[0, 0] = 0.999
    assert not is_full(mask)


def test_promise_5_an_empty_mask_gives_the_original_a_full_one_the_result() -> None:
    original, result = (Image.effect_noise((31, 17), sigma).convert("RGB") for sigma in (20, 90))
    for value, expected in ((0, original), (1, result)):
        mask = np.full((17, 31), value, dtype=np.float32)
        assert np.array_equal(np.asarray(composite(original, result, mask)), np.asarray(expected))


@given(st.data())
def test_promise_5_outside_is_the_original_inside_the_result_between_a_blend(data: st.DataObject) -> None:
    height, width = data.draw(SIDES)
    mask = data.draw(soft_masks((height, width)))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    before, after = random.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    got = np.asarray(composite(Image.fromarray(before), Image.fromarray(after), mask))
    for i, j, c in np.ndindex(height, width, 3):
        old, new, share = int(before[i, j, c]), int(after[i, j, c]), float(mask[i, j])
        if share in (0, 1):
            assert got[i, j, c] == (new if share else old)
        else:
            assert abs(got[i, j, c] - (old + (new - old) * share)) <= 0.5 + 1e-4


def test_a_composite_is_a_new_picture_with_the_profile_of_the_original() -> None:
    original = Image.new("RGB", (4, 4))
    original.info["icc_profile"] = b"a profile"
    got = composite(original, Image.new("RGB", (4, 4), "white"), np.ones((4, 4), dtype=np.float32))
    assert got.info == {"icc_profile": b"a profile"}
    assert original.getpixel((0, 0)) == (0, 0, 0)


def test_a_result_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match="result is 8 high x 4 wide, expected the size of original"):
        composite(Image.new("RGB", (4, 4)), Image.new("RGB", (4, 8)), np.ones((4, 4), dtype=np.float32))


# ---- what the models see ---------------------------------------------------------------------------------------------


@given(SIDES.flatmap(soft_masks), st.sampled_from([1, 2, 8]))
def test_latent_cells_are_what_the_definition_says(mask: npt.NDArray[np.float32], cell: int) -> None:
    got = latent_cells(mask, cell)
    assert got.dtype == bool and got.shape == mask.shape
    for i in range(math.ceil(mask.shape[0] / cell)):
        for j in range(math.ceil(mask.shape[1] / cell)):
            block = (slice(i * cell, (i + 1) * cell), slice(j * cell, (j + 1) * cell))
            assert (got[block] == (mask[block] > 0).any()).all()


def test_a_thin_stroke_survives_the_sampling_of_the_pipelines() -> None:
    stroke = np.zeros((64, 64), dtype=np.float32)
    stroke[21, 3:61] = 1

    def sampled(mask: npt.NDArray[Any]) -> npt.NDArray[Any]:
        latent: torch.Tensor = interpolate(torch.tensor(mask, dtype=torch.float32)[None, None], size=(8, 8))
        return latent[0, 0].numpy()

    assert not sampled(stroke).any()  # without latent_cells the stroke is lost
    assert np.argwhere(sampled(latent_cells(stroke))).tolist() == [[2, j] for j in range(8)]


@given(SIDES.flatmap(soft_masks))
def test_a_padded_mask_fits_a_padded_image(mask: npt.NDArray[np.float32]) -> None:
    padded = pad_mask(mask)
    assert [side % 8 for side in padded.shape] == [0, 0]
    assert np.array_equal(padded[: mask.shape[0], : mask.shape[1]], mask)
    assert (padded[mask.shape[0] :, : mask.shape[1]] == mask[-1]).all()
    assert (padded[:, mask.shape[1] :] == padded[:, mask.shape[1] - 1 : mask.shape[1]]).all()


def test_masks_from_memory_are_those_from_files() -> None:
    assert is_mask(mask_from_array(GREY), GREY / 255)
    assert is_mask(mask_from_image(Image.fromarray(GREY)), GREY / 255)
    with pytest.raises(InputError, match="the mask is a picture in CMYK"):
        mask_from_image(Image.new("CMYK", (2, 2)), "the mask")


def test_the_examples_hold() -> None:
    found = doctest.testmod(masks)
    assert found.attempted and not found.failed


@pytest.mark.parametrize(("shape", "dtype"), [((10**6, 10**6), "<f4"), ((4, 4), "V100000000"), ((2**62, 4), "|u1")])
def test_an_array_that_says_more_than_it_has_is_refused_before_memory_is_taken(
    tmp_path: Path, shape: tuple[int, ...], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": dtype})
        file.write(bytes(64))
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("numpy was asked for the memory"))
    with pytest.raises(InputError, match="is damaged"):
        load_mask(path)

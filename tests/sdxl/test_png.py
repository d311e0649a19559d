"""A picture carries the settings that made it, and nothing read from a file is trusted."""

from __future__ import annotations

import doctest
import errno
import io
import json
import zlib
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdxl.errors import InputError
from sdxl.pictures import png
from sdxl.pictures.png import MAX_TEXT, check_png_output, read_settings, save_png
from sige.errors import OutputError

SETTINGS = {"prompt": "a horse", "negative_prompt": "blurry", "seed": 53, "scale": 7.5, "refined": True, "mask": None}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))


def with_text(path: Path, text: str, compressed: bool = False) -> Path:
    info = PngInfo()
    info.add_text("sige", text, zip=compressed)
    Image.new("RGB", (2, 2)).save(path, pnginfo=info)
    return path


@hypothesis.settings(max_examples=30)  # each is synced to the disk
@given(settings=st.dictionaries(st.text(), values, max_size=4))
def test_settings_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, settings: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "settings.png"
    save_png(picture(), path, settings)
    assert read_settings(path) == settings


@pytest.mark.parametrize(
    "prompt", ["ein Pferd 馬 🐎", "line\nbreak", "nul \0 inside", "broken \udcff flag", "é" * 5000]
)
def test_any_prompt_comes_back(tmp_path: Path, prompt: str) -> None:
    save_png(picture(), tmp_path / "a.png", {"prompt": prompt, "negative_prompt": prompt})
    assert read_settings(tmp_path / "a.png") == {"prompt": prompt, "negative_prompt": prompt}
    with Image.open(tmp_path / "a.png") as image:
        assert "\0" not in image.text["parameters"]  # type: ignore[attr-defined]  # which PNG forbids


def test_pixels_and_profile_come_back(tmp_path: Path) -> None:
    image = picture()
    image.info["icc_profile"] = b"a profile"
    save_png(image, tmp_path / "a.PNG", SETTINGS)
    with Image.open(tmp_path / "a.PNG") as again:
        assert np.array_equal(np.asarray(again), np.asarray(image))
        assert again.info["icc_profile"] == b"a profile"


def test_a_person_can_read_the_settings(tmp_path: Path) -> None:
    save_png(picture(), tmp_path / "a.png", SETTINGS | {"steps": 20})
    with Image.open(tmp_path / "a.png") as image:
        assert image.text["parameters"].splitlines() == [  # type: ignore[attr-defined]
            "a horse",
            "Negative prompt: blurry",
            "Steps: 20, Sampler: DDIM, CFG scale: 7.5, Seed: 53, Size: 7x5",
        ]


def test_a_picture_of_another_program_is_read(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("parameters", "a horse,\non grass\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, Seed: 5")
    picture().save(tmp_path / "a.png", pnginfo=info)
    expected = {"prompt": "a horse,\non grass", "negative_prompt": "blurry", "steps": 20, "seed": 5}
    assert read_settings(tmp_path / "a.png") == expected | {"scheduler": "euler-ancestral"}


def test_the_same_picture_and_settings_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_png(picture(), tmp_path / name, SETTINGS)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_paths_and_tuples_become_text_and_lists(tmp_path: Path) -> None:
    save_png(picture(), tmp_path / "a.png", {"init_img": Path("assets/0.png"), "size": (512, 1024)})
    assert read_settings(tmp_path / "a.png") == {"init_img": "assets/0.png", "size": [512, 1024]}


def test_promise_7_a_picture_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    save_png(picture(), path, SETTINGS)
    before = path.read_bytes()

    def full(self: Image.Image, target: Path, **options: Any) -> None:
        target.write_bytes(before[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match="disk is full"):
        save_png(picture(), path, SETTINGS | {"seed": 54})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"x": float("nan")}, "cannot be kept as JSON"),
        ({"x": np.float32(1)}, "got float32, expected text"),
        ({"x": "a" * MAX_TEXT}, "expected at most 1,000,000"),
    ],
)
def test_settings_that_would_not_come_back_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        save_png(picture(), tmp_path / "a.png", settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a", "a.png.txt"])
def test_only_png_is_written(tmp_path: Path, name: str) -> None:
    for refuse in (check_png_output, lambda path: save_png(picture(), path, {})):
        with pytest.raises(InputError, match=r"ends in \.png"):
            refuse(tmp_path / name)
    with pytest.raises(OutputError, match="does not exist"):
        check_png_output(tmp_path / "missing" / "a.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged"),
        ('{"scale": NaN}', "damaged"),
        ("[" * 200_000, "damaged"),
        ("1" * 5000, "damaged"),
        ("[1, 2]", "no JSON object"),
        (json.dumps("a" * MAX_TEXT), "1,000,002 characters"),
    ],
    ids=["cut", "nan", "deep", "huge number", "list", "long"],
)
def test_junk_in_place_of_settings_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_settings(with_text(tmp_path / "a.png", text))


def test_settings_that_unpack_to_gigabytes_are_not_unpacked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="damaged"):
        read_settings(with_text(tmp_path / "a.png", " " * 50_000_000, compressed=True))


def test_files_without_settings_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("plain.png", "photo.jpg"):
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    (tmp_path / "empty.png").touch()
    for name, message in (
        ("plain.png", "carries no settings, expected a PNG that this program or A1111's web UI wrote"),
        ("photo.jpg", "no picture that can be read, expected PNG: "),
        ("empty.png", "no picture that can be read, expected PNG: "),
        ("missing.png", "No such file"),
        (".", "Is a directory"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read_settings(tmp_path / name)
        assert str(tmp_path) in str(caught.value)


@given(st.data())
def test_a_damaged_file_gives_settings_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    save_png(picture(), path, SETTINGS)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(_with_good_sums(content) if data.draw(st.booleans()) else content)
    try:
        assert isinstance(read_settings(path), dict)
    except InputError as error:
        assert "\n" not in str(error)


def _with_good_sums(content: bytearray) -> bytes:
    """The same chunks with checksums that hold, so that damage reaches the parsers behind them."""
    out, file = io.BytesIO(), io.BytesIO(content)
    out.write(file.read(8))
    while len(head := file.read(8)) == 8:
        body = file.read(min(int.from_bytes(head[:4], "big"), len(content)))
        out.write(head + body + zlib.crc32(head[4:] + body).to_bytes(4, "big"))
        file.read(4)
    return out.getvalue()


def test_the_examples_hold(tmp_path: Path) -> None:
    found = doctest.testmod(png, extraglobs={"folder": tmp_path})
    assert found.attempted and not found.failed

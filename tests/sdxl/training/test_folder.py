"""A user's folder: the cuts of its pictures, the sizes that SDXL gets, and the errors for wrong lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdxl.errors import InputError
from sdxl.training.folder import METADATA, FolderPictures, read_metadata
from sdxl.training.pictures import as_pixels


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """A picture with another colour in every pixel, so that a cut shows its place."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def write(folder: Path, *lines: dict[str, object] | str) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / METADATA).write_text("\n".join(texts), encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of a training side of 64: one wide, one lying on its side by its EXIF."""
    picture(64, 100).save(tmp_path / "wide.png")
    lying = picture(64, 96)
    exif = lying.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    (tmp_path / "more").mkdir()
    lying.save(tmp_path / "more" / "lying.png", exif=exif)
    first = {"file_name": "wide.png", "text": "a wide one\u2028in two lines", "seen": 3}
    return write(tmp_path, json.dumps(first, ensure_ascii=False), "", {"file_name": "more/lying.png", "text": ""}, " ")


def test_captions_stand_beside_their_pictures(folder: Path) -> None:
    entries = read_metadata(folder)
    assert [entry.path for entry in entries] == [folder / "wide.png", folder / "more" / "lying.png"]
    assert [entry.caption for entry in entries] == ["a wide one\u2028in two lines", ""]
    pictures = FolderPictures(folder, 64, 64)
    assert len(pictures) == 2
    assert pictures.caption(0, np.random.default_rng(0)) == pictures.caption(0, np.random.default_rng(1))


def test_a_cut_is_where_its_sizes_say(folder: Path) -> None:
    pictures, whole = FolderPictures(folder, 64, 64), as_pixels(picture(64, 100))
    lefts = set()
    for seed in range(20):
        cut = pictures.picture(0, np.random.default_rng(seed))
        height, width, top, left, *target = cut.sizes
        assert (height, width, top, *target) == (64, 100, 0, 64, 64)
        assert torch.equal(cut.pixels, whole[:, :, left : left + 64])
        lefts.add(left)
    assert len(lefts) > 10 and min(lefts) < 10 and max(lefts) > 26
    again = (pictures.picture(0, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(*(cut.pixels for cut in again))


def test_every_other_cut_is_mirrored_where_it_may_be(folder: Path) -> None:
    pictures, whole = FolderPictures(folder, 64, 64, flip=True), as_pixels(picture(64, 100))
    mirrored = 0
    for seed in range(40):
        cut = pictures.picture(0, np.random.default_rng(seed))
        shown = whole.flip(2) if not torch.equal(cut.pixels, whole[:, :, cut.sizes[3] :][:, :, :64]) else whole
        assert torch.equal(cut.pixels, shown[:, :, cut.sizes[3] :][:, :, :64])
        mirrored += shown is not whole
    assert 10 < mirrored < 30


def test_a_picture_is_upright_and_scaled_until_it_just_covers_the_side(folder: Path) -> None:
    cut = FolderPictures(folder, 32, 32).picture(1, np.random.default_rng(0))  # 96 high, 64 wide when upright
    assert cut.sizes[:2] == (96, 64) and cut.sizes[4:] == (32, 32)
    assert cut.sizes[3] == 0 and cut.sizes[2] <= 16, "48 x 32 after scaling"
    assert cut.pixels.shape == (3, 32, 32)
    wide = FolderPictures(folder, 32, 64).picture(0, np.random.default_rng(0))
    assert wide.pixels.shape == (3, 32, 64) and wide.sizes[4:] == (32, 64)


GOOD = {"file_name": "wide.png", "text": "x"}
WRONG = {
    "no JSON": ("{'file_name': 'wide.png'}", "line 2: is no JSON"),
    "a list": ("[1]", "line 2: has no text under 'file_name'"),
    "no caption": ('{"file_name": "wide.png"}', "line 2: has no text under 'text'"),
    "a number for a caption": ('{"file_name": "wide.png", "text": 3}', "line 2: has no text under 'text'"),
    "no picture": ('{"file_name": "none.png", "text": "x"}', "line 2: .*none.png does not exist"),
    "above the folder": ('{"file_name": "../wide.png", "text": "x"}', "line 2: .* is outside the folder"),
    "elsewhere": ('{"file_name": "/etc/hostname", "text": "x"}', "line 2: .* is outside the folder"),
    "a zero byte": ('{"file_name": "wide\\u0000.png", "text": "x"}', "line 2: .*does not exist"),
    "half a character": ('{"file_name": "wide.png", "text": "a \\ud800"}', "line 2: is no JSON that can be read"),
    "half a character in a name": ('{"file_name": "\\udcff.png", "text": "x"}', "line 2: is no JSON that can be"),
    "a name of 5000 letters": ('{"file_name": "' + "a" * 5000 + '", "text": "x"}', "line 2: .*does not exist"),
    "the folder itself": ('{"file_name": "", "text": "x"}', "line 2: .*does not exist"),
    "a folder": ('{"file_name": "more", "text": "x"}', "line 2: .*does not exist"),
    "nested": ("[" * 90_000, "line 2: is no JSON"),
    "many digits": ('{"file_name": "wide.png", "text": ' + "9" * 5000 + "}", "line 2: is no JSON"),
    "a line without end": (
        '{"file_name": "wide.png", "text": "' + "a" * 200_000 + '"}',
        "line 2: is longer than 100,000",
    ),
    "text for a picture": ('{"file_name": "note.txt", "text": "x"}', "line 2: .*note.txt is no picture"),
    "small": (
        '{"file_name": "small.png", "text": "x"}',
        "line 2: .*small.png is 64 high x 40 wide, expected at least 64",
    ),
}


@pytest.mark.parametrize(("line", "why"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_line_is_said_with_its_number(folder: Path, line: str, why: str) -> None:
    (folder / "note.txt").write_text("no picture")
    picture(64, 40).save(folder / "small.png")
    with pytest.raises(InputError, match=f"{METADATA}, {why}"):
        FolderPictures(write(folder, GOOD, line), 64, 64)


def test_a_picture_that_breaks_behind_its_header_is_named_with_its_line(folder: Path) -> None:
    content = (folder / "wide.png").read_bytes()
    (folder / "wide.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="line 1: .*wide.png is damaged"):
        FolderPictures(folder, 64, 64).picture(0, np.random.default_rng(0))


def test_a_picture_that_is_too_small_when_upright_is_refused(tmp_path: Path, folder: Path) -> None:
    pictures = FolderPictures(folder, 64, 80)  # lying, 64 x 96 would do; upright it is 96 x 64
    with pytest.raises(InputError, match="line 3: .*lying.png is 96 high x 64 wide, expected at least 64 high x 80"):
        pictures.picture(1, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "does not exist: expected a line for each picture"), (b"\n\n", "names no pictures"), (b"\xff", "UTF-8")],
)
def test_a_folder_without_metadata_is_told_what_it_looks_like(tmp_path: Path, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / METADATA).write_bytes(content)
    with pytest.raises(InputError, match=why) as caught:
        read_metadata(tmp_path)
    assert content == b"\xff" or '{"file_name": "horse.jpg"' in str(caught.value)


def test_what_changes_the_pictures_changes_their_description(folder: Path) -> None:
    before = FolderPictures(folder, 64, 64).describe()
    assert FolderPictures(folder, 64, 64).describe() == before
    assert FolderPictures(folder, 64, 64, flip=True).describe() != before
    assert FolderPictures(folder, 32, 32).describe() != before
    picture(64, 100, seed=1).save(folder / "wide.png")
    assert FolderPictures(folder, 64, 64).describe() != before


def test_a_folder_for_metadata_is_refused(tmp_path: Path) -> None:
    (tmp_path / METADATA).mkdir()
    with pytest.raises(InputError, match="does not exist: expected a line for each picture"):
        read_metadata(tmp_path)


def test_captions_and_pictures_are_the_identity_and_times_are_not(folder: Path) -> None:
    before = FolderPictures(folder, 64, 64).identity()
    (folder / "wide.png").touch()
    assert FolderPictures(folder, 64, 64).identity() == before
    write(folder, {"file_name": "wide.png", "text": "another caption"})
    assert FolderPictures(folder, 64, 64).identity() != before

"""The demo, on random weights of the embedded model's shapes: pictures, figures, and what they are made of."""

from __future__ import annotations

import doctest
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sdxl.commands.examples
import sdxl.pictures.panels
from sdxl.commands import demo
from sdxl.commands.examples import inpainting, painted_over
from sdxl.pictures.panels import Panel, Row, sheet

FILES = {
    "demo.png",
    *(f"inpainting-{name}.png" for name in ("original", "mask", "dense", "sparse")),
    *(f"sdedit-{name}.png" for name in ("original", "edited", "dense", "sparse")),
    *(f"session-{name}.png" for name in ("original", "mask", "dense", "sparse")),
}


def pixels(path: Path) -> np.ndarray:  # [H, W, 3]
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def made(stand_in: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that a short demo has written, and the text that it has printed."""
    import contextlib
    import io

    folder, printed = tmp_path_factory.mktemp("out"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr("sdxl.checkpoint.embedded.embedded_folder", lambda: stand_in)
        words = ["--out", str(folder / "demo"), "--steps", "4", "--runs", "1", "--seed", "3"]
        words += ["--json", str(folder / "figures.json")]
        assert demo.main(words) == 0
    return folder / "demo", printed.getvalue()


def test_it_writes_one_picture_and_the_single_ones(made: tuple[Path, str]) -> None:
    folder, printed = made
    assert {path.name for path in folder.iterdir()} == FILES
    assert printed.splitlines()[-1] == f"wrote {folder / 'demo.png'}"
    assert all(pixels(folder / name).shape == (256, 256, 3) for name in FILES - {"demo.png"})


def test_the_figures_are_those_that_it_prints(made: tuple[Path, str]) -> None:
    folder, printed = made
    figures = json.loads((folder.parent / "figures.json").read_text())
    assert list(figures["edits"]) == ["inpainting", "sdedit", "session"] and figures["steps"] == 4
    line = next(line for line in printed.splitlines() if line.startswith("inpainting  sparse"))
    sparse, dense = (figures["edits"]["inpainting"][kind] for kind in ("sparse", "dense"))
    work = dense["macs"] / sparse["macs"]
    assert f"{sparse['seconds']:.2f}" in line and line.endswith(f"{work:.2f}")
    assert dense["passes"]["unet"]["dense"] == 4


def test_outside_the_mask_every_pixel_is_the_input_s(made: tuple[Path, str]) -> None:
    folder, _ = made
    mask = pixels(folder / "inpainting-mask.png")[..., 0] > 0
    before = pixels(folder / "inpainting-original.png")
    dense, sparse = (pixels(folder / f"inpainting-{name}.png") for name in ("dense", "sparse"))
    for after in (dense, sparse):
        assert np.array_equal(after[~mask], before[~mask])
        assert (after[mask] != before[mask]).any(axis=1).mean() > 0.5
    assert not np.array_equal(dense, sparse)


def test_it_says_how_much_was_computed(made: tuple[Path, str]) -> None:
    rows = [line.split() for line in made[1].splitlines()[1:-1]]
    assert [row[:2] for row in rows] == [
        [task, run] for task in ("inpainting", "sdedit", "session") for run in ("dense", "sparse")
    ]
    assert " ".join(rows[5][2:7]) == "2 half dense, 2 packed"
    for dense, sparse, taken in ((rows[0], rows[1], 4), (rows[2], rows[3], 3)):  # sdedit leaves some steps out
        assert dense[2:4] == [str(taken), "dense"]
        assert re.fullmatch(rf"2 dense, {taken - 2} packed", " ".join(sparse[2:6]))
        work, less = float(sparse[-3]), float(sparse[-1])
        assert float(dense[-3]) / 2 < work < float(dense[-3])  # two of the steps are dense
        assert less == pytest.approx(float(dense[-3]) / work, rel=0.1)
        assert dense[-2:] == ["1.00", "1.00"]


def test_the_picture_has_the_panels(made: tuple[Path, str]) -> None:
    """The panels stand in three rows of three, at one and a half times their size."""
    folder, _ = made
    page = pixels(folder / "demo.png")
    rows = [
        ["inpainting-original", "inpainting-dense", "inpainting-sparse"],
        ["sdedit-edited", "sdedit-dense", "sdedit-sparse"],
        ["session-original", "session-dense", "session-sparse"],
    ]
    assert page.shape[1] == 3 * 384 + 4 * 16
    top = 0
    for row in rows:
        found = []
        for number, name in enumerate(row):
            with Image.open(folder / f"{name}.png") as image:
                panel = np.asarray(image.resize((384, 384), Image.Resampling.LANCZOS)).astype(int)
            column = page[:, 16 + number * 400 : 16 + number * 400 + 384]
            tops = [y for y in range(top, len(page) - 383) if np.array_equal(column[y : y + 8], panel[:8])]
            assert tops, name
            found.append(tops[0])
            assert (column[tops[0] : tops[0] + 384] == panel).all(axis=2).mean() > 0.9  # but for the frame
        assert len(set(found)) == 1
        top = found[0] + 384
        assert (page[top : top + 60] < 128).any()  # words below


def test_without_the_model_it_says_what_to_do(
    no_embedded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(["--out", str(tmp_path / "out")]) == 2
    assert "base.safetensors does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "1"], "leaves none"),
        (["--runs", "0"], "--runs: got 0"),
        (["--seed", "x"], "--seed"),
        (["--device", "tpu"], "--device: got 'tpu'"),
    ],
)
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("error: ") and message in err


# ---- what it shows ---------------------------------------------------------------------------------------------------


def test_the_mask_covers_what_goes_and_what_comes() -> None:
    example = inpainting()
    assert "a blue house in" in example.prompt
    assert example.pictures.mask is not None and example.pictures.image is not None
    red = np.abs(np.asarray(example.pictures.image).astype(int) - (214, 40, 40)).max(axis=2) < 30
    assert red.sum() > 500 and (example.pictures.mask[red] == 1).all()
    assert 0.03 < example.pictures.mask.mean() < 0.25


def test_what_was_painted_over_is_gone() -> None:
    example = painted_over()
    assert "a purple house" in example.prompt
    before, after = (np.asarray(image).astype(int) for image in (example.pictures.image, example.pictures.edited))
    yellow = [int((np.abs(picture - (250, 214, 24)).max(axis=2) < 60).sum()) for picture in (before, after)]
    assert yellow[0] > 500 and yellow[1] < 20
    assert 0.02 < (before != after).any(axis=2).mean() < 0.2


def test_a_sheet_breaks_its_lines_and_frames_its_masks() -> None:
    mask = np.zeros((32, 32), dtype=bool)
    mask[8:24, 8:24] = True
    green = Image.new("RGB", (32, 32), (0, 160, 0))
    one = sheet([Row([Panel(green, "word")])], scale=2)
    many = sheet([Row([Panel(green, "word " * 12), Panel(green)], "title")], scale=2)
    assert one.width == 2 * 32 + 2 * 16 and many.width == 4 * 32 + 3 * 16
    assert many.height > one.height + 22
    framed = np.asarray(sheet([Row([Panel(green, "", mask)])], scale=2)).astype(int)
    assert tuple(framed[16 + 2, 16 + 2]) == tuple(framed[16 + 32, 16 + 32]) == (0, 160, 0)
    assert tuple(framed[16 + 32, 16 + 15]) == (0, 0, 0) and tuple(framed[16 + 32, 16 + 16]) == (255, 255, 255)


def test_examples() -> None:
    for module in (sdxl.commands.examples, sdxl.pictures.panels):
        found = doctest.testmod(module)
        assert found.attempted and not found.failed

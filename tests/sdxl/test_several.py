"""Several pictures from one call, and a run's figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdxl.commands.main import main
from sdxl.pictures.png import read_settings
from sdxl.pipelines import load

INPAINT = ["--prompt", "a horse", "--init_img", "before.png", "--mask_path", "mask.npy", "--ddim_steps", "4"]
SIGE = ["--run_type", "sige", "--dense_steps", "2"]
Pixels = Callable[[Path], bytes]


def made(folder: Path, *words: str) -> list[str]:
    """The names of the pictures that a command writes."""
    assert main([*INPAINT, *words, "--output_path", str(folder / "edit.png")]) == 0
    return sorted(path.name for path in folder.glob("*.png"))


@pytest.mark.parametrize("more", [[], SIGE], ids=["dense", "sparse"])
def test_each_picture_is_the_one_of_its_own_seed(
    more: list[str],
    project: Path,
    tmp_path: Path,
    pixels: Pixels,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loaded: list[Any] = []
    inner = load.load_weights
    monkeypatch.setattr(load, "load_weights", lambda *args, **kwargs: loaded.append(1) or inner(*args, **kwargs))
    assert made(tmp_path, "--seed", "7", "--n", "3", *more) == ["edit-1.png", "edit-2.png", "edit-3.png"]
    assert len(loaded) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [f"seed {seed}" in line for seed, line in zip((7, 8, 9), lines, strict=True)] == [True] * 3
    (tmp_path / "alone").mkdir()
    assert made(tmp_path / "alone", "--seed", "8", *more) == ["edit.png"]
    assert pixels(tmp_path / "edit-2.png") == pixels(tmp_path / "alone" / "edit.png")
    assert len({pixels(tmp_path / f"edit-{number}.png") for number in (1, 2, 3)}) == 3


def test_each_picture_repeats_itself(project: Path, tmp_path: Path, pixels: Pixels) -> None:
    made(tmp_path, "--seed", "7", "--n", "2")
    settings = read_settings(tmp_path / "edit-2.png")
    assert settings["seed"] == 8 and "n" not in settings
    again = tmp_path / "again.png"
    assert main(["--from_png", str(tmp_path / "edit-2.png"), "--output_path", str(again)]) == 0
    assert pixels(again) == pixels(tmp_path / "edit-2.png")


def test_an_empty_mask_gives_copies(project: Path, tmp_path: Path, pixels: Pixels) -> None:
    np.save(tmp_path / "empty.npy", np.zeros((64, 96), dtype=bool))
    assert made(tmp_path, "--mask_path", str(tmp_path / "empty.npy"), "--n", "2") == ["edit-1.png", "edit-2.png"]
    assert pixels(tmp_path / "edit-2.png") == pixels(project / "before.png")


def test_the_figures_of_a_run(project: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    made(tmp_path, "--seed", "7", "--n", "2", "--json", str(file), *SIGE)
    content = json.loads(file.read_text())
    assert (content["model"], content["run_type"], content["dtype"]) == ("sdxl", "sige", "fp32")
    first, second = content["pictures"]
    assert (first["seed"], second["seed"]) == (7, 8)
    assert second["output"] == str(tmp_path / "edit-2.png")
    assert (first["height"], first["width"], first["steps"]) == (64, 96, [4])
    assert first["passes"]["unet"] == {"dense": 2, "packed": 2, "half": 0, "skipped": 0, "outer": 0}
    assert 0.5 < first["computed"] < 1 and first["seconds"] > 0
    assert "json" not in read_settings(tmp_path / "edit-1.png")


def test_figures_that_cannot_be_written_are_refused_first(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*INPAINT, "--output_path", str(tmp_path / "edit.png"), "--json", str(tmp_path / "none" / "figures.json")]
    assert main(words) == 2
    assert "does not exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_painted_part_is_named(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, "--only_masked", "4", "--H", "64", "--W", "64", *SIGE)
    out = capsys.readouterr().out
    assert "64 high x 96 wide, the part painted at 64 high x 64 wide" in out
    settings = read_settings(tmp_path / "edit.png")
    assert (settings["only_masked"], settings["height"]) == (4, 64)

"""benchmarks.quality from end to end on tiny random weights: scores, counts, resuming, tables, pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.quality import bench as measure
from benchmarks.quality.__main__ import main

SIDE, STEPS = 64, 4
ALL_DENSE = "temporal-4 growing rising d0"
ROWS = ["temporal-2 growing none d1", "lockstep d1", "other seed", "crop and stitch", ALL_DENSE]
FLAGS = ["--weights", "tiny", "--edits", "2", "--side", str(SIDE), "--steps", str(STEPS), "--rows"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all rows."""
    folder = tmp_path_factory.mktemp("quality")
    run(folder, ROWS, "--plot", str(folder / "plot.png"), "--markdown", str(folder / "tables.md"))
    return folder


def run(folder: Path, rows: list[str], *more: str) -> None:
    files = ["--json", str(folder / "quality.json"), "--cache", str(folder / "cache")]
    main([*FLAGS, *rows, *files, *more])


def scores_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    content = json.loads((folder / "quality.json").read_text())
    return {row["row"]: row["scores"] for row in content["rows"]}


# ---- a run -----------------------------------------------------------------------------------------------------------


def test_all_steps_dense_is_the_dense_result_and_another_seed_is_not(out: Path) -> None:
    scores = scores_of(out)
    assert list(scores) == ROWS and all(len(row) == 2 for row in scores.values())
    for same, other in zip(scores[ALL_DENSE], scores["other seed"], strict=True):
        assert same["psnr"] >= 50 and same["ssim"] > 0.999 and same["band_psnr"] >= 50
        assert other["psnr"] < 30
    assert all(score["equal_outside"] for row in scores.values() for score in row)


def test_work_is_a_share_of_the_dense_edit(out: Path) -> None:
    scores = scores_of(out)
    for name in (ALL_DENSE, "other seed", "crop and stitch"):  # at this size the crop is the picture
        assert [score["work"] for score in scores[name]] == [1.0, 1.0]
    assert all(score["psnr"] >= 50 for score in scores["crop and stitch"])
    small, large = (score["work"] for score in scores[ROWS[0]])
    assert 0.5 < small <= large < 1
    assert all(score["work"] > 1 for score in scores["lockstep d1"])


def test_a_second_run_measures_what_is_missing(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("quality.json", "cache"):
        (tmp_path / name).symlink_to(out / name)
    before, painted = scores_of(out), []
    inner = measure.Bench.paint
    monkeypatch.setattr(measure.Bench, "paint", lambda *args: painted.append(args[1].name) or inner(*args))
    run(tmp_path, [*ROWS, "temporal-1 even none d0"])
    assert painted == ["temporal-1 even none d0"] * 2  # and no dense result again
    after = scores_of(tmp_path)
    assert {name: after[name] for name in ROWS} == before
    assert "temporal-1 even none d0" in capsys.readouterr().out


def test_other_settings_are_refused_beside_rows_that_are_there(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (out / "quality.json").read_text()
    with pytest.raises(SystemExit):
        run(out, ROWS, "--scale", "2")
    assert "rows of other settings (scale 4.0, now 2.0)" in capsys.readouterr().err
    assert (out / "quality.json").read_text() == before


def test_files_that_are_no_results_and_missing_weights_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "quality.json").write_text("[]")
    with pytest.raises(SystemExit):
        run(tmp_path, ROWS)
    assert "is no result of this benchmark" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--weights", "nowhere.safetensors", "--edits", "2"])
    assert "nowhere.safetensors does not exist" in capsys.readouterr().err


def test_plot_tables_and_pictures_show_the_rows(out: Path) -> None:
    text = (out / "tables.md").read_text()
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) == 2 * (2 + len(ROWS)) and all(f"| {name} |" in text for name in ROWS)
    assert len({line.count("|") for line in tables[: len(tables) // 2]}) == 1
    with Image.open(out / "plot.png") as plot:
        assert plot.width == 1800
    with pytest.raises(SystemExit):  # the default setting is not among the rows
        run(out, ["lockstep d1"], "--pictures", str(out))
    run(out, ["temporal-2 growing rising d0 balanced"], "--pictures", str(out))
    with Image.open(out / "temporal-2-growing-rising-d0-balanced.png") as sheet:
        assert sheet.width == 4 * SIDE + 5 * 16 and sheet.height > 3 * SIDE

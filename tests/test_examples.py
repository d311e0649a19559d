"""The scripts in examples/ run as they stand, are short, and leave what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).resolve().parent.parent / "examples"
MOST_LINES = 40
LEAVES = {"by_hand": (), "pipeline": ("dense.png", "sparse.png"), "sdedit": ("sdedit.png", "preview.png")}


@pytest.mark.parametrize("name", LEAVES)
def test_an_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(LEAVES[name])
    for picture in LEAVES[name]:
        assert np.asarray(Image.open(tmp_path / picture)).std() > 5  # not one flat colour
    said = capsys.readouterr().out
    if name == "by_hand":
        assert "outside the region: the recorded output True" in said
    elif name == "pipeline":
        assert "7 dense, 7 packed, 16 skipped" in said
        assert float(said.split("inside the mask: ")[1].split(" dB")[0]) > 25
    else:
        assert "6 dense, 6 packed, 12 skipped" in said and "step 24 of 24" in said


def test_examples_are_short_and_all_are_known() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(LEAVES)
    for path in FOLDER.glob("*.py"):
        assert len(path.read_text().splitlines()) <= MOST_LINES

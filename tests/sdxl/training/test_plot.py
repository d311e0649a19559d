"""The plot of the losses."""

from __future__ import annotations

import builtins
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdxl.training.plot import plot_losses, running_median


def table(folder: Path, losses: list[float]) -> Path:
    rows = [f"{step},{loss:.8g},0.001" for step, loss in enumerate(losses)]
    (folder / "loss.csv").write_text("\n".join(["step,loss,rate", *rows]) + "\n")
    return folder / "loss.csv"


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_losses_are_plotted(tmp_path: Path, count: int) -> None:
    plot_losses(table(tmp_path, list(np.linspace(1, 0.1, count))), tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as image:
        assert image.format == "PNG" and np.asarray(image.convert("L")).std() > 5


def test_no_losses_yet_are_no_plot(tmp_path: Path) -> None:
    plot_losses(table(tmp_path, []), tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()


def test_the_median_is_of_what_lies_around() -> None:
    losses = np.where(np.arange(4000) % 5 == 0, 100.0, np.linspace(1, 0.2, 4000))
    places, medians = running_median(losses)
    assert len(places) == 400 and places[0] == 0 and places[-1] == 3999
    assert np.abs(medians - np.linspace(1, 0.2, 4000)[places]).max() < 0.05, "a fifth of wild values does not move it"


def test_without_matplotlib_it_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load = builtins.__import__

    def without(name: str, *more: Any, **options: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return load(name, *more, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            plot_losses(table(tmp_path, [1.0]), tmp_path / "loss.png")
    assert len(caplog.records) == 1 and "pip install matplotlib" in caplog.text

"""The best, the median and the worst edit of a row: input, dense, sparse and their difference, in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.quality.bench import Bench
from benchmarks.quality.edits import Edit
from benchmarks.quality.results import Score
from benchmarks.quality.ways import Way
from sdxl.pictures.panels import Panel, Row, sheet
from sige.files import atomic_write

__all__ = ["amplified", "chosen", "save_pictures"]

AMPLIFIED = 4  # how much stronger differences are shown


def save_pictures(bench: Bench, way: Way, scores: Sequence[Score], folder: Path) -> Path:
    """Paints the three once more and writes one PNG into the folder."""
    by_number = {edit.number: edit for edit in bench.edits}
    rows = []
    for title, score in chosen(scores).items():
        edit = by_number[score.edit]
        dense, sparse = bench.dense(edit)[0], bench.paint(way, edit).image
        panels = [
            Panel(edit.image, "input, what is repainted", edit.mask),
            Panel(dense, "dense"),
            Panel(sparse, "sparse"),
            Panel(amplified(sparse, dense), f"difference, {AMPLIFIED} times"),
        ]
        rows.append(Row(panels, _title(title, score, edit)))
    path = folder / f"{way.name.replace(' ', '-')}.png"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        sheet(rows, scale=1.0).save(temporary, format="PNG")
    return path


def chosen(scores: Sequence[Score]) -> dict[str, Score]:
    """Best, median and worst by PSNR inside the mask."""
    ranked = sorted(scores, key=lambda score: score.psnr, reverse=True)
    return {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}


def amplified(picture: Image.Image, reference: Image.Image) -> Image.Image:
    """The difference of two pictures, made brighter.

    >>> amplified(Image.new("L", (1, 1), 10), Image.new("L", (1, 1), 13)).getpixel((0, 0))
    12
    """
    difference = np.abs(np.asarray(picture).astype(np.int16) - np.asarray(reference))
    return Image.fromarray((difference * AMPLIFIED).clip(0, 255).astype(np.uint8))


def _title(title: str, score: Score, edit: Edit) -> str:
    return f"{title}: {score.psnr:.1f} dB, SSIM {score.ssim:.3f}, {edit.share:.0%} {edit.shape}: {edit.prompt}"

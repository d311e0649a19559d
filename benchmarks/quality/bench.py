"""Makes the edits and scores them; dense results are made once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.quality.edits import Edit, digest
from benchmarks.quality.metrics import band, psnr, ssim_map
from benchmarks.quality.results import Score, Settings
from benchmarks.quality.ways import Dense, Way
from sdxl.edits.result import Result
from sdxl.edits.sampling import Sampling
from sdxl.errors import InputError
from sdxl.pictures.images import open_picture
from sdxl.pictures.png import read_settings, save_png
from sdxl.pipelines.load import make_pipeline

__all__ = ["MOST", "Bench", "settings_of"]

MOST = 99.0  # dB of equal pictures, so that medians and percentiles stay numbers


def settings_of(weights: Path, edits: Sequence[Edit], *, steps: int, scale: float, scheduler: str = "ddim") -> Settings:
    """The settings of a run, with digests of the weights and the edits."""
    if not weights.is_file():
        raise InputError(f"--weights: {weights} does not exist: name a checkpoint, or tiny for random weights")
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    side = edits[0].image.width
    return Settings(weights.name, found, len(edits), digest(edits), side, steps, scale, scheduler)


class Bench:
    """One pipeline and the edits; the pipeline is loaded when the first picture has to be painted."""

    def __init__(self, weights: Path, edits: Sequence[Edit], settings: Settings, cache: Path) -> None:
        self.weights, self.edits, self.settings = weights, edits, settings
        key = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode()).hexdigest()[:16]
        self._cache = cache / key

    @cached_property
    def pipe(self) -> Any:
        """The dense pipeline, its convolutions channels-last as packed passes read them."""
        import torch

        from sdxl.checkpoint.load import load

        parts = load(self.weights, dtype=torch.float32, progress=False)
        task = "inpainting" if self.edits[0].edited is None else "sdedit"
        pipe = make_pipeline(parts, task, self.settings.scheduler)
        pipe.set_progress_bar_config(disable=True)
        for model in (pipe.unet, pipe.vae):
            model.to(memory_format=torch.channels_last)
        return pipe

    def measure(self, way: Way) -> list[Score]:
        """The scores of every edit, made that way; missing dense results are made first."""
        missing = [edit for edit in self.edits if not self._kept(edit).is_file()]
        for edit in tqdm(missing, desc="dense", disable=not missing):
            self.dense(edit)
        return [self._score(way, edit) for edit in tqdm(self.edits, desc=way.name)]

    def paint(self, way: Way, edit: Edit) -> Result:
        """The result of the edit, made that way."""
        sampling = Sampling(edit.prompt, steps=self.settings.steps, scale=self.settings.scale, seed=edit.number)
        return way.paint(self.pipe, edit, sampling)

    def dense(self, edit: Edit) -> tuple[Image.Image, float]:
        """The dense result and its seconds, from the cache where it has been made before."""
        path = self._kept(edit)
        if path.is_file():
            return open_picture(path), float(read_settings(path)["seconds"])
        result = self.paint(Dense(), edit)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(result.image, path, {**asdict(self.settings), "prompt": edit.prompt, "seconds": result.seconds})
        return result.image, result.seconds

    def _kept(self, edit: Edit) -> Path:
        return self._cache / f"{edit.number:03d}.png"

    def _score(self, way: Way, edit: Edit) -> Score:
        reference, dense_seconds = self.dense(edit)
        result = self.paint(way, edit)
        return _compare(
            edit, np.asarray(result.image), np.asarray(reference), result.work, result.seconds, dense_seconds
        )


def _compare(
    edit: Edit,
    result: np.ndarray,  # uint8 [H, W, 3]
    reference: np.ndarray,  # uint8 [H, W, 3]
    work: float,
    seconds: float,
    dense_seconds: float,
) -> Score:
    outside, edge, similarity = ~edit.mask, band(edit.mask), ssim_map(result, reference)
    return Score(
        edit=edit.number,
        psnr=min(psnr(result, reference, edit.mask), MOST),
        ssim=float(similarity[edit.mask].mean()),
        band_psnr=min(psnr(result, reference, edge), MOST),
        band_ssim=float(similarity[edge].mean()),
        equal_outside=bool(np.array_equal(result[outside], np.asarray(edit.image)[outside])),
        work=work,
        seconds=seconds,
        dense_seconds=dense_seconds,
    )

"""A picture, a mask, a tiny pipeline: what the tests of edits share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sdxl.edits.sampling import Sampling
from sdxl.pipelines.load import load_pipeline

SIDE = 64


def load(folder: Path, task: str, refiner: bool = False, model: str = "sdxl") -> Any:
    """A pipeline of the random weights in the fixture `project_folder`."""
    where: dict[str, Any] = {"weight_path": folder / "pretrained", "config_path": folder / "configs", "device": "cpu"}
    options: dict[str, Any] = {"model": model, "run_type": "original", "dtype": torch.float32}
    pipe = load_pipeline(task=task, refiner=refiner, **options, **where)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sampling(**changes: Any) -> Sampling:
    return Sampling(**{"prompt": "a house", "steps": 5, "scale": 3.0, "seed": 7, **changes})


def picture(width: int = SIDE, height: int = SIDE) -> Image.Image:
    """Smooth colours with some noise."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:height, :width]
    base = np.stack([x * 255 / width, y * 255 / height, 128 + 60 * np.sin(x / 9)], axis=2)
    return Image.fromarray((base + rng.normal(0, 6, base.shape)).clip(0, 255).astype(np.uint8))


def drawn(width: int = SIDE, height: int = SIDE) -> Image.Image:
    """The picture with a patch painted over."""
    array = np.asarray(picture(width, height)).copy()
    array[20:36, 24:40] = (200, 30, 30)
    return Image.fromarray(array)


def rectangle(width: int = SIDE, height: int = SIDE) -> np.ndarray:  # [H, W]
    mask = np.zeros((height, width), dtype=np.float32)
    mask[17:40, 21:50] = 1
    return mask

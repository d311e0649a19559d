"""Painter: what a worker does with a row: reads its pictures, runs the edit, writes a PNG that says how it was made."""

from __future__ import annotations

import json
import logging
import os
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any

from sdxl.batch.perform import GoesOn
from sdxl.batch.row import Row
from sdxl.edits.asked import Defaults

__all__ = ["FIGURES", "Painter", "make_painter", "quieten"]

FIGURES = "sige-figures"  # a text of the PNG: seconds, steps, the share of the work
NAMES = {"image": "init_img", "mask": "mask_path", "edited": "edited_img"}  # column -> setting of run.py


@dataclass(frozen=True)
class Painter:
    """Makes rows with pipelines that are loaded once. `model` is the name that the pictures carry."""

    pipe_of: Callable[[str], Any]  # task -> pipeline
    defaults: Defaults
    model: str
    scheduler: str = "ddim"  # that they paint with

    def __call__(self, row: Row, target: Path, goes_on: GoesOn) -> dict[str, Any]:
        """Writes the row's picture, and returns its figures."""
        from sdxl.edits.png_text import settings_of
        from sdxl.edits.run import run
        from sdxl.pictures.png import png_text
        from sige.files import atomic_write

        request = row.request(self.defaults)
        result = run(self.pipe_of(request.task), request, on_step=lambda step: goes_on())
        figures = {
            "seconds": round(result.seconds, 3),
            "steps": sum(result.steps),
            "computed": round(result.computed, 4) if "unet" in result.passes else 0.0,
        }
        settings = settings_of(request, self.model, self.scheduler)
        settings |= {NAMES[name]: str(path.absolute()) for name, path in row.files.items()}
        text = png_text(result.image, settings, row.id)
        text.add_text(FIGURES, json.dumps(figures))
        with atomic_write(target) as temporary:
            result.image.save(temporary, format="PNG", pnginfo=text)
        return figures


def quieten() -> None:
    """Silences the notes of this process for good: one on each picture would break the bar. For workers only."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers")  # about its own code
    for name in ("sdxl.pictures", "sdxl.edits"):
        logging.getLogger(name).setLevel(logging.ERROR)


def make_painter(given: Namespace, tasks: Iterable[str], defaults: Defaults, workers: int, lane: int) -> Painter:
    """The painter of one worker. It loads what the tasks need now, so that wrong weights are no row's failure."""
    import torch
    from tqdm import tqdm

    from sdxl.commands.loader import loader, scheduler_of
    from sdxl.commands.model_flags import weight_fields
    from sdxl.commands.weights import choose_weights
    from sdxl.edits.pipes import Pipes

    tqdm.set_lock(RLock())  # its own is a semaphore of the system, which a killed worker would leave
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if devices and given.device in ("auto", "cuda"):
        given = Namespace(**{**vars(given), "device": f"cuda:{lane % devices}"})
    elif not devices and workers > 1:
        torch.set_num_threads(max(torch.get_num_threads() // workers, 1))
    pipes = Pipes(loader(partial(weight_fields, given)))
    for task in tasks:
        pipes.of(task)
    return Painter(pipes.of, defaults, given.model, scheduler_of(choose_weights(weight_fields(given, "inpainting"))))

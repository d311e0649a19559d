"""Edits on a damaged session: what its checks let through must not break the passes that read it."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdxl.checkpoint.load import load
from sdxl.edits.sampling import Sampling
from sdxl.pipelines.load import make_pipeline
from sdxl.sessions.session import Session
from tests.fuzz import formats
from tests.fuzz.mutate import Rng
from tests.fuzz.target import Target

__all__ = ["EDIT", "make_desk"]

SIDE = 64  # pixels
DESK, COPY = "desk", "desk-copy"


@cache
def _pipe() -> Any:
    """The tiny model of the corpus, in which the process works."""
    pipe = make_pipeline(load("tiny.safetensors", progress=False), "inpainting")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _edit(folder: Path, seed: int) -> None:
    mask = np.zeros((SIDE, SIDE), dtype=np.float32)
    mask[16:40, 24:48] = 1
    image = None if (folder / "session.json").exists() else Image.new("RGB", (SIDE, SIDE), "green")
    with Session(_pipe(), image, folder=folder, code="8 bit") as session:
        session.accept(session.edit(mask, Sampling("a horse", steps=3, scale=3.0, seed=seed)))


def make_desk(corpus: Path) -> None:
    """Writes a session with two accepted edits; the process works in the corpus."""
    for seed in (0, 1):
        _edit(corpus / DESK, seed)


def _make(corpus: Path, rng: Rng) -> bytes:
    files = sorted(path.relative_to(corpus) for path in (corpus / DESK).rglob("*.*"))
    chosen = rng.choice(files)
    return str(chosen).encode() + b"\n" + formats.session((corpus / chosen).read_bytes(), rng)


def _run(case: bytes) -> None:
    file, _, content = case.partition(b"\n")
    shutil.copytree(DESK, COPY)
    try:
        (Path(COPY) / Path(file.decode()).relative_to(DESK)).write_bytes(content)
        _edit(Path(COPY), 2)
    finally:
        shutil.rmtree(COPY)


EDIT = Target("edit", 2, _make, _run)

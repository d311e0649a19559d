"""Targets: what reads a user's words and files. Each makes a case as bytes, from its valid inputs, and runs one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from sdxl.batch.jobs import read_jobs
from sdxl.checkpoint.check import check
from sdxl.checkpoint.configs import PARTS, load_shapes
from sdxl.checkpoint.folder import open_folder, read_json
from sdxl.checkpoint.models import build_part, build_scheduler
from sdxl.checkpoint.sources import open_file
from sdxl.checkpoint.tokenizers import load_tokenizers
from sdxl.commands import inspect, main
from sdxl.commands.flags import parse
from sdxl.errors import InputError
from sdxl.pictures.images import load_image
from sdxl.pictures.masks import load_mask
from sdxl.pipelines.schedulers import SCHEDULERS, make_scheduler
from sdxl.sessions.folder import SessionFolder
from sdxl.training.ema import Average
from sdxl.training.folder import METADATA, FolderPictures
from sdxl.training.loop import _Log
from sdxl.training.plan import load_plan
from sdxl.training.state import check_state, load_state
from tests.fuzz import formats
from tests.fuzz.corpus import ABOUT, Net
from tests.fuzz.edits import EDIT
from tests.fuzz.lines import COMMANDS
from tests.fuzz.mutate import Rng, mutate_bytes
from tests.fuzz.target import Target

__all__ = ["TARGETS"]


def _file(
    name: str, weight: int, source: str, mutate: Callable[[bytes, Rng], bytes], read: Callable[[Path], object]
) -> Target:
    """A target that reads one file: `source` in the corpus, mutated, under a name with the same suffix."""

    def make(corpus: Path, rng: Rng) -> bytes:
        return mutate((corpus / source).read_bytes(), rng)

    def run(case: bytes) -> object:
        path = Path(f"case{Path(source).suffix}")
        path.write_bytes(case)
        try:
            return read(path)
        finally:
            path.unlink()

    return Target(name, weight, make, run)


def _read_jobs(path: Path) -> None:
    read_jobs(path)


def _inside(
    name: str, weight: int, source: str, mutate: Callable[[bytes, Rng], bytes], read: Callable[[Path], object]
) -> Target:
    """A target that reads a folder of which one file is mutated; that file is put right again."""

    def make(corpus: Path, rng: Rng) -> bytes:
        files = sorted(path.relative_to(corpus) for path in corpus.glob(source))
        chosen = rng.choice(files)
        return str(chosen).encode() + b"\n" + mutate((corpus / chosen).read_bytes(), rng)

    def run(case: bytes) -> object:
        file, _, content = case.partition(b"\n")
        path = Path(file.decode())
        before = path.read_bytes()
        path.write_bytes(content)
        try:
            return read(Path(path.parts[0]))
        finally:
            path.write_bytes(before)

    return Target(name, weight, make, run)


def _inspect(path: Path) -> object:
    inspect.main([str(path), "--json"])
    return inspect.main([str(path)])


def _open_checkpoint(path: Path) -> object:
    opened = open_file(path, None)
    return check(path, opened.sources, opened.kind)


def _repeat(path: Path) -> object:
    try:
        parse(["--from_png", str(path), "--trust_png"])
    except InputError:
        pass
    return main.main(["--from_png", str(path), "--output_path", "new.png"])


def _read_picture(path: Path) -> None:
    load_image(path)


def _read_mask(path: Path) -> None:
    load_mask(path)


def _read_pictures(folder: Path) -> None:
    pictures = FolderPictures(folder, 16, 16)
    pictures.describe(), pictures.identity()
    for number in range(min(len(pictures), 3)):
        pictures.picture(number, np.random.default_rng(0))


def _read_shapes(folder: Path) -> None:
    for kind in ("sdxl-base", "sdxl-refiner"):
        load_shapes(kind, folder, "tiny")
    load_shapes("sdxl-base", folder)


def _read_plan(path: Path) -> None:
    load_plan(path)


def _build(part: str, path: Path) -> None:
    build_part(part, read_json(path), path)


def _build_scheduler(path: Path) -> None:
    config = read_json(path)
    build_scheduler(config.get("_class_name"), config, path)
    for name in SCHEDULERS:
        make_scheduler(name, "sdxl-base", config)


def _open_folder(folder: Path) -> None:
    opened = open_folder(folder)
    check(folder, opened.sources, opened.kind)
    load_tokenizers(folder, tuple(opened.models))


def _load_state(path: Path) -> None:
    check_state(path, ABOUT)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    load_state(path, net, optimizer, Average(net, 0.9), ABOUT)
    net.layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()


def _read_session(folder: Path) -> None:
    session = SessionFolder(folder)
    session.pictures()
    book, store = session.open(torch.device("cpu"), None)
    if book is None:
        return
    for step in store.steps("unet")[:4]:
        for part in store.get("unet", step).components.values():
            for name in part.rows:
                part.rows[name].sum()


def _read_log(path: Path) -> None:
    _Log(path, 3).add(3, 0.5, 1e-3)


TARGETS: tuple[Target, ...] = (
    *COMMANDS,
    EDIT,
    _file("header", 20, "small.safetensors", formats.header, _inspect),
    _file("checkpoint", 1, "tiny.safetensors", formats.header, _open_checkpoint),
    _file("settings", 20, "made.png", formats.settings, _repeat),
    *(_file(f"picture-{name}", 5, name, formats.picture, _read_picture)
      for name in ("picture.png", "clear.png", "palette.png", "sixteen.png", "picture.jpg", "picture.webp")),
    _file("mask-png", 5, "mask.png", formats.picture, _read_mask),
    _file("mask-npy", 5, "mask.npy", mutate_bytes, _read_mask),
    _inside("metadata", 15, f"pictures/{METADATA}", formats.json_lines, _read_pictures),
    _inside("configs", 4, "configs/*.yaml", formats.yaml_file, _read_shapes),
    _file("jobs", 10, "jobs.csv", mutate_bytes, _read_jobs),
    _file("plan", 8, "plan.yaml", formats.yaml_file, _read_plan),
    *(_file(f"part-{part}", 1, f"folder/{part}/config.json", formats.json_file, partial(_build, part))
      for part in PARTS),
    _file("scheduler", 2, "folder/scheduler/scheduler_config.json", formats.json_file, _build_scheduler),
    _inside("folder", 1, "folder/**/*.json", formats.json_file, _open_folder),
    _file("state", 15, "state.pt", formats.state, _load_state),
    _file("log", 3, "plan.yaml", formats.losses, _read_log),
    _inside("session", 15, "session/**/*.*", formats.session, _read_session),
)  # fmt: skip

"""Kills commands at random moments: no file is lost, and the next start leaves nothing behind.

    python -m tests.kills [--kills 100] [--seed 0] [--job NAME]

Each job is made once to its end, which says how long it takes. Then it runs in a copy of the folder and is killed
(SIGKILL) somewhere on the way, what is there is checked, and the same command runs again to its end.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.figure  # noqa: F401  # here, so that no child has to
import numpy as np
import torch
from PIL import Image

from sdxl.checkpoint.header import read_header
from sdxl.checkpoint.load import load
from sdxl.checkpoint.tiny import write_tiny
from sdxl.commands import convert, export, main, tasks, train
from sdxl.pictures.images import load_image
from sdxl.pipelines import load as load_pipelines
from sdxl.sessions.folder import SessionFolder
from sdxl.training import stages
from sige.config_files import config_folder

__all__ = ["JOBS", "Job", "killed"]

IMPORTED = tasks, load_pipelines, stages  # before the first fork, so that a child begins at once
OLD = b"what was there before"
SIZE = 64  # pixels
PLAN = """
stage: diffusion
start: tiny.safetensors
out: out
data: {scenes: 4, side: 64}
loop: {steps: 3, batch: 1, save_every: 1}
learn: lora
lora: {rank: 2}
"""
RUN = (
    "--prompt", "a horse", "--init_img", "picture.png", "--mask_path", "mask.npy", "--output_path", "out.png", "--seed",
    "1", "--ddim_steps", "4", "--weight_path", "tiny.safetensors", "--config_path", "configs", "--run_type", "sige",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A command and what it writes. `old` is there before; each name of `new` is whole or as before after a kill."""

    name: str
    command: Callable[[Sequence[str]], int]
    words: tuple[str, ...]
    new: tuple[str, ...]
    whole: Callable[[Path], object]  # raises where a file of `new` is damaged
    old: tuple[str, ...] = ()


def _is_picture(path: Path) -> None:
    load_image(path)


def _is_state(path: Path) -> None:
    if path.suffix == ".pt":
        assert zipfile.ZipFile(path).testzip() is None
        assert torch.load(path, weights_only=True)["step"] > 0
    else:
        read_header(path)


def _is_session(path: Path) -> None:
    """The session can be opened, with all that its index names."""
    if (path / "session.json").exists():  # else it was killed before its first edit was accepted
        book, store = SessionFolder(path).open(torch.device("cpu"), None)
        assert book is not None
        for step in store.steps("unet"):
            store.get("unet", step)


def _is_folder(path: Path) -> None:
    load(path, progress=False)


JOBS = (  # the suite kills the first four, once each
    Job("convert", convert.main, ("tiny.safetensors", "out.safetensors", "--force"), ("out.safetensors",), read_header,
        old=("out.safetensors",)),
    Job("export to a folder", export.main, ("tiny.safetensors", "out"), ("out",), _is_folder),
    Job("run", main.main, RUN, ("out.png",), _is_picture, old=("out.png",)),
    Job("convert in place", convert.main, ("tiny.safetensors", "--in_place"), ("tiny.safetensors",), read_header),
    Job("export to a file", export.main, ("folder", "out.safetensors", "--force"), ("out.safetensors",), read_header,
        old=("out.safetensors",)),
    Job("run in a session", main.main, (*RUN, "--session", "session"), ("session",), _is_session),
    Job("train", train.main, ("--config", "plan.yaml"), ("out/state.pt", "out/latents.safetensors",
        "out/pytorch_lora_weights.safetensors"), _is_state),
)  # fmt: skip


def _make_folder(folder: Path) -> None:
    """Everything that the jobs read."""
    (path,) = write_tiny(folder, ["sdxl-base"]).values()
    path.rename(folder / "tiny.safetensors")
    shutil.copytree(config_folder(), folder / "configs")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(folder / "picture.png")
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[16:40, 24:48] = True
    np.save(folder / "mask.npy", mask)
    (folder / "plan.yaml").write_text(PLAN)
    assert _wait(_start(export.main, ("tiny.safetensors", "folder"), folder)) == 0


def _start(command: Callable[[Sequence[str]], int], words: Sequence[str], folder: Path) -> int:
    """Runs the command in a process of its own, which begins with everything imported; returns its number."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    try:
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        status = command(list(words))
        sys.stdout.flush()
        os._exit(status)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(job: Job, folder: Path, after: float) -> str:
    """Kills the job so many seconds after its start, runs it again, and returns what went wrong; empty: nothing."""
    for name in job.old:
        (folder / name).write_bytes(OLD)
    before = {name: (folder / name).read_bytes() for name in job.new if (folder / name).is_file()}
    child = _start(job.command, job.words, folder)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)  # a child that has ended waits to be asked for its status
    _wait(child)
    wrong = [
        f"{name} after the kill: {why}" for name in job.new if (why := _lost(job, folder / name, before.get(name)))
    ]
    status = _wait(_start(job.command, job.words, folder))
    done = job.name == "export to a folder" and status == 2 and (folder / "out").exists()  # it was done before the kill
    if status != 0 and not done:
        wrong.append(f"the next start ends with {status}: {(folder / 'log.txt').read_text()[-2000:]}")
    wrong += [f"{name} after the next start: {why}" for name in job.new if (why := _lost(job, folder / name, None))]
    wrong += [f"left: {path.relative_to(folder)}" for path in folder.rglob("*") if _is_left(path)]
    return "; ".join(wrong)


def _lost(job: Job, path: Path, before: bytes | None) -> str:
    """What is wrong with a file: it is neither as before nor a whole new one."""
    if not path.exists():
        return "it is gone" if before is not None else ""
    if before is not None and path.read_bytes() == before:
        return ""
    try:
        job.whole(path)
    except Exception as error:
        return f"it is damaged ({error})"
    return ""


def _is_left(path: Path) -> bool:
    """Says whether the file is an unfinished one, ours or a library's, or one that a session's index does not name."""
    if path.suffix in (".part", ".tmp") or path.name.startswith((".tmp", "tmp")):
        return True
    index = next((folder / "session.json" for folder in path.parents if (folder / "session.json").exists()), None)
    return index is not None and path.suffix in (".safetensors", ".png") and path.stem not in index.read_text()


def main_() -> int:
    options = _parse()
    rng, kills, failures = random.Random(options.seed), Counter[str](), []
    torch.set_num_threads(1)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="sige-kills-") as outer:
        ready = Path(outer) / "ready"
        _make_folder(ready)
        jobs = [job for job in JOBS if options.job in (None, job.name)]
        seconds = {job.name: _seconds(job, ready, Path(outer)) for job in jobs[: options.kills]}
        for number in range(options.kills):
            job = jobs[number % len(jobs)]
            folder = Path(outer) / f"kill-{number}"
            shutil.copytree(ready, folder)
            why = killed(job, folder, rng.random() * seconds[job.name])
            kills[job.name] += 1
            if why:
                failures.append(f"{job.name}, kill {number}: {why}")
            shutil.rmtree(folder)
    for name, count in kills.items():
        print(f"  {name:<20}{count:>4} kills in {seconds[name]:.1f} s of work")
    print(*failures, sep="\n", end="\n" if failures else "")
    print(f"kills: {kills.total()}, {len(failures)} failures, {time.perf_counter() - began:.0f} s, seed {options.seed}")
    return 1 if failures else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", choices=[job.name for job in JOBS])
    return parser.parse_args()


def _seconds(job: Job, ready: Path, outer: Path) -> float:
    """How long the job takes from its start to its end."""
    folder = outer / "timed"
    shutil.copytree(ready, folder)
    began = time.perf_counter()
    status = _wait(_start(job.command, job.words, folder))
    took = time.perf_counter() - began
    if status:
        raise SystemExit(f"{job.name} ends with {status}: {(folder / 'log.txt').read_text()[-2000:]}")
    shutil.rmtree(folder)
    return took


if __name__ == "__main__":
    sys.exit(main_())

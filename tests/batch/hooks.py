"""Work that stands in for the painter's, so that a row takes milliseconds. What happens to a row, its prompt says."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from PIL import Image

from sdxl.batch.perform import GoesOn, Work
from sdxl.batch.row import Row
from sdxl.errors import Cancelled, InputError
from sige.errors import OutputError
from sige.files import atomic_write

__all__ = ["make", "make_broken", "make_lethal", "made"]

STEPS = 8


def make(lane: int) -> Work:
    return work


def make_broken(lane: int) -> Work:
    raise InputError("the weights are damaged: copy them again")


def make_lethal(lane: int) -> Work:
    os.kill(os.getpid(), signal.SIGKILL)
    return work


def work(row: Row, target: Path, goes_on: GoesOn) -> dict[str, Any]:
    """Writes a small picture after some steps, and then a line into a log beside OUT."""
    prompt = row.asked.prompt
    if "kills" in prompt:
        os.kill(os.getpid(), signal.SIGKILL)
    if "crashes" in prompt:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "fails" in prompt:
        raise InputError("image: is damaged", "image")
    if "stumbles" in prompt:
        raise ZeroDivisionError("a fault")
    if "lost" in prompt:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if "memory" in prompt:
        raise MemoryError
    if "full" in prompt:
        raise OutputError(f"{target}: not written, the disk is full; free some space, or take another folder")
    for _ in range(2000 if "slow" in prompt else STEPS):
        time.sleep(0.01)
        if not goes_on():
            raise Cancelled("the batch stops")
    with atomic_write(target) as temporary:
        Image.new("RGB", (8, 8), (row.asked.seed or 0) % 256).save(temporary, format="PNG")
    log = os.open(target.parent.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, f"{row.id}\n".encode())
    os.close(log)
    return {"seconds": 0.08, "steps": STEPS, "computed": 0.25}


def made(out: Path) -> list[str]:
    """The rows in the order in which they were made."""
    log = out.with_suffix(".log")
    return log.read_text().split() if log.exists() else []

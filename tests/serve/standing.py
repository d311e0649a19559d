"""A server that stands on a real socket, in a thread, and one whose pictures cost nothing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import uvicorn
from PIL import Image, ImageOps

from sdxl.edits.asked import Defaults
from sdxl.edits.request import Request
from sdxl.edits.result import Result
from sdxl.errors import Cancelled
from sdxl.pictures.masks import composite
from sdxl.serve.app import make_app
from sdxl.serve.front.listening import connections
from sdxl.serve.server import Limits, Server
from sdxl.serve.work.jobs import Job
from sdxl.serve.work.studio import paint
from sige import Region

KEYS = ("first-key", "second-key")
SIZE = (64, 96)  # of the pictures


@dataclass(frozen=True)
class Standing:
    """A server that answers at an address."""

    server: Server
    port: int
    web: uvicorn.Server

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_until_free(self, seconds: float = 10.0) -> float:
        """Waits until no job waits or runs; returns the seconds."""
        began = time.monotonic()
        wait_for(lambda: not self.server.queue.running and not len(self.server.queue), seconds)
        return time.monotonic() - began


def wait_for(is_true: Callable[[], Any], seconds: float = 10.0) -> None:
    """Waits until something is true; fails after so many seconds."""
    until = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < until, f"not true after {seconds} s"
        time.sleep(0.005)


@contextmanager
def standing(server: Server, keys: tuple[str, ...] = ()) -> Iterator[Standing]:
    """The server on a free port, with the limits that `main` gives it."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    limits = server.limits
    protocol = connections(limits.most_connections, limits.header_seconds)
    config = uvicorn.Config(
        make_app(server, keys=keys), http=protocol, log_level="warning", timeout_graceful_shutdown=1
    )
    web = uvicorn.Server(config)
    thread = threading.Thread(target=web.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    wait_for(lambda: web.started)
    try:
        yield Standing(server, listening.getsockname()[1], web)
    finally:
        web.should_exit = True
        thread.join(30)
        listening.close()


class QuickStudio:
    """Paints every edit by turning the colours, without a model; a step takes so many seconds."""

    def __init__(self, step_seconds: float = 0.0) -> None:
        self.lane, self.step_seconds = 0, step_seconds

    def run(self, request: Request, job: Job) -> Result:
        image = request.image if request.edited is None else request.edited
        assert image is not None
        steps = request.sampling.steps
        for number in range(1, steps + 1):
            time.sleep(self.step_seconds)
            step: Any = SimpleNamespace(number=number, steps=steps, preview=image.copy)
            if job.on_step(step) is False:
                raise Cancelled(f"cancelled after step {number}")
        painted = ImageOps.invert(image.convert("RGB"))
        if request.alpha is not None:
            painted = composite(image, painted, request.alpha)
        counted: Any = None
        return Result(painted, Region.full(*SIZE), {}, (steps,), 0.0, counted)


def quick_server(step_seconds: float = 0.0, steps: int = 2, **limits: Any) -> Server:
    """A server whose worker has a `QuickStudio`; sessions edit without recordings."""
    server = Server(lambda: lambda task: None, model="quick", defaults=Defaults(steps=steps), limits=Limits(**limits))
    studio: Any = QuickStudio(step_seconds)
    for worker in server._workers:
        worker.studio = studio
    plain = server.session_work

    def session_work(*arguments: Any) -> Any:
        work = plain(*arguments)
        return replace(work, asked=replace(work.asked, dense=True))

    server.session_work = session_work  # type: ignore[method-assign]
    server.work = lambda request, session=None: paint(request)  # type: ignore[method-assign]
    return server


def a_picture(seed: int = 0, size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture of noise, in which every change shows."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def a_mask(box: tuple[int, int, int, int] = (24, 16, 60, 40), size: tuple[int, int] = SIZE) -> np.ndarray:  # [H, W]
    """True inside a box of left, top, right, bottom."""
    mask = np.zeros(size, dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def white_mask(mask: np.ndarray) -> Image.Image:
    """The mask as A1111's clients draw it: white is painted."""
    return Image.fromarray(mask.astype(np.uint8) * 255)


def clear_mask(mask: np.ndarray, image: Image.Image | None = None) -> Image.Image:
    """The mask as OpenAI's clients draw it: transparent is painted."""
    picture = (image or Image.new("RGB", (mask.shape[1], mask.shape[0]))).convert("RGBA")
    picture.putalpha(Image.fromarray((~mask).astype(np.uint8) * 255))
    return picture


def changed(before: Image.Image, after: Image.Image) -> np.ndarray:  # [H, W]
    """Which pixels differ."""
    return np.asarray((np.asarray(before.convert("RGB")) != np.asarray(after.convert("RGB"))).any(axis=2))

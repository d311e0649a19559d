"""A server and browsers for the tests of the editor; a page with hands and eyes."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from sdxl.commands.fields import Fields
from sdxl.commands.loader import loader
from sdxl.edits.asked import Defaults
from sdxl.pictures.images import to_rgb
from sdxl.scenes.draw import draw
from sdxl.scenes.numbered import HELD_OUT, scene_at
from sdxl.serve.app import make_app
from sdxl.serve.server import Limits, Server

SIDE = 256  # of the picture
MARGIN = 24  # of the screen around a picture that fits: view.js
STEPS = 2
SECONDS = 60_000  # milliseconds that an edit may take on a busy machine
BALL = ((0.4, 0.6), (0.6, 0.6), (0.6, 0.75), (0.4, 0.75))  # around the middle of the picture
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


def picture(number: int = 0) -> Image.Image:
    """A picture to edit."""
    return to_rgb(draw(scene_at(HELD_OUT + number), SIDE))


def png(image: Image.Image) -> bytes:
    """The picture's file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def pixels(content: bytes | Path) -> npt.NDArray[np.uint8]:
    """The pixels of a picture's file."""
    with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
        return np.asarray(image)


@contextmanager
def listening(*, keys: tuple[str, ...] = (), waiting: int = 3) -> Iterator[str]:
    """The address of a server of the embedded model, which loads with the first edit."""
    uvicorn = pytest.importorskip("uvicorn", reason="needs the serve packages: pip install 'sige[serve]'")

    def loading() -> Any:
        return loader(lambda task: Fields(task=task, model="embedded"))

    server = Server(loading, "embedded", defaults=Defaults(STEPS, 4.0), limits=Limits(most_waiting=waiting))
    with socket.create_server(("127.0.0.1", 0)) as open_socket:
        running = uvicorn.Server(uvicorn.Config(make_app(server, keys=keys), log_level="warning"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [open_socket]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{open_socket.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join(30)


class Desk:
    """A page with the editor on it, and the hand that uses it. Places are shares of the picture's width and height."""

    def __init__(self, page: Any, address: str, folder: Path) -> None:
        self.page, self.address, self.folder = page, address, folder
        self.hosts: set[str] = set()
        self.faults: list[str] = []
        page.on("request", lambda request: self.hosts.add(request.url.split("/")[2] if "//" in request.url else ""))
        page.on("pageerror", lambda error: self.faults.append(str(error)))

    def visit(self) -> None:
        """Opens the editor."""
        self.page.goto(self.address)
        self.page.wait_for_selector("#model:not(:empty)", state="attached")

    def open(self, image: Image.Image) -> None:
        """Opens a picture by the file dialog."""
        with self.page.expect_file_chooser() as chooser:
            self.page.click("#open")
        chooser.value.set_files({"name": "picture.png", "mimeType": "image/png", "buffer": png(image)})
        self.page.wait_for_selector("#welcome", state="hidden")
        self.page.wait_for_selector("#history .thumb", state="attached")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The point of the window where a place of the picture is, while all of it is shown."""
        box = self.page.locator("#canvas").bounding_box()
        side = min(box["width"], box["height"]) - 2 * MARGIN
        return box["x"] + box["width"] / 2 + (x - 0.5) * side, box["y"] + box["height"] / 2 + (y - 0.5) * side

    def stroke(self, *places: tuple[float, float], button: str = "left") -> None:
        """Draws with the mouse through places."""
        mouse = self.page.mouse
        mouse.move(*self.at(*places[0]))
        mouse.down(button=button)
        for place in places:
            mouse.move(*self.at(*place), steps=4)
        mouse.up(button=button)

    def download(self, button: str) -> Path:
        """The file that a button downloads."""
        with self.page.expect_download() as download:
            self.page.click(button)
        path = self.folder / f"{len(list(self.folder.iterdir()))}.png"
        download.value.save_as(path)
        return path

    def mask(self) -> npt.NDArray[np.uint8]:  # [H, W]
        """The mask, as the editor exports it; all black where there is nothing to export."""
        if self.page.is_disabled("#mask-export"):
            return np.zeros((SIDE, SIDE), np.uint8)
        return pixels(self.download("#mask-export"))[..., 0]

    def current(self) -> npt.NDArray[np.uint8]:  # [H, W, 3]
        """What is downloaded: the chosen result, or the session's picture."""
        return pixels(self.download("#download"))[..., :3]

    def edit(self, prompt: str = "a blue house") -> None:
        """Generates, and waits for one more result."""
        count = self.page.locator("#results .thumb").count()
        self.page.fill("#prompt", prompt)
        self.page.click("#generate")
        self.wait_for_results(count + 1)

    def wait_for_results(self, count: int) -> None:
        """Waits until as many results are staged, and nothing runs."""
        self.page.wait_for_selector(f"#results li:nth-child({count})", state="attached", timeout=SECONDS)
        self.page.wait_for_selector("#progress", state="hidden", timeout=SECONDS)

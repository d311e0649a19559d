"""`python tools/screenshots.py`: takes the pictures of the editor in docs/images, in a chromium of the system.

Needs `pip install '.[dev]'` and `apt-get install chromium`.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "images"
WINDOW: Any = {"width": 1280, "height": 960}
AROUND = ((0.33, 0.44), (0.67, 0.44), (0.7, 0.66), (0.66, 0.82), (0.34, 0.82), (0.3, 0.66))  # the example's red ball
SEED = "3"
WAIT = 120_000  # milliseconds


@contextmanager
def serving() -> Iterator[str]:
    """The address of a server of the embedded model."""
    command = [sys.executable, "-m", "sdxl.serve", "--model", "embedded", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield next(found[1] for line in server.stdout if (found := re.search(r"ready at (http://\S+)", line)))
        finally:
            server.send_signal(signal.SIGINT)


def edit(page: Any, prompt: str, number: int) -> None:
    """Asks for a picture, and waits until it is staged as that number."""
    page.fill("#prompt", prompt)
    page.click("#generate")
    page.wait_for_selector(f"#results li:nth-child({number})", state="attached", timeout=WAIT)
    page.wait_for_selector("#progress", state="hidden", timeout=WAIT)


def draw(page: Any) -> None:
    """Draws around the ball with the lasso."""
    page.click("#tools [data-tool=lasso]")
    box = page.locator("#canvas").bounding_box()
    side = min(box["width"], box["height"]) - 48  # the margin of a picture that fits
    places = [
        (box["x"] + box["width"] / 2 + (x - 0.5) * side, box["y"] + box["height"] / 2 + (y - 0.5) * side)
        for x, y in AROUND
    ]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places:
        page.mouse.move(*place, steps=4)
    page.mouse.up()


def main() -> None:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("there is no chromium: apt-get install chromium")
    with serving() as address, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_context(viewport=WINDOW, color_scheme="light").new_page()
        page.goto(address)
        page.click("#example")
        page.wait_for_selector("#history .thumb", state="attached")
        prompt = page.input_value("#prompt")
        page.fill("#seed", SEED)
        page.click("#lock")
        draw(page)
        for number, wish in enumerate((prompt, prompt.replace("blue house", "yellow tent")), 1):
            edit(page, wish, number)
        page.fill("#prompt", prompt)
        page.click("#results li:nth-child(1) button")
        page.click("#compare")
        page.screenshot(path=FOLDER / "editor.png")
        page.emulate_media(color_scheme="dark")
        page.click("#compare")
        page.click("#recomputed")
        page.screenshot(path=FOLDER / "editor-dark.png")
        browser.close()


if __name__ == "__main__":
    main()

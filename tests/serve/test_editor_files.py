"""What the server tells the editor, without a browser: files, levels, keys."""

from __future__ import annotations

import asyncio
import base64
import doctest
import io
import json
import webbrowser
from queue import Queue
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the serve packages: pip install 'sige[serve]'")

import sige
from sdxl.commands.examples import find_scene
from sdxl.scenes.draw import draw
from sdxl.serve import editor_files
from sdxl.serve.adapters import levels
from sdxl.serve.adapters.levels import STRIDES, levels_of
from sdxl.serve.app import make_app
from sdxl.serve.server import Server

KEY = "a-long-key"


@pytest.fixture
def app() -> Any:
    return make_app(Server(lambda: lambda task: None, "none"), keys=(KEY,))


def get(app: Any, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    sent: list[dict[str, Any]] = []

    asked = iter((True,))

    async def receive() -> dict[str, Any]:
        if not next(asked, False):
            await asyncio.sleep(60)  # the client stays
        return {"type": "http.request", "body": b""}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": given, "root_path": ""}
    asyncio.run(app(scope | {"scheme": "http", "server": ("here", 80)}, receive, send))
    told = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, b"".join(part.get("body", b"") for part in sent[1:])


def test_levels_are_those_of_the_region() -> None:
    mask = np.random.default_rng(0).random((104, 72)) > 0.97
    region = sige.Region.from_mask(mask)
    told = levels_of(region)
    assert [(level["height"], level["width"]) for level in told] == [(13, 9), (7, 5), (4, 3)]
    for level in told:
        size = level["height"], level["width"]
        packed = np.frombuffer(base64.b64decode(level["bits"]), np.uint8)
        assert np.array_equal(np.unpackbits(packed, count=size[0] * size[1]).reshape(size), region.active(*size))
        assert level["share"] == round(region.ratio(*size), 4)


def test_levels_stay_small() -> None:
    told = levels_of(sige.Region.full(1024, 1024))
    assert len(told) == len(STRIDES) and sum(len(level["bits"]) for level in told) < 4000


def test_only_the_editors_files_need_no_key(app: Any) -> None:
    for path in ("/", "/editor/main.js", "/editor/icons.svg"):
        status, headers, _ = get(app, path)
        assert status == 200 and "default-src 'self'" in headers["content-security-policy"]
    for path in ("/v1/defaults", "/v1/example", "/v1/models", "/metrics", "/editor"):
        assert get(app, path)[0] == 401, path
    for path in ("/editor/../app.py", "/editor//etc/passwd", "/editor/none.js"):
        assert get(app, path)[0] == 404, path


def test_the_editor_asks_for_the_key_itself(app: Any) -> None:
    """A browser that is told `Basic` opens a dialog of its own over the editor's."""
    assert get(app, "/v1/defaults")[1]["www-authenticate"].startswith("Basic")
    assert get(app, "/v1/defaults", x_requested_with="XMLHttpRequest")[1]["www-authenticate"].startswith("Bearer")
    assert get(app, "/v1/defaults", cookie=f"sige-key={KEY}")[0] == 200


def test_the_example_is_a_drawing_that_nobody_trained_on(app: Any) -> None:
    _, _, body = get(app, "/v1/example", cookie=f"sige-key={KEY}")
    told = json.loads(body)
    with Image.open(io.BytesIO(base64.b64decode(told["b64_json"]))) as image:
        shown = np.asarray(image)
    scene = find_scene(thing="ball", colour="red", place="middle", ground="grass", sky="blue", trees=True)
    assert np.array_equal(shown, np.asarray(draw(scene))) and "house" in told["prompt"]


def test_a_browser_opens_only_on_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: Queue[str] = Queue()
    monkeypatch.setattr(webbrowser, "open", opened.put)
    monkeypatch.setattr(editor_files.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    editor_files.open_browser("http://here")
    assert opened.empty()
    monkeypatch.setenv("DISPLAY", ":0")
    editor_files.open_browser("http://here")
    assert opened.get(timeout=10) == "http://here"


def test_examples() -> None:
    found = doctest.testmod(levels)
    assert found.attempted and not found.failed

"""The editor in the browser: its files, the values that it begins with, and an example to try.

GET /                     the page
GET /editor/NAME          its modules and styles
GET /v1/defaults          what holds where a client says nothing
GET /v1/example           a picture and a prompt for it
"""

from __future__ import annotations

import base64
import os
import sys
import webbrowser
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from sdxl.commands.examples import inpainting
from sdxl.edits.asked import MOST_PICTURES, Defaults
from sdxl.edits.sampling import STRENGTH
from sdxl.serve.uploads import encoded

__all__ = ["FOLDER", "HEADERS", "add_editor", "open_browser"]

FOLDER = Path(__file__).parent / "editor"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked for again each time, and sent again only where it has changed
}
JAVASCRIPT = "text/javascript; charset=utf-8"  # a system's own table may say something that browsers refuse


class _EditorFiles(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        if path.endswith(".js"):
            response.headers["Content-Type"] = JAVASCRIPT
        return response


def add_editor(app: FastAPI, model: str, defaults: Defaults) -> None:
    """Adds the editor's routes to the app."""

    @app.get("/")
    async def page() -> Response:
        return FileResponse(FOLDER / "index.html", headers=HEADERS)

    @app.get("/v1/defaults")
    async def values() -> dict[str, Any]:
        return {
            "model": model,
            "steps": defaults.steps,
            "guidance_scale": defaults.scale,
            "strength": {"mask": STRENGTH["inpainting"], "painted": STRENGTH["sdedit"]},
            "most_pictures": MOST_PICTURES,
        }

    @app.get("/v1/example")
    def example() -> dict[str, str]:
        return _example()

    app.mount("/editor", _EditorFiles(directory=FOLDER))


@cache
def _example() -> dict[str, str]:
    drawn = inpainting()
    assert drawn.pictures.image is not None
    return {"b64_json": base64.b64encode(encoded(drawn.pictures.image)).decode(), "prompt": drawn.prompt}


def open_browser(address: str) -> None:
    """Opens the address in the browser where there is a screen; a browser in the terminal would hide the log."""
    has_screen = sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    if has_screen:
        Thread(target=webbrowser.open, args=(address,), daemon=True).start()

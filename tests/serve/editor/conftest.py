"""A real browser, on a real server of the embedded model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.serve.editor.browser import Desk, listening, picture


@pytest.fixture(scope="package")
def address() -> Iterator[str]:
    with listening() as one:
        yield one


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'sige[browser-tests]'")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def begin(browser: Any, address: str, tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    """Opens the editor for another user, with a picture on it."""
    contexts: list[Any] = []
    desks: list[Desk] = []

    def one(at: str = address, image: Image.Image | None = None, welcome: bool = False, **options: Any) -> Desk:
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options}))
        folder = tmp_path / str(len(contexts))
        folder.mkdir()
        desks.append(Desk(contexts[-1].new_page(), at, folder))
        desks[-1].visit()
        if not welcome:
            desks[-1].open(image or picture())
        return desks[-1]

    yield one
    for context in contexts:
        context.close()
    assert [desk.faults for desk in desks if desk.faults] == []
    assert {host for desk in desks for host in desk.hosts if host} <= {desk.address.split("/")[2] for desk in desks}


@pytest.fixture
def desk(begin: Callable[..., Desk]) -> Desk:
    return begin()

"""Edits in the editor, from the stroke to the accepted picture; several users; what goes wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.serve.editor.browser import BALL, SECONDS, SIDE, Desk, listening, picture, png


def test_from_a_stroke_to_an_accepted_edit_everything_outside_the_mask_stays(desk: Desk) -> None:
    page = desk.page
    desk.stroke(*BALL)
    desk.edit()
    mask, made = desk.mask(), desk.current()
    given = np.array(picture())
    assert np.array_equal(made[mask == 0], given[mask == 0])
    assert not np.array_equal(made[mask == 255], given[mask == 255])
    assert re.search(r"[\d.]+ s · \d+ % of the dense work", page.locator("#summary").text_content() or "")
    page.click("#accept")
    page.wait_for_selector("#history li:nth-child(2) [aria-current=true]")
    assert page.locator("#results .thumb").count() == 0
    assert np.array_equal(desk.current(), made)
    assert np.array_equal(desk.mask(), mask), "the mask is gone"


def test_undo_of_strokes_and_undo_of_results_are_apart(desk: Desk) -> None:
    page = desk.page
    desk.stroke((0.4, 0.6), (0.6, 0.6))
    first = desk.mask()
    desk.stroke((0.4, 0.7), (0.6, 0.7))
    both = desk.mask()
    desk.edit()
    page.click("#accept")
    page.wait_for_selector("#history li:nth-child(2) [aria-current=true]")
    accepted = desk.current()
    page.keyboard.press("Control+z")
    assert np.array_equal(desk.mask(), first)
    assert np.array_equal(desk.current(), accepted), "the picture went back with the stroke"
    page.keyboard.press("Control+y")
    page.keyboard.press("u")
    page.wait_for_selector("#history li:nth-child(1) [aria-current=true]")
    assert np.array_equal(desk.current(), np.array(picture()))
    assert np.array_equal(desk.mask(), both), "the mask went back with the picture"
    page.click("#history li:nth-child(2) button")
    page.wait_for_selector("#history li:nth-child(2) [aria-current=true]")
    assert np.array_equal(desk.current(), accepted)


def test_variants_are_staged_compared_tried_again_and_discarded(desk: Desk) -> None:
    page = desk.page
    desk.stroke(*BALL)
    page.fill("#variants", "3")
    page.click("#lock")
    page.fill("#seed", "7")
    page.click("#generate")
    desk.wait_for_results(3)
    titles = [page.get_attribute(f"#results li:nth-child({n}) button", "title") for n in (1, 2, 3)]
    assert titles == ["Result 1, seed 7", "Result 2, seed 8", "Result 3, seed 9"]
    page.click("#compare")
    page.focus("#handle")
    before = int(page.get_attribute("#handle", "aria-valuenow"))
    page.keyboard.press("ArrowLeft")
    assert int(page.get_attribute("#handle", "aria-valuenow")) == before - 5
    page.click("#recomputed")
    assert page.locator("#levels button[aria-pressed=true]").count() == 1
    page.click("#discard")
    page.wait_for_selector("#results li:nth-child(3)", state="detached")
    page.click("#retry")
    page.wait_for_selector("#progress", state="visible")
    page.wait_for_selector("#progress", state="hidden", timeout=SECONDS)
    page.wait_for_selector("#results button[title='Result 2, seed 8']", state="detached")
    assert page.locator("#results .thumb").count() == 2


def test_an_edit_is_cancelled(desk: Desk) -> None:
    page = desk.page
    desk.stroke(*BALL)
    page.fill("#steps", "100")
    page.click("#generate")
    page.wait_for_selector("#progress-text:has-text('of 100')", timeout=SECONDS)
    page.keyboard.press("Escape")
    page.wait_for_selector("#progress", state="hidden")
    assert page.locator("#results .thumb").count() == 0 and page.locator(".toast").count() == 0
    page.fill("#steps", "2")
    desk.edit()  # the server is free again


def test_in_live_mode_the_newest_stroke_wins(desk: Desk) -> None:
    page = desk.page
    sent: list[Any] = []
    page.on("request", lambda request: sent.append(request) if request.url.endswith("/edits") else None)
    page.fill("#prompt", "a blue house")
    page.check("#live")
    desk.stroke((0.4, 0.6), (0.6, 0.6))
    page.wait_for_selector("#progress", state="visible")
    desk.stroke((0.4, 0.7), (0.6, 0.7))
    desk.stroke((0.4, 0.75), (0.6, 0.75))  # within 250 ms: one edit for both
    page.wait_for_timeout(600)
    desk.wait_for_results(1)
    page.wait_for_timeout(500)
    assert page.locator("#results .thumb").count() == 1 and len(sent) in (2, 3)
    changed = np.abs(desk.current().astype(int) - np.array(picture())).max(axis=2) > 0
    assert changed[int(0.75 * SIDE), int(0.45 * SIDE) : int(0.55 * SIDE)].any(), (
        "the newest stroke is not in the result"
    )


def test_colours_are_painted_over_and_made_real(desk: Desk) -> None:
    page = desk.page
    page.click("text=Paint >> nth=-1")
    page.fill("#colour", "#1030d0")
    desk.stroke(*BALL)
    page.wait_for_timeout(100)
    desk.edit("a blue ball")
    given, made = np.array(picture()), desk.current()
    assert np.array_equal(made[: SIDE // 4], given[: SIDE // 4]), "far from the stroke the picture has changed"
    assert not np.array_equal(made, given)
    page.click("#accept")
    page.wait_for_selector("#history li:nth-child(2) [aria-current=true]")
    assert page.is_disabled("#generate"), "the colours still lie over the picture"
    page.keyboard.press("Control+z")
    assert page.is_enabled("#generate")


def test_two_users_at_once_get_their_own_pictures(begin: Callable[..., Desk]) -> None:
    desks = [begin(image=picture(number)) for number in (1, 2)]
    for desk in desks:
        desk.stroke(*BALL)
        desk.page.fill("#prompt", "a blue house")
        desk.page.click("#generate")
    for number, desk in zip((1, 2), desks, strict=True):
        desk.wait_for_results(1)
        mask, made = desk.mask(), desk.current()
        assert np.array_equal(made[mask == 0], np.array(picture(number))[mask == 0])


@contextmanager
def busy(address: str, jobs: int) -> Iterator[None]:
    """Keeps the server at work for others."""
    white = png(Image.new("L", (SIDE, SIDE), 255))
    sessions = []
    with httpx.Client(base_url=address) as client:
        streams = []
        for _ in range(jobs):
            one = client.post("/v1/sessions", files={"image": png(picture())}).json()["id"]
            sessions.append(one)
            fields = {"steps": "200", "stream": "true", "mask_polarity": "white", "prompt": "a tent"}
            said = client.build_request("POST", f"/v1/sessions/{one}/edits", data=fields, files={"mask": white})
            streams.append(client.send(said, stream=True))
        try:
            yield
        finally:
            for stream in streams:
                stream.close()
            for one in sessions:
                client.delete(f"/v1/sessions/{one}")


def test_a_full_queue_says_when_to_try_again(desk: Desk, address: str) -> None:
    desk.stroke(*BALL)
    with busy(address, 4):
        desk.page.click("#generate")
        toast = desk.page.wait_for_selector(".toast.bad", timeout=SECONDS)
        assert re.search(r"wait already: try again in \d+ s", toast.inner_text())
        assert desk.page.is_hidden("#progress")
    desk.page.click(".toast .act")
    desk.wait_for_results(1)


def test_the_place_in_the_queue_is_shown(desk: Desk, address: str) -> None:
    desk.stroke(*BALL)
    with busy(address, 2):
        desk.page.click("#generate")
        desk.page.wait_for_selector("#progress-text:has-text('1 before you')", timeout=SECONDS)
        desk.page.click("#cancel")
        desk.page.wait_for_selector("#progress", state="hidden")


def test_a_server_with_a_key_asks_for_it_once(begin: Callable[..., Desk], browser: Any, tmp_path: Path) -> None:
    with listening(keys=('open; "se,same"',)) as address:
        page = browser.new_context().new_page()
        page.goto(address)
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", "a wrong key")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-why:has-text('refused')")
        page.fill("#key", 'open; "se,same"')
        page.keyboard.press("Enter")
        page.wait_for_selector("#model:not(:empty)")
        page.reload()
        page.wait_for_selector("#model:not(:empty)")
        assert page.is_hidden("#key-dialog")
        page.context.close()


def test_a_session_that_has_ended_says_what_to_do(desk: Desk, address: str) -> None:
    one = desk.page.evaluate("() => sessionStorage.getItem('sige-session')")
    httpx.delete(f"{address}/v1/sessions/{one}")
    desk.stroke(*BALL)
    desk.page.click("#generate")
    desk.page.wait_for_selector(".toast.bad .act:has-text('Open a picture')")

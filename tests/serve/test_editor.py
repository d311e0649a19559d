"""The editor in a real browser, on a real server of the embedded model."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serve.browser import SECONDS, SIDE, Desk, listening, picture, pixels, png

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'sige[browser-tests]'")
httpx = pytest.importorskip("httpx", reason="needs httpx: pip install httpx")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")

EDITOR = Path(__file__).resolve().parents[2] / "sdxl/serve/editor"
BALL = ((0.4, 0.6), (0.6, 0.6), (0.6, 0.75), (0.4, 0.75))  # around the middle of the picture
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with listening() as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
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


def inside(mask: Any, x: float, y: float) -> int:
    """The mask's value at a place."""
    return int(mask[int(y * SIDE), int(x * SIDE)])


# ---- strokes ---------------------------------------------------------------------------------------------------------


def test_the_left_button_paints_and_the_right_one_erases(desk: Desk) -> None:
    desk.stroke((0.3, 0.5), (0.7, 0.5))
    painted = desk.mask()
    assert inside(painted, 0.5, 0.5) == 255 and inside(painted, 0.5, 0.8) == 0
    desk.stroke((0.5, 0.3), (0.5, 0.7), button="right")
    erased = desk.mask()
    assert inside(erased, 0.5, 0.5) == 0 and inside(erased, 0.3, 0.5) == 255


def test_a_rectangle_has_hard_edges_and_a_lasso_is_filled(desk: Desk) -> None:
    desk.page.click("[data-tool=rectangle]")
    desk.stroke((0.25, 0.25), (0.5, 0.5))
    drawn = desk.mask()
    expected = np.zeros((SIDE, SIDE), np.uint8)
    expected[64:128, 64:128] = 255
    assert abs(int((drawn == 255).sum()) - 64 * 64) <= 2 * 64 and set(np.unique(drawn)) == {0, 255}
    assert (drawn[66:126, 66:126] == 255).all() and (drawn[expected == 0] == 255).sum() <= 130
    desk.page.click("[data-tool=lasso]")
    desk.stroke((0.7, 0.6), (0.9, 0.6), (0.8, 0.9))
    drawn = desk.mask()
    assert inside(drawn, 0.8, 0.7) == 255 and inside(drawn, 0.72, 0.85) == 0


def test_one_finger_paints_and_two_zoom(begin: Callable[..., Desk]) -> None:
    desk = begin(**PHONE)
    touch = desk.page.context.new_cdp_session(desk.page)

    def fingers(kind: str, *points: tuple[float, float]) -> None:
        said = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": said})

    fingers("touchStart", desk.at(0.3, 0.5))
    for x in (0.4, 0.5, 0.6):
        fingers("touchMove", desk.at(x, 0.5))
    fingers("touchEnd")
    painted = desk.mask()
    assert inside(painted, 0.45, 0.5) == 255
    before = desk.page.inner_text("#zoom", timeout=1000) or desk.page.locator("#zoom").text_content()
    fingers("touchStart", desk.at(0.4, 0.3))
    fingers("touchStart", desk.at(0.4, 0.3), desk.at(0.6, 0.3))
    for spread in (0.05, 0.1, 0.2):
        fingers("touchMove", desk.at(0.4 - spread, 0.3), desk.at(0.6 + spread, 0.3))
    fingers("touchEnd")
    assert percent(desk.page.locator("#zoom").text_content()) > 1.5 * percent(before)
    assert np.array_equal(desk.mask(), painted), "the pinch has painted"


def percent(text: str | None) -> float:
    """The number of a text as `120 %`."""
    return float((text or "").split()[0])


def test_keys_choose_tools_and_sizes_and_undo(desk: Desk) -> None:
    page = desk.page
    for key, tool in zip("erlhb", ("eraser", "rectangle", "lasso", "hand", "brush"), strict=True):
        page.keyboard.press(key)
        assert page.get_attribute(f"[data-tool={tool}]", "aria-pressed") == "true"
    size = int(page.input_value("#size"))
    page.keyboard.press("]")
    assert int(page.input_value("#size")) > size
    page.keyboard.press("[")
    page.keyboard.press("[")
    assert int(page.input_value("#size")) < size
    desk.stroke((0.5, 0.5))
    assert desk.mask().any()
    page.keyboard.press("Control+z")
    assert not desk.mask().any()
    page.keyboard.press("Control+Shift+z")
    assert desk.mask().any()
    page.keyboard.press("Delete")
    assert not desk.mask().any()
    page.keyboard.press("i")
    assert (desk.mask() == 255).all()
    page.keyboard.press("?")
    assert page.is_visible("#keys") and page.locator("#keys kbd").count() > 20


def test_the_keyboard_alone_can_paint(desk: Desk) -> None:
    desk.page.focus("#canvas")
    for key in ("Enter", *["ArrowRight"] * 10, "Enter"):
        desk.page.keyboard.press(key)
    painted = desk.mask()
    assert inside(painted, 0.5, 0.5) == 255 and inside(painted, 0.6, 0.5) == 255 and inside(painted, 0.3, 0.5) == 0


def test_wheel_and_space_move_the_view_and_paint_nothing(desk: Desk) -> None:
    page, zoom = desk.page, desk.page.locator("#zoom")
    fitted = zoom.text_content()
    page.mouse.move(*desk.at(0.5, 0.5))
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(100)
    assert percent(zoom.text_content()) > percent(fitted)
    size = int(page.input_value("#size"))
    page.keyboard.down("Alt")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Alt")
    page.wait_for_timeout(100)
    assert int(page.input_value("#size")) > size
    page.keyboard.down(" ")
    desk.stroke((0.5, 0.5), (0.6, 0.6))
    page.keyboard.up(" ")
    assert not desk.mask().any()
    page.keyboard.press("f")
    assert zoom.text_content() == fitted


def test_a_mask_is_grown_inverted_imported_and_taken_from_a_difference(desk: Desk) -> None:
    page = desk.page
    page.click("[data-tool=rectangle]")
    desk.stroke((0.25, 0.25), (0.5, 0.5))
    before = desk.mask()
    page.fill("#grow-by", "5")
    page.click("#grow")
    rows, columns = np.nonzero(before)
    expected = np.zeros_like(before)
    expected[rows.min() - 5 : rows.max() + 6, columns.min() - 5 : columns.max() + 6] = 255
    assert np.array_equal(desk.mask(), expected)
    page.click("#invert")
    assert np.array_equal(desk.mask(), 255 - expected)
    given = np.zeros((SIDE, SIDE), np.uint8)
    given[10:50, 20:90] = 255
    with page.expect_file_chooser() as chooser:
        page.click("#mask-import")
    chooser.value.set_files({"name": "m.png", "mimeType": "image/png", "buffer": png(Image.fromarray(given))})
    page.wait_for_timeout(300)
    assert np.array_equal(desk.mask(), given)
    other = np.array(picture())
    other[100:140, 30:60] = 255 - other[100:140, 30:60]
    with page.expect_file_chooser() as chooser:
        page.click("#mask-difference")
    chooser.value.set_files({"name": "o.png", "mimeType": "image/png", "buffer": png(Image.fromarray(other))})
    page.wait_for_timeout(300)
    differs = np.abs(other.astype(int) - np.array(picture())).max(axis=2) > 8
    assert np.array_equal(desk.mask() == 255, differs)
    with page.expect_file_chooser() as chooser:
        page.click("#mask-import")
    chooser.value.set_files({"name": "s.png", "mimeType": "image/png", "buffer": png(Image.new("L", (9, 9)))})
    page.wait_for_selector(".toast.bad:has-text('Resize it')")


# ---- edits -----------------------------------------------------------------------------------------------------------


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


# ---- others, and faults ----------------------------------------------------------------------------------------------


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


# ---- the page --------------------------------------------------------------------------------------------------------


def test_a_reload_keeps_settings_and_the_session(desk: Desk) -> None:
    page = desk.page
    values = {
        "#prompt": "a tower",
        "#negative": "rain",
        "#steps": "9",
        "#strength": "0.5",
        "#guidance": "3",
        "#dense": "0,2",
    }
    for field, value in values.items():
        page.fill(field, value)
    desk.stroke(*BALL)
    mask = desk.mask()
    page.click("[data-tool=lasso]")
    page.click("#lock")
    page.click("#theme")
    page.wait_for_timeout(700)  # the mask is kept a moment after the stroke
    page.reload()
    page.wait_for_selector("#history .thumb")
    assert {field: page.input_value(field) for field in values} == values
    assert page.get_attribute("[data-tool=lasso]", "aria-pressed") == "true"
    assert page.get_attribute("#lock", "aria-pressed") == "true"
    assert page.get_attribute("html", "data-theme") == "light"
    assert np.array_equal(desk.current(), np.array(picture()))
    assert np.array_equal(desk.mask(), mask)
    desk.open(picture(1))
    page.wait_for_timeout(300)
    assert not desk.mask().any(), "the mask of another picture"


def test_a_picture_is_dropped_pasted_and_brings_its_settings(begin: Callable[..., Desk]) -> None:
    desk = begin()
    desk.page.fill("#steps", "3")
    desk.stroke(*BALL)
    desk.edit("a tent")
    made = desk.download("#download")
    assert json.loads(Image.open(made).text["sige"])["steps"] == 3
    other = begin(welcome=True)
    content = base64.b64encode(made.read_bytes()).decode()
    for kind in ("drop", "paste"):
        other.page.evaluate(
            """([kind, content]) => {
              const bytes = Uint8Array.from(atob(content), (sign) => sign.charCodeAt(0));
              const data = new DataTransfer();
              data.items.add(new File([bytes], "made.png", { type: "image/png" }));
              const given = kind === "drop" ? { dataTransfer: data } : { clipboardData: data };
              const Kind = kind === "drop" ? DragEvent : ClipboardEvent;
              document.body.dispatchEvent(new Kind(kind, { bubbles: true, cancelable: true, ...given }));
            }""",
            [kind, content],
        )
        other.page.wait_for_selector(".toast .act:has-text('Use them')")
        other.page.wait_for_selector("#welcome", state="hidden")
        assert np.array_equal(other.current(), pixels(made)[..., :3])
    other.page.click(".toast .act")
    assert other.page.input_value("#prompt") == "a tent" and other.page.input_value("#steps") == "3"


def test_the_example_is_a_picture_with_a_prompt(begin: Callable[..., Desk]) -> None:
    desk = begin(welcome=True)
    desk.page.click("#example")
    desk.page.wait_for_selector("#welcome", state="hidden")
    assert "house" in desk.page.input_value("#prompt")


def test_a_phone_shows_everything_without_scrolling_sideways(begin: Callable[..., Desk]) -> None:
    desk = begin(**PHONE)
    page = desk.page
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    for one in ("#generate", "#stroke-undo", "#size", "#fit"):
        box = page.locator(one).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["y"] + box["height"] <= 844, one
    desk.stroke(*BALL)
    desk.edit()
    page.tap("#accept")
    page.wait_for_selector("#history li:nth-child(2)")


def test_dark_and_light_follow_the_system_and_the_button(begin: Callable[..., Desk]) -> None:
    desk = begin(color_scheme="dark")

    def ground() -> int:
        colour = desk.page.evaluate("() => getComputedStyle(document.getElementById('panel')).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    assert ground() < 200
    desk.page.click("#theme")
    assert ground() > 600
    desk.page.click("#theme")
    assert ground() < 200


def test_every_control_has_a_name_and_is_reached_by_tab(desk: Desk) -> None:
    names = desk.page.evaluate(
        """() => [...document.querySelectorAll("button, input:not([hidden]), textarea")].map((one) => {
          const name = one.title || one.ariaLabel || one.labels?.[0]?.innerText || one.innerText;
          return [one.id || one.dataset.tool || one.value, name, one.tabIndex];
        })"""
    )
    assert [one for one, name, _ in names if not name.strip()] == []
    assert [one for one, _, index in names if index < 0] == []


# ---- the files -------------------------------------------------------------------------------------------------------


def test_the_policy_allows_no_other_host_and_no_script_in_the_page(address: str) -> None:
    for path in ("/", "/editor/main.js", "/editor/editor.css"):
        answer = httpx.get(address + path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';") and "unsafe" not in policy and "http" not in policy
    assert httpx.get(f"{address}/editor/main.js").headers["content-type"].startswith("text/javascript")
    assert httpx.get(f"{address}/editor/../main.py").status_code == 404
    assert httpx.get(f"{address}/editor/%2e%2e/main.py").status_code == 404


def test_the_files_name_each_other_and_nothing_else() -> None:
    texts = {file.name: file.read_text() for file in EDITOR.iterdir()}
    named = {"index.html"}
    for text in texts.values():
        named |= set(re.findall(r"/editor/([\w.]+)", text)) | set(re.findall(r'from "\./([\w.]+)"', text))
        assert "innerHTML" not in text and not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert named == set(texts)

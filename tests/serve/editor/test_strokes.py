"""Masks in the editor: painted, drawn, imported; what wheel, keys and fingers do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from tests.serve.editor.browser import PHONE, SIDE, Desk, picture, png


def inside(mask: Any, x: float, y: float) -> int:
    """The mask's value at a place."""
    return int(mask[int(y * SIDE), int(x * SIDE)])


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

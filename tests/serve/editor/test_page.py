"""The editor's page: reloads, files, phones, colours, keys; what it may load."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from tests.serve.editor.browser import BALL, PHONE, Desk, picture, pixels

EDITOR = Path(__file__).resolve().parents[3] / "sdxl/serve/editor"


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

"""IOPaint's API, by requests as its page sends them, and by python-socketio's client."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import requests
import simple_websocket
import socketio
from PIL import Image

from sdxl.serve.uploads import encoded
from tests.serve.standing import (
    KEYS,
    Standing,
    a_mask,
    a_picture,
    changed,
    quick_server,
    standing,
    wait_for,
    white_mask,
)

YELLOW = (255, 204, 0, 187)  # of the page's brush


@pytest.fixture
def client(tiny_server: Standing) -> Iterator[httpx.Client]:
    """What the page is: it knows a key by its cookie."""
    with httpx.Client(base_url=f"{tiny_server.address}/api/v1", cookies={"sige-key": KEYS[0]}, timeout=60) as one:
        yield one


def data_url(image: Image.Image, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(encoded(image, kind)).decode()}"


def page_mask(colour: tuple[int, int, int, int] = (255, 255, 255, 255)) -> Image.Image:
    """The mask of the page: strokes on a canvas that is transparent where nothing was painted."""
    canvas = Image.new("RGBA", a_picture().size, (0, 0, 0, 0))
    canvas.paste(colour, (24, 16, 60, 40))
    return canvas


def body(**values: Any) -> dict[str, Any]:
    """The fields that the page sends, as it sends them."""
    return {
        "image": data_url(a_picture()),
        "mask": data_url(page_mask()),
        "ldm_steps": 30,
        "ldm_sampler": "ddim",
        "zits_wireframe": True,
        "cv2_flag": "INPAINT_NS",
        "cv2_radius": 5,
        "hd_strategy": "Crop",
        "hd_strategy_crop_triger_size": 640,
        "hd_strategy_crop_margin": 128,
        "prompt": "a horse",
        "negative_prompt": "blurry",
        "use_croper": False,
        "croper_x": 0,
        "croper_y": 0,
        "croper_height": 512,
        "croper_width": 512,
        "use_extender": False,
        "sd_mask_blur": 4,
        "sd_strength": 1,
        "sd_steps": 4,
        "sd_guidance_scale": 7.5,
        "sd_sampler": "DPM++ 2M SDE Karras",
        "sd_seed": -1,
        "sd_match_histograms": False,
        "sd_lcm_lora": False,
        "paint_by_example_example_image": None,
        "p2p_image_guidance_scale": 1.5,
        "enable_controlnet": False,
        "controlnet_conditioning_scale": 0.4,
        "controlnet_method": "",
        "enable_brushnet": False,
        "enable_powerpaint_v2": False,
        "powerpaint_task": "text-guided",
        "sd_keep_unmasked_area": True,
    } | values


def painted(client: httpx.Client, **values: Any) -> Image.Image:
    answer = client.post("/inpaint", json=body(**values))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    return Image.open(io.BytesIO(answer.content))


@pytest.mark.parametrize("mask", [page_mask(), page_mask(YELLOW), white_mask(a_mask())], ids=["page", "brush", "grey"])
def test_the_masked_part_is_painted_and_all_else_stays(client: httpx.Client, mask: Image.Image) -> None:
    differs = changed(a_picture(), painted(client, mask=data_url(mask)))
    assert differs[a_mask()].mean() > 0.9 and not differs[~a_mask()].any()


def test_a_seed_comes_back_and_gives_the_same_picture(client: httpx.Client) -> None:
    first = client.post("/inpaint", json=body())
    again = client.post("/inpaint", json=body(sd_seed=int(first.headers["x-seed"])))
    assert again.headers["x-seed"] == first.headers["x-seed"] and again.content == first.content
    assert client.post("/inpaint", json=body()).headers["x-seed"] != first.headers["x-seed"]


def test_transparency_comes_back(client: httpx.Client) -> None:
    image = a_picture().convert("RGBA")
    image.paste((10, 20, 30, 0), (0, 0, 12, 64))
    result = painted(client, image=data_url(image))
    assert result.getchannel("A").tobytes() == image.getchannel("A").tobytes()
    assert result.getpixel((3, 3)) == (10, 20, 30, 0)


def test_the_cropper_limits_the_mask(client: httpx.Client) -> None:
    box = {"use_croper": True, "croper_x": 24, "croper_y": 16, "croper_width": 10, "croper_height": 24}
    differs = changed(a_picture(), painted(client, **box, sd_mask_blur=0))
    inside = a_mask((24, 16, 34, 40))
    assert differs[inside].mean() > 0.9 and not differs[~inside].any()


def test_unknown_samplers_are_accepted_with_a_warning(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    painted(client, sd_sampler="A sampler of its own")
    assert "sampler: got 'A sampler of its own', this server paints with DDIM" in caplog.text


@pytest.mark.parametrize("field", ["enable_controlnet", "enable_brushnet", "use_extender", "sd_lcm_lora"])
def test_what_would_change_the_picture_is_refused(client: httpx.Client, field: str) -> None:
    answer = client.post("/inpaint", json=body(**{field: True}))
    assert answer.status_code == 400 and answer.json()["errors"].startswith(field)


WRONG: dict[str, dict[str, Any]] = {
    "image": {"image": "https://example.com/a.png"},
    "mask": {"mask": None},
    "sd_steps": {"sd_steps": "many"},
    "steps": {"sd_steps": 100_000},
    "croper_x": {"use_croper": True, "croper_x": -1},
}


@pytest.mark.parametrize("field", WRONG)
def test_errors_are_one_sentence_where_the_page_reads_it(client: httpx.Client, field: str) -> None:
    answer = client.post("/inpaint", json=body(**WRONG[field]))
    assert answer.status_code == 400
    assert answer.json()["errors"].startswith(f"{field}: ") and set(answer.json()) >= {"error", "detail", "errors"}


def test_a_body_that_is_no_json_is_one_sentence(client: httpx.Client) -> None:
    answer = client.post("/inpaint", content=b'{"image": ')
    assert answer.status_code == 400 and "JSON" in answer.json()["errors"]


def test_the_page_gets_what_it_asks_for_at_its_start(client: httpx.Client) -> None:
    config = client.get("/server-config").json()
    assert config["samplers"][0] == "DDIM" and config["plugins"] == [] and config["disableModelSwitch"] is True
    assert config["modelInfos"] == [client.get("/model").json()] and config["modelInfos"][0]["name"] == "tiny"
    assert client.get("/samplers").json() == config["samplers"]
    assert not client.get("/inputimage").headers["content-type"].startswith("image")
    assert client.post("/model", json={"name": "tiny"}).json()["name"] == "tiny"
    assert client.post("/model", json={"name": "../../etc/passwd"}).status_code == 400


def test_gen_info_reads_the_prompts(client: httpx.Client) -> None:
    content = client.post("/inpaint", json=body()).content
    assert client.post("/gen-info", files={"file": content}).json() == {
        "prompt": "a horse",
        "negative_prompt": "blurry",
    }
    plain = client.post("/gen-info", files={"file": encoded(a_picture())})
    assert plain.json() == {"prompt": "", "negative_prompt": ""}


class Page:
    """Listens to the sockets as the page does."""

    def __init__(self, address: str, key: str) -> None:
        self.steps: list[int] = []
        self.finished = 0
        session = requests.Session()
        session.cookies.set("sige-key", key)
        self.client = socketio.Client(http_session=session)
        self.client.on("diffusion_progress", lambda said: self.steps.append(said["step"]))
        self.client.on("diffusion_finish", self._finish)
        self.client.connect(address, transports=["polling"], retry=False)

    def _finish(self, *said: Any) -> None:
        self.finished += 1

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.eio.disconnect(abort=True)  # else it waits for the answer of its last poll, 25 s


def test_sockets_tell_the_steps_to_the_client_s_own_key(client: httpx.Client, tiny_server: Standing) -> None:
    with Page(tiny_server.address, KEYS[0]) as mine, Page(tiny_server.address, KEYS[1]) as theirs:
        painted(client)
        wait_for(lambda: mine.finished)
        assert mine.steps == [0, 1, 2, 3] and mine.finished == 1
        assert theirs.steps == [] and theirs.finished == 0


def test_sockets_need_a_key(tiny_server: Standing) -> None:
    with pytest.raises(socketio.exceptions.ConnectionError):
        Page(tiny_server.address, "wrong-key")


def test_a_websocket_opens(tiny_server: Standing) -> None:
    address = f"ws://127.0.0.1:{tiny_server.port}/socket.io/?EIO=4&transport=websocket"
    opened = simple_websocket.Client(address, headers={"Authorization": f"Bearer {KEYS[0]}"})
    opened.send("40")  # joins; this client shows the first message with the second
    first, second = (opened.receive(timeout=5) for _ in range(2))
    assert "sid" in json.loads(first[1:]) and "sid" in json.loads(second[2:])
    opened.close()
    with pytest.raises(simple_websocket.ConnectionError):
        simple_websocket.Client(address)


def test_a_page_that_goes_away_frees_the_worker() -> None:
    with standing(quick_server(step_seconds=0.1, steps=30)) as one:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{one.address}/api/v1/inpaint", json=body(sd_steps=30), timeout=0.5)
        assert one.wait_until_free(1) < 0.5

"""A1111's API, by `webuiapi`, which was written against A1111, and by `sd-parsers`, which reads its pictures."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import webuiapi
from PIL import Image
from sd_parsers import ParserManager

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


@pytest.fixture
def client(tiny_server: Standing) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(port=tiny_server.port, username="anyone", password=KEYS[0], steps=4)


@pytest.fixture
def slow() -> Iterator[Standing]:
    """A server whose edits take three seconds, in steps of a tenth."""
    with standing(quick_server(step_seconds=0.1, steps=30)) as one:
        yield one


def edited(client: webuiapi.WebUIApi, **values: Any) -> Any:
    asked = {
        "images": [a_picture()],
        "mask_image": white_mask(a_mask()),
        "prompt": "a horse",
        "seed": 7,
        "mask_blur": 0,
    }
    return client.img2img(**(asked | {"inpaint_full_res": False} | values))


def test_white_is_painted_and_all_else_stays(client: webuiapi.WebUIApi) -> None:
    result = edited(client)
    differs = changed(a_picture(), result.image)
    assert differs[a_mask()].mean() > 0.9 and not differs[~a_mask()].any()


def test_an_inverted_mask_keeps_what_is_white(client: webuiapi.WebUIApi) -> None:
    differs = changed(a_picture(), edited(client, inpainting_mask_invert=1).image)
    assert differs[~a_mask()].mean() > 0.9 and not differs[a_mask()].any()


def test_a_mask_may_be_opaque_where_it_is_painted(client: webuiapi.WebUIApi) -> None:
    mask = Image.new("RGBA", a_picture().size, (0, 0, 0, 0))
    mask.paste((0, 0, 0, 255), (24, 16, 60, 40))
    differs = changed(a_picture(), edited(client, mask_image=mask).image)
    assert differs[a_mask()].mean() > 0.9 and not differs[~a_mask()].any()


def test_a_blurred_edge_lies_inside_the_mask(client: webuiapi.WebUIApi) -> None:
    soft, hard = (changed(a_picture(), edited(client, mask_blur=blur).image) for blur in (8, 0))
    assert not soft[~a_mask()].any()
    before, blurred = np.asarray(a_picture(), int), np.asarray(edited(client, mask_blur=8).image, int)
    plain = np.asarray(edited(client).image, int)
    edge = (slice(16, 17), slice(30, 50))  # the mask's first row: a ninth of the new picture
    assert np.abs(blurred - before)[edge].mean() < 0.3 * np.abs(plain - before)[edge].mean()
    assert hard.any()


def test_only_masked_keeps_the_rest(client: webuiapi.WebUIApi) -> None:
    result = edited(client, inpaint_full_res=True, inpaint_full_res_padding=8)
    assert result.image.size == a_picture().size
    assert not changed(a_picture(), result.image)[~a_mask()].any()
    assert changed(edited(client).image, result.image)[a_mask()].mean() > 0.5  # painted larger, so other pixels


def test_without_a_mask_everything_changes(client: webuiapi.WebUIApi) -> None:
    result = client.img2img(images=[a_picture()], prompt="a horse", seed=7)
    assert result.image.size == a_picture().size  # though the client asks for 512x512
    assert changed(a_picture(), result.image).mean() > 0.9


def test_the_same_seed_gives_the_same_picture(client: webuiapi.WebUIApi) -> None:
    first, again, other = (edited(client, seed=seed).image for seed in (7, 7, 8))
    assert not changed(first, again).any() and changed(first, other).any()


def test_a_batch_counts_seeds_up(client: webuiapi.WebUIApi) -> None:
    result = edited(client, batch_size=1, n_iter=2)
    assert result.info["all_seeds"] == [7, 8] and len(result.images) == 2
    assert not changed(result.images[1], edited(client, seed=8).image).any()
    assert edited(client, seed=-1).info["seed"] != edited(client, seed=-1).info["seed"]


def test_info_says_what_was_done(client: webuiapi.WebUIApi) -> None:
    info = edited(client, sampler_name="Euler a", denoising_strength=0.75, negative_prompt="blurry").info
    assert (info["width"], info["height"], info["steps"], info["seed"]) == (96, 64, 4, 7)
    assert (info["sampler_name"], info["negative_prompt"], info["denoising_strength"]) == ("DDIM", "blurry", 0.75)
    assert info["warnings"][0] == "sampler: got 'Euler a', this server paints with DDIM"
    assert info["infotexts"][0].startswith("a horse\nNegative prompt: blurry\nSteps: 4, Sampler: DDIM")


def test_sd_parsers_reads_our_pictures(client: webuiapi.WebUIApi) -> None:
    found = ParserManager().parse(edited(client, negative_prompt="blurry").image)
    assert found is not None and found.generator == "AUTOMATIC1111"
    assert [prompt.value for prompt in found.prompts] == ["a horse"]
    assert [prompt.value for prompt in found.negative_prompts] == ["blurry"]
    (sampler,) = found.samplers
    assert (sampler.name, sampler.parameters["seed"], sampler.parameters["steps"]) == ("DDIM", "7", "4")


def test_a_server_with_another_sampler_says_which() -> None:
    server = quick_server()
    server.scheduler = "euler-ancestral"
    with standing(server) as one:
        result = edited(webuiapi.WebUIApi(port=one.port), sampler_name="DPM++ 2M", scheduler="Karras")
        assert result.info["sampler_name"] == "Euler a" and "Sampler: Euler a" in result.image.info["parameters"]
        assert result.info["warnings"][0] == "sampler: got 'DPM++ 2M Karras', this server paints with Euler a"
        assert not edited(webuiapi.WebUIApi(port=one.port), sampler_name="Euler a", inpainting_fill=1).info["warnings"]


def test_png_info_reads_them_back(client: webuiapi.WebUIApi) -> None:
    image = edited(client).image
    answer = client.png_info(image)
    assert answer.info == image.info["parameters"]
    assert answer.parameters["Prompt"] == "a horse" and answer.parameters["Seed"] == "7"
    assert "sige" in answer.json["items"]
    assert client.png_info(a_picture()).info == ""


def test_progress_and_interrupt(slow: Standing) -> None:
    client = webuiapi.WebUIApi(port=slow.port)
    assert client.get_progress()["state"]["job_count"] == 0
    errors: list[Exception] = []

    def run() -> None:
        try:
            edited(webuiapi.WebUIApi(port=slow.port), steps=30)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: client.get_progress()["progress"] > 0.1)
    said = client.get_progress()
    state = said["state"]
    assert state["job_count"] == 1 and state["sampling_steps"] == 30 and 3 <= state["sampling_step"] < 30
    assert 0 < said["eta_relative"] < 10
    assert Image.open(io.BytesIO(_bytes(said["current_image"]))).size == a_picture().size
    assert client.interrupt() == {}
    thread.join(5)
    assert slow.wait_until_free(1) < 0.5
    assert "interrupted" in str(errors[0]) and "499" in str(errors[0])
    client.util_wait_for_ready(0.1)


def test_an_interrupt_keeps_the_pictures_that_are_finished(slow: Standing) -> None:
    client, results = webuiapi.WebUIApi(port=slow.port), []
    thread = threading.Thread(
        target=lambda: results.append(edited(webuiapi.WebUIApi(port=slow.port), steps=3, batch_size=9))
    )
    thread.start()
    wait_for(lambda: client.get_progress()["state"]["job_no"] >= 2)
    client.interrupt()
    thread.join(5)
    assert 2 <= len(results[0].images) < 9 and len(results[0].info["all_seeds"]) == len(results[0].images)


def test_a_key_neither_sees_nor_ends_the_edits_of_another() -> None:
    with standing(quick_server(step_seconds=0.05, steps=20), KEYS) as one:
        mine, theirs = (webuiapi.WebUIApi(port=one.port, username="a", password=key) for key in KEYS)
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(edited(mine, steps=20)))
        thread.start()
        wait_for(lambda: mine.get_progress()["progress"] > 0)
        assert theirs.get_progress()["progress"] == 0
        theirs.interrupt()
        thread.join(5)
        assert len(results[0].images) == 1


def test_a_client_that_goes_away_frees_the_worker(slow: Standing) -> None:
    sent = webuiapi.webuiapi.b64_img
    body = {"init_images": [sent(a_picture())], "mask": sent(white_mask(a_mask())), "steps": 30}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{slow.address}/sdapi/v1/img2img", json=body, timeout=0.5)
    assert slow.wait_until_free(1) < 0.5  # one look at the connection, and one step


def test_models_samplers_and_options(client: webuiapi.WebUIApi) -> None:
    assert client.util_get_model_names() == ["tiny"] and client.util_get_current_model() == "tiny"
    assert {"DDIM", "Euler a", "UniPC"} <= set(client.util_get_sampler_names())
    assert client.set_options({"sd_model_checkpoint": "tiny", "CLIP_stop_at_last_layers": 2, "outdir": "/etc"}) is None
    assert "only" in client.set_options({"sd_model_checkpoint": "other"})["detail"]
    assert client.get_loras() == [] and client.get_scripts()["img2img"] == []


REFUSED: dict[str, dict[str, Any]] = {
    "batch_size x n_iter": {"batch_size": 4, "n_iter": 4},
    "styles": {"styles": ["photo"]},
    "script_name": {"script_name": "x/y plot"},
    "alwayson_scripts": {"controlnet_units": [webuiapi.ControlNetUnit(image=a_picture())]},
    "sd_model_checkpoint": {"override_settings": {"sd_model_checkpoint": "other"}},
    "tiling": {"tiling": True},
    "restore_faces": {"restore_faces": True},
    "subseed_strength": {"subseed_strength": 0.5},
    "steps": {"steps": 0},
    "mask": {"mask_image": white_mask(a_mask(size=(32, 32), box=(0, 0, 8, 8)))},
    "init_images": {"images": [a_picture(), a_picture(1)]},
    "strength": {"denoising_strength": 1.5},
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_would_change_the_picture_is_refused(client: webuiapi.WebUIApi, field: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        edited(client, **{"alwayson_scripts": {}, **REFUSED[field]})
    status, text = caught.value.args
    said = httpx.Response(status, text=text).json()
    assert status == 400 and set(said) == {"error", "detail", "body", "errors"}
    assert said["detail"].startswith(field) and said["errors"] == said["detail"]


def test_scripts_that_are_off_are_accepted(client: webuiapi.WebUIApi) -> None:
    off = {"ControlNet": {"args": [{"enabled": False}]}, "ADetailer": {"args": [False]}, "other": {"args": []}}
    assert edited(client, alwayson_scripts=off).images


def test_errors_of_the_guard_have_the_same_form(tiny_server: Standing) -> None:
    answer = httpx.get(f"{tiny_server.address}/sdapi/v1/options", auth=("anyone", "wrong-key"))
    assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Basic")
    assert "key is wrong" in answer.json()["detail"] and answer.json()["error"] == "invalid_api_key"


def test_no_url_is_fetched(client: webuiapi.WebUIApi, tiny_server: Standing) -> None:
    body = {"init_images": [f"{tiny_server.address}/healthz"]}
    answer = httpx.post(f"{tiny_server.address}/sdapi/v1/img2img", json=body, auth=("a", KEYS[0]))
    assert answer.status_code == 400 and "base64" in answer.json()["detail"]


def _bytes(text: str) -> bytes:
    import base64

    return base64.b64decode(text)

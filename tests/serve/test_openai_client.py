"""OpenAI's images API, by OpenAI's own client."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image
from sd_parsers import ParserManager

from sdxl.serve.uploads import encoded
from sdxl.serve.work.jobs import Stepped
from tests.examples import run_example
from tests.serve.standing import (
    KEYS,
    SIZE,
    Standing,
    a_mask,
    a_picture,
    changed,
    clear_mask,
    quick_server,
    standing,
    wait_for,
    white_mask,
)


def client_of(one: Standing, key: str = KEYS[0], **values: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{one.address}/v1", api_key=key, **({"max_retries": 0, "timeout": 60} | values))


@pytest.fixture
def client(tiny_server: Standing) -> Iterator[openai.OpenAI]:
    with client_of(tiny_server) as one:
        yield one


@pytest.fixture
def slow() -> Iterator[Standing]:
    """A server whose edits take three seconds, in steps of a tenth; one edit of a key may wait."""
    with standing(quick_server(step_seconds=0.1, steps=30, most_waiting_of_key=1)) as one:
        yield one


def png(image: Image.Image) -> tuple[str, bytes, str]:
    return "picture.png", encoded(image), "image/png"


def edit(client: openai.OpenAI, image: Any = None, mask: Any = None, **values: Any) -> Any:
    """An edit of a picture; pictures may be given as they are, or as files."""
    pictures = {"image": image or a_picture(), "mask": mask or clear_mask(a_mask())}
    files = {name: png(one) if isinstance(one, Image.Image) else one for name, one in pictures.items()}
    return client.images.edit(**({**files, "prompt": "a horse"} | values))


def opened(said: Any) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(said.b64_json)))


def test_an_edit_paints_what_is_transparent(client: openai.OpenAI) -> None:
    result = edit(client, extra_body={"seed": 3})
    differs = changed(a_picture(), opened(result.data[0]))
    assert differs[a_mask()].mean() > 0.9 and not differs[~a_mask()].any()
    assert result.size == "96x64" and result.usage.edits[0]["seed"] == 3


def test_two_pictures_have_two_seeds(client: openai.OpenAI) -> None:
    first, second = (opened(one) for one in edit(client, n=2, extra_body={"seed": 3}).data)
    assert changed(first, second).any()
    assert not changed(second, opened(edit(client, extra_body={"seed": 4}).data[0])).any()
    assert {one.id for one in client.models.list()} == {"tiny"}


def test_a_named_session_goes_on_from_the_picture_that_it_gave(client: openai.OpenAI, tiny_server: Standing) -> None:
    """Its later edits of the same place take no dense pass; another picture, or another key's client, begins anew."""

    def dense_passes(image: Image.Image, client: openai.OpenAI = client) -> tuple[int, Image.Image]:
        result = edit(client, image, extra_body={"session": "page-7", "steps": 10})
        return result.usage.edits[0]["passes"]["dense"], opened(result.data[0])

    dense, painted = dense_passes(a_picture())
    assert dense > 0
    later, again = dense_passes(painted)
    assert later == 0 and not changed(painted, again)[~a_mask()].any()
    assert dense_passes(a_picture())[0] == 0  # the picture before: the table goes back to it
    assert dense_passes(a_picture(1))[0] == dense
    with client_of(tiny_server, KEYS[1]) as other:
        assert dense_passes(a_picture(1), other)[0] == dense
    for name in ("a b", "x" * 65, "../x/ü"):
        with pytest.raises(openai.BadRequestError, match="session: got"):
            edit(client, extra_body={"session": name})


def test_a_list_of_one_picture_is_a_picture(client: openai.OpenAI) -> None:
    listed, plain = (edit(client, image=image, extra_body={"seed": 3}) for image in ([png(a_picture())], a_picture()))
    assert not changed(opened(listed.data[0]), opened(plain.data[0])).any()
    with pytest.raises(openai.BadRequestError, match="image: got 2 files, expected one"):
        edit(client, image=[png(a_picture()), png(a_picture(1))])


def test_a_picture_can_be_its_own_mask(client: openai.OpenAI) -> None:
    result = client.images.edit(image=png(clear_mask(a_mask(), a_picture())), prompt="a horse")
    differs = changed(a_picture(), opened(result.data[0]))  # type: ignore[index]
    assert differs[a_mask()].mean() > 0.9 and not differs[~a_mask()].any()


def test_a_stream_has_three_previews_and_the_picture(client: openai.OpenAI) -> None:
    events = list(edit(client, stream=True, partial_images=3, extra_body={"seed": 3}))
    partial = [event for event in events if event.type == "image_edit.partial_image"]
    assert [event.partial_image_index for event in partial] == [0, 1, 2]
    assert all(opened(event).size == (SIZE[1], SIZE[0]) for event in partial)
    assert [event.type for event in events[3:]] == ["image_edit.completed"]
    assert not changed(opened(events[-1]), opened(edit(client, extra_body={"seed": 3}).data[0])).any()


def test_a_stream_that_is_closed_frees_the_worker_within_one_step(client: openai.OpenAI, tiny_server: Standing) -> None:
    stream = edit(client, stream=True, partial_images=1, extra_body={"steps": 100, "seed": 3})
    wait_for(lambda: tiny_server.server.queue.running)
    (job,) = tiny_server.server.queue.running
    wait_for(lambda: len(job.events) > 5)
    stream.close()
    wait_for(lambda: job.is_cancelled)
    taken = sum(isinstance(event, Stepped) for event in job.events)
    tiny_server.wait_until_free()
    assert sum(isinstance(event, Stepped) for event in job.events) <= taken + 1 < 100


def test_a_stream_that_is_closed_frees_a_slow_worker_at_once(slow: Standing) -> None:
    stream = edit(client_of(slow), stream=True, partial_images=3)
    wait_for(lambda: slow.server.queue.running)
    stream.close()
    assert slow.wait_until_free(1) < 0.1 + 0.1 + 0.2  # a look at the connection, a step, a busy machine


def test_a_client_that_gives_up_while_it_waits_leaves_the_queue(slow: Standing) -> None:
    first = edit(client_of(slow), stream=True)
    wait_for(lambda: slow.server.queue.running)
    with pytest.raises(openai.APITimeoutError):
        edit(client_of(slow, timeout=0.3))
    wait_for(lambda: len(slow.server.queue) == 0, 1)
    first.close()


WRONG: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": ""},
    "n": {"n": 11},
    "size": {"size": "1024x1024"},
    "model": {"model": "gpt-image-1"},
    "mask": {"mask": png(white_mask(a_mask()))},
    "steps": {"extra_body": {"steps": 0}},
    "guidance_scale": {"extra_body": {"guidance_scale": "nan"}},
    "mask_polarity": {"extra_body": {"mask_polarity": "black"}},
    "partial_images": {"stream": True, "partial_images": 9},
    "image": {"image": ("picture.png", encoded(a_picture())[:500], "image/png")},
}


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_value_is_a_bad_request_that_names_it(client: openai.OpenAI, field: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        edit(client, **WRONG[field])
    assert caught.value.param == field and str(caught.value.body["message"]).startswith(f"{field}: ")  # type: ignore[index]


def test_a_wrong_key_is_an_authentication_error(tiny_server: Standing) -> None:
    with pytest.raises(openai.AuthenticationError, match="the key is wrong"):
        edit(client_of(tiny_server, "wrong-key"))


def test_a_full_queue_is_a_rate_limit_that_says_when(slow: Standing) -> None:
    streams = [edit(client_of(slow), stream=True)]
    wait_for(lambda: slow.server.queue.running)
    streams.append(edit(client_of(slow), stream=True))
    with pytest.raises(openai.RateLimitError, match="try again in") as caught:
        edit(client_of(slow))
    assert int(caught.value.response.headers["retry-after"]) >= 1
    for stream in streams:
        stream.close()


def test_the_client_s_own_retry_succeeds() -> None:
    with standing(quick_server(step_seconds=0.1, steps=5, most_waiting_of_key=1)) as one:
        one.server.queue._seconds = 0.5  # of a job, as the queue would have learned
        streams = [edit(client_of(one), stream=True)]
        wait_for(lambda: one.server.queue.running)
        streams.append(edit(client_of(one), stream=True))
        threading.Thread(target=lambda: [list(stream) for stream in streams], daemon=True).start()
        began = time.monotonic()
        assert edit(client_of(one, max_retries=2)).data
        assert time.monotonic() - began > 1  # it has waited as long as it was told


def test_pictures_carry_the_settings_that_others_read(client: openai.OpenAI) -> None:
    image = opened(edit(client, extra_body={"seed": 3, "negative_prompt": "blurry"}).data[0])
    found = ParserManager().parse(image)
    assert found is not None and [prompt.value for prompt in found.prompts] == ["a horse"]
    (sampler,) = found.samplers
    assert sampler.parameters["seed"] == "3" and sampler.model is not None and sampler.model.name == "tiny"


def test_after_twenty_edits_all_pixels_outside_the_masks_are_the_input_s(client: openai.OpenAI) -> None:
    random = np.random.default_rng(1)
    current, union = a_picture(), np.zeros(SIZE, dtype=bool)
    for seed in range(20):
        left, top = int(random.integers(0, 80)), int(random.integers(0, 48))
        mask = a_mask((left, top, left + int(random.integers(1, 16)), top + int(random.integers(1, 16))))
        blur = int(random.integers(0, 9))
        values = {"seed": seed, "steps": 2, "mask_blur": blur}
        current = opened(edit(client, image=current, mask=clear_mask(mask), extra_body=values).data[0])
        union |= mask
    assert not changed(a_picture(), current)[~union].any()
    assert changed(a_picture(), current)[union].mean() > 0.5 and union.mean() < 0.7


def test_the_example_of_the_readme(quick: Standing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").write_bytes(encoded(a_picture()))
    (tmp_path / "mask.png").write_bytes(encoded(clear_mask(a_mask())))
    names = run_example("README.md", "from openai", (("http://127.0.0.1:7860", quick.address),))
    painted = Image.open(io.BytesIO(base64.b64decode(names["result"].data[0].b64_json)))
    assert not changed(a_picture(), painted)[a_mask() == 0].any() and changed(a_picture(), painted).any()

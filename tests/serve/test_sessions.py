"""Sessions over HTTP, without a browser."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from sdxl.pictures.seams import put_together
from sdxl.serve.uploads import encoded
from tests.serve.standing import KEYS, Standing, a_mask, a_picture, changed, clear_mask


@pytest.fixture
def client(tiny_server: Standing) -> Any:
    headers = {"Authorization": f"Bearer {KEYS[0]}"}
    with httpx.Client(base_url=f"{tiny_server.address}/v1", headers=headers, timeout=60) as one:
        yield one


@pytest.fixture
def session(client: httpx.Client) -> str:
    answer = client.post("/sessions", files={"image": encoded(a_picture())})
    assert answer.status_code == 201
    return str(answer.json()["id"])


def edit(client: httpx.Client, session: str, **fields: str) -> Any:
    said = {"prompt": "a horse", "seed": "1", **fields}
    answer = client.post(f"/sessions/{session}/edits", data=said, files={"mask": encoded(clear_mask(a_mask()))})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def shown(client: httpx.Client, session: str, name: str = "current") -> Image.Image:
    return Image.open(io.BytesIO(client.get(f"/sessions/{session}/pictures/{name}").content)).convert("RGB")


def test_an_edit_is_staged_then_accepted_then_taken_back(client: httpx.Client, session: str) -> None:
    first, second = edit(client, session, n="2")
    assert (first["seed"], second["seed"]) == (1, 2) and not changed(a_picture(), shown(client, session)).any()
    facts = client.post(f"/sessions/{session}/commit", json={"result": first["id"]}).json()
    assert facts["current"] == first["picture"] and facts["staged"] == []
    painted = changed(a_picture(), shown(client, session))
    assert painted.any() and not painted[~a_mask()].any()
    client.post(f"/sessions/{session}/undo")
    assert not changed(a_picture(), shown(client, session)).any()
    client.post(f"/sessions/{session}/redo")
    assert np.array_equal(np.asarray(shown(client, session)), np.asarray(shown(client, session, first["picture"])))
    assert client.post(f"/sessions/{session}/redo").json()["error"]["code"] == "nothing_to_redo"


def test_the_second_edit_of_a_place_runs_on_the_first_ones_recordings(client: httpx.Client, session: str) -> None:
    first, second = edit(client, session)[0], edit(client, session, seed="2")[0]
    assert second["computed"] < first["computed"] and second["passes"]["dense"] < first["passes"]["dense"]


def test_the_edge_is_matched_on_recordings_too(client: httpx.Client, session: str) -> None:
    _, plain, matched = (edit(client, session, match_edge=width)[0] for width in ("0", "0", "6"))
    plain, matched = (shown(client, session, one["picture"]) for one in (plain, matched))
    expected = put_together(a_picture(), plain, a_mask().astype(np.float32), 6)
    assert not changed(matched, expected).any() and changed(matched, plain).any()


def test_the_current_picture_is_not_kept_by_the_browser(client: httpx.Client, session: str) -> None:
    name = client.get(f"/sessions/{session}").json()["current"]
    kept = [client.get(f"/sessions/{session}/pictures/{one}").headers["cache-control"] for one in ("current", name)]
    assert kept == ["no-store", "private, max-age=3600"]


def test_a_session_is_its_owners_alone_until_it_ends(client: httpx.Client, session: str) -> None:
    other = {"Authorization": f"Bearer {KEYS[1]}"}
    assert client.get(f"/sessions/{session}", headers=other).status_code == 404
    assert client.request("DELETE", f"/sessions/{session}").json() == {"id": session, "deleted": True}
    assert client.get(f"/sessions/{session}").json()["error"]["code"] == "session_not_found"


@pytest.mark.parametrize(
    ("fields", "why"), [({"steps": "0"}, "steps: got 0"), ({"style": "x"}, "style: no such field")]
)
def test_what_a_worker_would_refuse_is_refused_at_once(
    client: httpx.Client, session: str, fields: dict[str, str], why: str
) -> None:
    said = {"prompt": "a horse", **fields}
    answer = client.post(f"/sessions/{session}/edits", data=said, files={"mask": encoded(clear_mask(a_mask()))})
    assert answer.status_code == 400 and answer.json()["error"]["message"].startswith(why)

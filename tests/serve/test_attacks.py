"""Attacks: each is answered with one line, leaves no trace in the log, and takes no memory."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import resource
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from sdxl.serve.uploads import encoded
from tests.serve.attacks import Sent, attack, call
from tests.serve.standing import KEYS, Standing, a_mask, a_picture, clear_mask, quick_server, standing, wait_for
from tests.serve.test_iopaint import data_url

MB = 1_000_000
COUNT = int(os.environ.get("SIGE_ATTACKS", "1000"))  # of mutated requests


@pytest.fixture
def guarded() -> Iterator[Standing]:
    """A server with keys, small limits, and little patience."""
    limits: dict[str, Any] = {"body_seconds": 1.0, "header_seconds": 1.0, "most_connections": 300}
    with standing(quick_server(**limits), KEYS) as one:
        yield one


@pytest.fixture
def client(guarded: Standing) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KEYS[0]}"}
    with httpx.Client(base_url=guarded.address, headers=headers, timeout=20) as one:
        yield one


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a client does is a fault of the server: no trace in the log, and few lines."""
    yield
    records = [record for when in ("setup", "call") for record in caplog.get_records(when)]  # type: ignore[arg-type]
    ours = [record for record in records if record.name.startswith(("sdxl", "uvicorn"))]
    assert not [record for record in records if record.exc_info]
    assert not [record for record in ours if record.levelno >= logging.ERROR] and len(ours) < 20


def memory() -> int:
    """Bytes that the process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def one_line(answer: httpx.Response, status: int) -> str:
    """The error's sentence."""
    assert answer.status_code == status, answer.text
    said = answer.json()
    message = str(said["error"]["message"] if isinstance(said["error"], dict) else said["errors"])
    assert message and "\n" not in message and "Traceback" not in message
    return message


def a_bomb() -> bytes:
    """A PNG of 64 million pixels in some kilobytes."""
    buffer = io.BytesIO()
    Image.new("1", (8000, 8000)).save(buffer, format="PNG")
    return buffer.getvalue()


def edit(client: httpx.Client, image: bytes) -> httpx.Response:
    files = {"image": image, "mask": encoded(clear_mask(a_mask()))}
    return client.post("/v1/images/edits", files=files, data={"prompt": "a horse"})


def test_a_bomb_is_refused_everywhere_and_takes_no_memory(client: httpx.Client) -> None:
    bomb = a_bomb()
    text = data_url(Image.open(io.BytesIO(bomb)))
    edit(client, encoded(a_picture()))
    before = memory()
    for _ in range(5):
        for answer in (
            edit(client, bomb),
            client.post("/v1/sessions", files={"image": bomb}),
            client.post("/sdapi/v1/img2img", json={"init_images": [text]}),
            client.post("/sdapi/v1/png-info", json={"image": text}),
            client.post("/api/v1/inpaint", json={"image": text, "mask": text}),
            client.post("/api/v1/gen-info", files={"file": bomb}),
        ):
            assert "8000 high x 8000 wide, expected at most 25,000,000 pixels" in one_line(answer, 400)
    assert memory() - before < 40 * MB


def test_a_truncated_upload_is_one_sentence(client: httpx.Client) -> None:
    assert "is damaged" in one_line(edit(client, encoded(a_picture())[:5000]), 400)


def test_a_connection_that_breaks_within_a_body_is_forgotten(guarded: Standing, client: httpx.Client) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", guarded.port)) as one:
            one.sendall(head("Content-Length: 100000", "Content-Type: multipart/form-data; boundary=x") + b"--x\r\n")
    assert edit(client, encoded(a_picture())).status_code == 200
    assert guarded.wait_until_free() < 1


def head(*lines: str, path: str = "/v1/images/edits") -> bytes:
    """The head of a request with the right key."""
    key = f"Authorization: Bearer {KEYS[0]}"
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", key, *lines, "", ""]).encode()


FORM, FORM_BEGIN = (
    "multipart/form-data; boundary=x",
    b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n',
)
JSON, JSON_BEGIN = "application/json", b'{"image": "'
LARGE = {
    "/v1/images/edits": (FORM, FORM_BEGIN),
    "/v1/sessions": (FORM, FORM_BEGIN),
    "/sdapi/v1/img2img": (JSON, JSON_BEGIN),
    "/api/v1/inpaint": (JSON, JSON_BEGIN),
}


@pytest.mark.parametrize("path", LARGE)
@pytest.mark.parametrize("says_so", [True, False], ids=["said", "unsaid"])
def test_a_body_of_a_gigabyte_is_not_read(guarded: Standing, path: str, says_so: bool) -> None:
    kind, begin = LARGE[path]
    length = "Content-Length: 1000000000" if says_so else "Transfer-Encoding: chunked"
    before, sent, part = memory(), 0, begin + b"x" * (MB - len(begin))
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=20) as one:
        one.sendall(head(f"Content-Type: {kind}", length, path=path))
        while sent < 1000 * MB and not select.select([one], [], [], 0.001)[0]:
            one.sendall(part if says_so else b"%x\r\n%s\r\n" % (len(part), part))
            part, sent = b"x" * MB, sent + MB
        answer = b""
        while b"}" not in answer:
            answer += one.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413") and b"larger than 50,000,000 bytes" in answer
    assert sent <= (10 if says_so else 70) * MB
    assert memory() - before < 120 * MB  # a body below the limit may be in memory, more than that never


def test_a_wrong_key_is_one_sentence_before_the_body_is_read(guarded: Standing) -> None:
    for path in ("/v1/images/edits", "/v1/sessions", "/sdapi/v1/img2img", "/api/v1/inpaint", "/metrics", "/nothing"):
        answer = httpx.post(f"{guarded.address}{path}", headers={"Authorization": "Bearer wrong"}, content=b"x" * MB)
        assert "key is wrong" in one_line(answer, 401)


def open_connections(guarded: Standing, count: int, text: bytes) -> list[socket.socket]:
    opened = [socket.create_connection(("127.0.0.1", guarded.port), timeout=10) for _ in range(count)]
    for one in opened:
        one.sendall(text)
    return opened


def is_closed(one: socket.socket) -> bool:
    """Says whether the server has closed the connection, perhaps after an answer."""
    one.setblocking(False)
    try:
        while one.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


def test_connections_that_never_finish_are_closed(guarded: Standing, client: httpx.Client) -> None:
    edit(client, encoded(a_picture()))
    before = memory()
    silent = open_connections(guarded, 70, b"")
    in_head = open_connections(guarded, 70, b"POST /v1/images/edits HTTP/1.1\r\nHost: x\r\nX-A: ")
    in_body = open_connections(
        guarded, 60, head("Content-Length: 1000", "Content-Type: multipart/form-data; boundary=x") + b"--x\r\n"
    )
    began = time.monotonic()
    assert edit(client, encoded(a_picture())).status_code == 200  # others are served meanwhile
    assert time.monotonic() - began < 1
    left = [*silent, *in_head, *in_body]
    until = time.monotonic() + 5
    while left and time.monotonic() < until:
        for one in in_head:
            try:
                one.send(b"x")  # a byte now and then does not help
            except OSError:
                pass
        left = [one for one in left if not is_closed(one)]
        time.sleep(0.1)
    for one in (*silent, *in_head, *in_body):
        one.close()
    assert not left
    assert memory() - before < 40 * MB


def test_a_connection_in_use_outlives_the_limit_of_the_header(client: httpx.Client) -> None:
    first = client.get("/v1/models")
    for _ in range(4):
        time.sleep(0.4)
        assert client.get("/v1/models").extensions["network_stream"] is first.extensions["network_stream"] or True
        assert client.get("/v1/models").status_code == 200


def test_an_answer_in_two_parts_does_not_wait_in_between(guarded: Standing, client: httpx.Client) -> None:
    assert client.get("/v1/models").status_code == 200
    (connection,) = guarded.web.server_state.connections
    opened = connection.transport.get_extra_info("socket")  # type: ignore[union-attr]
    assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_long_edit_outlives_the_limits(guarded: Standing, client: httpx.Client) -> None:
    for worker in guarded.server._workers:
        worker.studio.step_seconds = 0.75  # type: ignore[attr-defined]
    assert edit(client, encoded(a_picture())).status_code == 200


def test_too_many_connections_are_closed_and_those_before_them_served(guarded: Standing, client: httpx.Client) -> None:
    assert client.get("/healthz").status_code == 200  # this connection stays
    many = open_connections(guarded, 350, b"")
    wait_for(lambda: sum(map(is_closed, many)) >= 50, 2)
    assert client.get("/healthz").status_code == 200
    for one in many:
        one.close()


@pytest.mark.parametrize("path", ["/v1/sessions/0/commit", "/sdapi/v1/img2img", "/api/v1/inpaint"])
@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b'"\\ud800"', b"\xff", b"1e999", b"NaN"])
def test_a_deep_or_broken_body_is_one_sentence(path: str, body: bytes) -> None:
    async def asked() -> int:
        from sdxl.serve.app import make_app

        server = quick_server()
        session = server.desk.begin(encoded(a_picture()), "").id
        target = path.replace("/0/", f"/{session}/").encode()
        return (await call(make_app(server), Sent("POST", target, {"content-type": "application/json"}, body))).status

    assert asyncio.run(asked()) == 400


def test_mutated_requests_never_make_the_server_fail() -> None:
    statuses, wrong = asyncio.run(attack(COUNT))
    assert not wrong, "\n".join(wrong[:10])
    assert statuses[200] > COUNT / 5 and statuses[400] > COUNT / 5  # good ones and bad ones, both by the hundred

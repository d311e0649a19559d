"""The guard: keys, and the size and the time of what is sent."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterable
from typing import Any

import pytest

from sdxl.serve.front.guard import Guard, key_of

KEYS = ("right-key", "other-key")


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the key and the number of bytes that came."""
    size, more = 0, scope["type"] == "http"
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{scope['state']['key']} {size}".encode()})


def asked(
    headers: dict[str, str] | None = None,
    body: Iterable[bytes] = (b"",),
    path: str = "/v1/models",
    kind: str = "http",
    **values: Any,
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the guard's answer; a body of None parts never ends."""
    parts = [*body]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not parts:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts) or values.get("stalls", False)}

    async def send(message: Any) -> None:
        sent.append(message)

    guard = Guard(echo, keys=values.get("keys", KEYS), most_bytes=100, seconds=0.05)
    lines = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    asyncio.run(guard({"type": kind, "path": path, "headers": lines}, receive, send))
    if kind == "websocket":
        return sent[0].get("code", 0), {}, sent[0]["type"].encode()
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, b"".join(message.get("body", b"") for message in sent)


def basic(text: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


RIGHT = {
    "bearer": {"Authorization": "Bearer right-key"},
    "small letters": {"Authorization": "bearer right-key"},
    "basic": basic("anyone:right-key"),
    "basic, as the name": basic("right-key:"),
    "cookie": {"Cookie": "a=b; sige-key=right-key"},
}
WRONG = {
    "nothing": {},
    "another": {"Authorization": "Bearer wrong"},
    "a part": {"Authorization": "Bearer right"},
    "empty": {"Authorization": "Bearer "},
    "no base64": {"Authorization": "Basic ???"},
    "no UTF-8": {"Authorization": "Basic //79/Q=="},
    "no ASCII": {"Authorization": "Bearer right-key\xff"},
    "another scheme": {"Authorization": "Digest right-key"},
    "a broken cookie": {"Cookie": 'sige-key="\\'},
}


@pytest.mark.parametrize("how", RIGHT)
def test_a_key_may_come_in_each_way(how: str) -> None:
    assert asked(RIGHT[how]) == (200, {}, b"right-key 0")


@pytest.mark.parametrize("how", WRONG)
def test_anything_else_is_refused(how: str) -> None:
    status, headers, body = asked(WRONG[how])
    assert status == 401 and headers["www-authenticate"].startswith("Basic")
    assert json.loads(body)["error"]["code"] == "invalid_api_key" and b"right-key" not in body


def test_without_keys_nobody_is_asked() -> None:
    assert asked(keys=()) == (200, {}, b" 0")
    assert asked(WRONG["another"], keys=()) == (200, {}, b" 0")


def test_only_the_health_needs_no_key() -> None:
    assert asked(path="/healthz")[0] == 200
    for path in ("/metrics", "/healthz/", "//healthz", "/socket.io/", "/sdapi/v1/options"):
        assert asked(path=path)[0] == 401


def test_a_websocket_is_closed() -> None:
    assert asked(kind="websocket", path="/socket.io/") == (1008, {}, b"websocket.close")


@pytest.mark.parametrize("path", ["/v1/models", "/sdapi/v1/img2img", "/api/v1/inpaint"])
def test_the_error_has_the_form_of_the_path(path: str) -> None:
    said = json.loads(asked(path=path)[2])
    assert isinstance(said["error"], dict) if path == "/v1/models" else "there is no key" in said["errors"]


def test_a_body_is_counted_whatever_its_header_says() -> None:
    assert asked(RIGHT["bearer"], [b"x" * 50, b"x" * 50]) == (200, {}, b"right-key 100")
    for headers in ({}, {"Content-Length": "3"}):
        status, _, body = asked(RIGHT["bearer"] | headers, [b"x" * 50, b"x" * 50, b"x"])
        assert status == 413 and "larger than 100 bytes" in json.loads(body)["error"]["message"]


def test_a_header_that_says_too_much_is_believed() -> None:
    for size in ("101", "1000000000", "9" * 5000):
        assert asked(RIGHT["bearer"] | {"Content-Length": size})[0] == 413
    assert asked(RIGHT["bearer"] | {"Content-Length": "-1"})[0] == 400


def test_a_body_that_stops_is_not_waited_for() -> None:
    status, headers, body = asked(RIGHT["bearer"], [b"x"], stalls=True)
    assert status == 408 and headers["connection"] == "close" and b"nothing came for 0.05 s" in body


def test_a_body_that_trickles_is_not_waited_for() -> None:
    """Each byte comes in time, all of them never do."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    guard = Guard(echo, most_bytes=1_000_000, seconds=0.2)
    began = time.monotonic()
    asyncio.run(guard({"type": "http", "path": "/v1/models", "headers": []}, receive, send))
    assert sent[0]["status"] == 408 and 0.15 < time.monotonic() - began < 2


def test_all_bodies_together_have_a_limit_too() -> None:
    """Bodies count until their request is answered; a refused one does not count."""
    guard = Guard(echo, most_bytes=100)
    statuses = []

    async def ask(held: asyncio.Event, size: int) -> None:
        parts = [b"x" * size, b""]

        async def receive() -> dict[str, Any]:
            if len(parts) == 1:
                await held.wait()
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        async def send(message: Any) -> None:
            statuses.append(message.get("status"))

        await guard({"type": "http", "path": "/v1/models", "headers": []}, receive, send)

    async def several() -> None:
        open_ = asyncio.Event()
        first = [asyncio.create_task(ask(open_, 100)) for _ in range(10)]
        await asyncio.sleep(0.05)
        assert guard.held.now == 1000
        await ask(open_, 1)
        assert statuses[0] == 503
        open_.set()
        await asyncio.gather(*first)
        assert guard.held.now == 0 and statuses.count(200) == 10
        await ask(open_, 1)
        assert statuses.count(200) == 11

    asyncio.run(several())


def test_the_key_of_basic_auth_may_hold_colons() -> None:
    assert key_of({b"authorization": basic("a:b:c")["Authorization"].encode()}) == "b:c"

"""The guard in front of the app: keys, and the size and the time of what is sent. Nothing is read twice.

request ─▶ key right? else 401 ─▶ body counted as it arrives, 413, 503 ─▶ it arrives in time, 408 ─▶ the app
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from time import monotonic
from typing import Any

from sdxl.serve.errors import ApiError, content_of

__all__ = ["COOKIE", "Guard", "key_of"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

COOKIE = "sige-key"
SLOWEST = 10_000  # bytes a second of a body, once the time for its first part is over
AT_ONCE = 10  # of the largest bodies: what all requests together may hold
OPEN = ("/healthz", "/")  # need no key: they say nothing but that the server is there
OPEN_UNDER = "/editor/"  # the editor's files, which ask for the key


class Guard:
    """An ASGI app in front of another."""

    def __init__(self, app: App, *, keys: tuple[str, ...] = (), most_bytes: int, seconds: float = 60.0) -> None:
        self.app, self.keys, self.most_bytes, self.seconds = app, keys, most_bytes, seconds
        self.held = Held(AT_ONCE * most_bytes)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope.get("headers", ())}
        state = scope.setdefault("state", {})
        try:
            state["key"] = self._checked(scope["path"], headers)
            self._check_length(headers.get(b"content-length", b"0"))
        except ApiError as error:
            await refuse(scope, send, error)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(receive, send, self.most_bytes, self.seconds, self.held)
        try:
            await self.app(scope, body.receive, body.send)
        except ApiError as error:
            if body.answered:
                raise
            await refuse(scope, send, error)
        finally:
            body.release()

    def _checked(self, path: str, headers: dict[bytes, bytes]) -> str:
        """The client's key; the empty one where the server asks for none."""
        given = key_of(headers)
        if not self.keys:
            return ""
        for key in self.keys:
            if given is not None and hmac.compare_digest(given.encode(), key.encode()):
                return key
        if path in OPEN or path.startswith(OPEN_UNDER):
            return ""
        said = "the key is wrong" if given else "there is no key"
        scheme = "Bearer" if b"x-requested-with" in headers else "Basic"  # browsers ask for Basic in a dialog of theirs
        challenge = {"WWW-Authenticate": f'{scheme} realm="sige", charset="UTF-8"'}
        message = f"{said}: send `Authorization: Bearer KEY` with a key that this server was started with"
        raise ApiError(401, message, "invalid_api_key", headers=challenge)

    def _check_length(self, said: bytes) -> None:
        if not said.isdigit():
            raise ApiError(400, "content-length: expected a number of bytes", "invalid_value")
        if len(said) > 15 or int(said) > self.most_bytes:
            raise too_large(self.most_bytes)


def key_of(headers: dict[bytes, bytes]) -> str | None:
    """The key that a request carries: Bearer, Basic (as its password, or as its name) or a cookie.

    >>> key_of({b"authorization": b"Bearer abc"}), key_of({b"cookie": b"sige-key=abc"}), key_of({})
    ('abc', 'abc', None)
    """
    scheme, _, rest = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            name, _, password = base64.b64decode(rest, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            return ""
        return password or name
    try:
        cookies = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
    except CookieError:
        return None
    return cookies[COOKIE].value if COOKIE in cookies else None


def too_large(most: int) -> ApiError:
    """The error of a body that is too large."""
    return ApiError(413, f"the request is larger than {most:,} bytes: send smaller pictures", "request_too_large")


@dataclass
class Held:
    """Bytes of the bodies of all requests that are not answered yet."""

    most: int
    now: int = 0

    def add(self, count: int) -> None:
        """Counts bytes that have arrived; refuses them where there are too many."""
        if self.now + count > self.most:
            message = "other requests fill the server's memory: try again in 5 s"
            raise ApiError(503, message, "busy", headers={"Retry-After": "5", "Connection": "close"})
        self.now += count


class _Body:
    """The messages of one request, counted and timed on their way to the app."""

    def __init__(self, receive: Receive, send: Send, most: int, seconds: float, held: Held) -> None:
        self._receive, self._send = receive, send
        self._most, self._seconds, self._held = most, seconds, held
        self._begun, self._bytes, self._whole = monotonic(), 0, False
        self.answered = False

    async def receive(self) -> Message:
        if self._whole:  # from here on only a disconnect can come
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._seconds_left())
        except TimeoutError:
            message_text = f"the body came too slowly, or nothing came for {self._seconds:g} s: send the request again"
            raise ApiError(408, message_text, "request_timeout", headers={"Connection": "close"}) from None
        if message["type"] == "http.request":
            count = len(message.get("body", b""))
            self._held.add(count)
            self._bytes += count
            self._whole = not message.get("more_body", False)
            if self._bytes > self._most:
                raise too_large(self._most)
        return message

    def _seconds_left(self) -> float:
        """Until the next part must be here: none comes for long, or they come too slowly."""
        late = self._begun + self._seconds + self._bytes / SLOWEST
        return max(min(self._seconds, late - monotonic()), 0.01)  # what is there already is read

    def release(self) -> None:
        """The request is over, and its body is gone."""
        self._held.now -= self._bytes
        self._bytes = 0

    async def send(self, message: Message) -> None:
        self.answered = True
        await self._send(message)


async def refuse(scope: MutableMapping[str, Any], send: Send, error: ApiError) -> None:
    """Answers with the error; a websocket is closed."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": error.message[:100]})
        return
    body = json.dumps(content_of(error, scope["path"])).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

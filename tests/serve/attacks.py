"""Mutated requests: good ones of every adapter, with faults in path, headers, fields and bytes, by a seed.

    python -m tests.serve.attacks [COUNT] [SEED]

Requests go to the app in this process, with real parsing, and with edits that cost nothing.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import random
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from sdxl.serve.app import make_app
from sdxl.serve.uploads import encoded
from tests.serve.standing import a_mask, a_picture, clear_mask, quick_server, white_mask

BOUNDARY = "a-boundary"
SMALL = (16, 24)  # of the pictures
ODD: list[Any] = [
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, [], {}, [[]], [None], {"a": {"b": []}}, ["x"] * 50),
    *("", "x", "nan", "1e999", "\u0000", "\U0001f40e", "é" * 500, "(red:1.3)", "(" * 300),
    *("../../etc/passwd", "http://127.0.0.1/a.png", "file:///etc/passwd", "data:image/png;base64,", "data:,"),
]
RAW = [b"NaN", b"Infinity", b"1e999", b'"\\ud800"', b"[" * 5000, b'{"a":' * 500, b"\xff\xfe", b"-", b"01"]
TYPES = ["", "text/plain", "application/json", "application/x-www-form-urlencoded", "multipart/form-data",
         "multipart/form-data; boundary=", f"multipart/form-data; boundary={BOUNDARY}; charset=none-such",
         f'multipart/form-data; boundary="{"b" * 300}"', "multipart/form-data; boundary=\xff",
         "a/b; " + "c=d; " * 200]  # fmt: skip
HEADERS = {
    "content-length": ["0", "-1", "x", "99999999999999999999", "1e3", ""],
    "authorization": ["Basic", "Basic ====", "Bearer", "Bearer \xff", "Basic " + "A" * 5000, "Digest a"],
    "cookie": ["sige-key", 'sige-key="\\', "=;=;", "a" * 5000, "sige-key=\xff"],
    "accept": ["", "*", "text/event-stream"],
    "origin": ["null", "http://evil.example"],
    "host": ["", "a b", "\xff"],
    "range": ["bytes=0-", "bytes=-1-"],
}
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "X"]
PATHS = [b"/", b"//", b"/%00", b"/%ff", b"/..%2f..%2fetc%2fpasswd", b"/v1/sessions/%2e%2e/edits", b"/" + b"a" * 5000]


@dataclass
class Sent:
    """A request as the server gets it."""

    method: str
    path: bytes
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    fields: dict[str, Any] | None = None  # of a JSON body
    parts: list[tuple[str, Any]] | None = None  # of a form: texts, or bytes of files


@dataclass
class Answer:
    """What came back."""

    status: int
    body: bytes


async def call(app: Any, sent: Sent) -> Answer:
    """The app's answer."""
    answer, over, given = Answer(0, b""), asyncio.Event(), False
    path, _, query = sent.path.partition(b"?")

    async def receive() -> dict[str, Any]:
        nonlocal given
        if given:
            await over.wait()
            return {"type": "http.disconnect"}
        given = True
        return {"type": "http.request", "body": sent.body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
        else:
            answer.body += message.get("body", b"")
            if not message.get("more_body"):
                over.set()

    lines = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent.headers.items()]
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
             "method": sent.method, "scheme": "http", "path": unquote(path.decode("ascii", "replace")),
             "raw_path": path, "query_string": query, "root_path": "", "headers": lines,
             "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 7860), "state": {}}  # fmt: skip
    await app(scope, receive, send)
    return answer


# ---- good requests --------------------------------------------------------------------------------------------------


def good_requests(session: str) -> list[Sent]:
    """One or more of every route."""
    mask = a_mask((4, 4, 12, 12), SMALL)
    image, clear, white = (encoded(one) for one in (a_picture(size=SMALL), clear_mask(mask), white_mask(mask)))
    texts = {name: base64.b64encode(one).decode() for name, one in (("image", image), ("white", white))}
    files: list[tuple[str, Any]] = [("image", image), ("mask", clear)]
    words: list[tuple[str, Any]] = [("prompt", "a horse"), ("n", "2"), ("seed", "1"), ("steps", "2")]
    more: list[tuple[str, Any]] = [("dense_steps", "0,1"), ("mask_blur", "2"), ("guidance_scale", "3"), ("grow", "1"),
                                   ("match_edge", "4"), ("session", "page-7")]  # fmt: skip
    a1111 = {"init_images": [texts["image"]], "mask": texts["white"], "prompt": "a horse", "seed": 1, "steps": 2,
             "mask_blur": 1, "sampler_name": "Euler", "batch_size": 1, "n_iter": 1, "styles": [], "width": 512,
             "alwayson_scripts": {}, "override_settings": {}, "denoising_strength": 0.75}  # fmt: skip
    paint = {"image": texts["image"], "mask": texts["white"], "prompt": "a horse", "sd_seed": 1, "sd_steps": 2,
             "sd_mask_blur": 1, "use_croper": True, "croper_x": 4, "sd_strength": 1.0, "sd_sampler": "x"}  # fmt: skip
    one = f"/v1/sessions/{session}".encode()
    posts = [
        Sent("POST", b"/v1/images/edits", parts=[*files, *words, *more]),
        Sent("POST", b"/v1/images/edits", parts=[*files, *words, ("stream", "true"), ("partial_images", "2")]),
        Sent("POST", b"/v1/sessions", parts=[("image", image)]),
        Sent("POST", one + b"/edits", parts=[("mask", clear), *words[:1], ("stream", "true")]),
        Sent("POST", one + b"/edits", parts=[("painted", encoded(a_picture(1, SMALL))), *words]),
        Sent("POST", one + b"/commit", fields={"result": "result-000000000000"}),
        Sent("POST", one + b"/discard", fields={"result": "result-000000000000"}),
        Sent("POST", one + b"/undo"),
        Sent("POST", one + b"/redo"),
        Sent("POST", one + b"/cancel"),
        Sent("POST", b"/sdapi/v1/img2img", fields=a1111),
        Sent("POST", b"/sdapi/v1/img2img", fields=a1111),
        Sent("POST", b"/sdapi/v1/png-info", fields={"image": texts["image"]}),
        Sent("POST", b"/sdapi/v1/options", fields={"sd_model_checkpoint": "quick"}),
        Sent("POST", b"/sdapi/v1/interrupt"),
        Sent("POST", b"/api/v1/inpaint", fields=paint),
        Sent("POST", b"/api/v1/inpaint", fields=paint),
        Sent("POST", b"/api/v1/model", fields={"name": "quick"}),
        Sent("POST", b"/api/v1/gen-info", parts=[("file", image)]),
        Sent("POST", b"/socket.io/?EIO=4&transport=polling&sid=x", body=b"40{}"),
    ]
    gets = [b"/healthz", b"/metrics", b"/v1/models", one, one + b"/history", one + b"/pictures/current",
            b"/sdapi/v1/progress?skip_current_image=true", b"/sdapi/v1/samplers", b"/api/v1/server-config",
            b"/api/v1/inputimage", b"/socket.io/?EIO=4&transport=polling"]  # fmt: skip
    return [*posts, *(Sent("GET", path) for path in gets)]


def written(sent: Sent) -> Sent:
    """The request with its fields or parts as bytes."""
    if sent.fields is not None:
        headers = {"content-type": "application/json"} | sent.headers
        return replace(sent, headers=headers, body=json.dumps(sent.fields).encode())
    if sent.parts is None:
        return sent
    lines = []
    for name, value in sent.parts:
        file = '; filename="a.png"\r\nContent-Type: image/png' if isinstance(value, bytes) else ""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        lines.append(
            head.encode("utf-8", "replace") + (value if isinstance(value, bytes) else str(value).encode()) + b"\r\n"
        )
    body = b"".join(lines) + f"--{BOUNDARY}--\r\n".encode()
    return replace(
        sent, headers={"content-type": f"multipart/form-data; boundary={BOUNDARY}"} | sent.headers, body=body
    )


# ---- faults ---------------------------------------------------------------------------------------------------------


def mutated(sent: Sent, dice: random.Random) -> Sent:
    """The request with one to three faults."""
    sent = replace(
        sent, headers=dict(sent.headers), fields=None if sent.fields is None else dict(sent.fields),
        parts=None if sent.parts is None else list(sent.parts),
    )  # fmt: skip
    later = []
    for _ in range(dice.randint(1, 3)):
        fault = dice.choice((_in_values, _in_values, _in_values, _in_bytes, _in_bytes, _in_headers, _in_path))
        if fault is _in_bytes:
            later.append(fault)
        else:
            fault(sent, dice)
    sent = written(sent)
    for fault in later:
        fault(sent, dice)
    return sent


def _in_values(sent: Sent, dice: random.Random) -> None:
    """A field has an odd value, is missing, is there twice, or has another name."""
    if sent.fields:
        name = dice.choice(list(sent.fields))
        what = dice.random()
        value = sent.fields.pop(name)
        if what < 0.7:
            sent.fields[name] = dice.choice(ODD)
        elif what < 0.8 and isinstance(value, str):
            sent.fields[name] = value[: dice.randrange(len(value) + 1)]
        elif what < 0.9:
            sent.fields[dice.choice(["", "x" * 300, "mask", "scheduler", "\ud800"])] = value
    elif sent.parts:
        place = dice.randrange(len(sent.parts))
        name, value = sent.parts.pop(place)
        what = dice.random()
        odd = dice.choice(ODD)
        if what < 0.5:
            sent.parts.insert(place, (name, odd if isinstance(odd, str) else json.dumps(odd)))
        elif what < 0.7 and isinstance(value, bytes):
            sent.parts.insert(place, (name, _broken(value, dice)))
        elif what < 0.8:
            sent.parts += [(name, value)] * dice.choice((2, 70))
        elif what < 0.9:
            sent.parts.insert(place, (dice.choice(["", "image", "mask", "x" * 300, 'a"b', "é"]), value))


def _broken(content: bytes, dice: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(len(changed) + 1)
        what = dice.randrange(4)
        if what == 0:
            del changed[place:]
        elif what == 1:
            changed[place:place] = dice.choice(RAW)
        elif what == 2:
            del changed[place : place + dice.randint(1, 50)]
        elif place < len(changed):
            changed[place] = dice.randrange(256)
    return bytes(changed)


def _in_bytes(sent: Sent, dice: random.Random) -> None:
    sent.body = dice.choice(RAW) if dice.random() < 0.1 else _broken(sent.body, dice)


def _in_headers(sent: Sent, dice: random.Random) -> None:
    if dice.random() < 0.4:
        sent.headers["content-type"] = dice.choice(TYPES)
    else:
        name = dice.choice(list(HEADERS))
        sent.headers[name] = dice.choice(HEADERS[name])


def _in_path(sent: Sent, dice: random.Random) -> None:
    what = dice.random()
    if what < 0.3:
        sent.method = dice.choice(METHODS)
    elif what < 0.5:
        sent.path = dice.choice(PATHS)
    elif what < 0.7:
        sent.path += dice.choice([b"/", b"?a=%ff", b"?skip_current_image=x", b"&EIO=3", b"%2f", b"/" + b"x" * 300])
    else:
        place = dice.randrange(len(sent.path))
        sent.path = b"/" + sent.path[1:place] + b"%" + bytes([dice.choice(b"0a2f")]) + sent.path[place:]


# ---- the run --------------------------------------------------------------------------------------------------------


class Traces(logging.Handler):
    """Keeps what the server logs with a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or "Traceback" in record.getMessage():
            self.found.append(record.getMessage())


async def attack(count: int, seed: int = 0) -> tuple[Counter[int], list[str]]:
    """The statuses of so many mutated requests, and what was wrong: a 500, a traceback, an error without a sentence."""
    dice, statuses, wrong = random.Random(seed), Counter[int](), []
    server, traces = quick_server(), Traces()
    app = make_app(server)
    logging.getLogger().addHandler(traces)
    server.start()
    try:
        begin = next(one for one in good_requests("x") if one.path == b"/v1/sessions")
        session = ""
        for number in range(count):
            if not session or not (server.desk.folder / session).is_dir():
                session = json.loads((await call(app, written(begin))).body)["id"]
            sent = mutated(dice.choice(good_requests(session)), dice)
            told = f"{number}: {sent.method} {sent.path[:80]!r} {str(sent.headers)[:200]} {sent.body[-300:]!r}"
            try:
                answer = await asyncio.wait_for(call(app, sent), 20)
            except Exception as error:
                wrong.append(f"{error!r} of {told}")
                continue
            statuses[answer.status] += 1
            if answer.status >= 500 or not answer.status or not _is_sentence(sent, answer) or traces.found:
                wrong.append(f"{answer.status} {answer.body[:200]!r} {traces.found} of {told}")
                traces.found.clear()
    finally:
        server.stop()
        logging.getLogger().removeHandler(traces)
    return statuses, wrong


def _is_sentence(sent: Sent, answer: Answer) -> bool:
    """Says whether an error is told in one line of its adapter's form. Sockets have a form of their own."""
    if answer.status < 400 or sent.method == "HEAD" or sent.path.startswith(b"/socket.io"):
        return True
    try:
        said = json.loads(answer.body)
    except ValueError:
        return False
    message = said["error"]["message"] if isinstance(said["error"], dict) else said["errors"]
    return 0 < len(message) <= 600 and "\n" not in message and "Traceback" not in message


if __name__ == "__main__":
    found, faults = asyncio.run(attack(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, *map(int, sys.argv[2:3])))
    print(dict(found.most_common()), *faults[:20], f"{len(faults)} wrong", sep="\n")
    sys.exit(bool(faults))

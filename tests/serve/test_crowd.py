"""A crowd: 64 clients of four APIs at once. Each gets its own edit, or is told to come again."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
from PIL import Image, ImageOps

from sdxl.pictures.masks import composite
from sdxl.serve.uploads import encoded
from tests.serve.standing import KEYS, Standing, a_picture, clear_mask, quick_server, standing, wait_for, white_mask

CLIENTS = 64
SECONDS = float(os.environ.get("SIGE_CROWD_SECONDS", "10"))
SIZE = (32, 32)  # of the pictures


class Member:
    """A client with a picture and a mask of its own, that asks by one of the APIs again and again."""

    def __init__(self, number: int, address: str) -> None:
        random = np.random.default_rng(number)
        self.image = a_picture(number, SIZE)
        self.mask = random.random(SIZE) < 0.3  # [H, W]
        self.expected = composite(self.image, ImageOps.invert(self.image), self.mask.astype(np.float32)).tobytes()
        self.statuses: Counter[int] = Counter()
        self.wrong = 0
        self.waits: list[float] = []
        headers = {"Authorization": f"Bearer {KEYS[number % len(KEYS)]}"}
        self.http = httpx.AsyncClient(base_url=address, headers=headers, timeout=30)
        ways = (self.openai, self.stream, self.a1111, self.iopaint, self.session)
        self.ask: Callable[[], Awaitable[tuple[int, bytes]]] = ways[number % len(ways)]

    async def live(self, until: float) -> None:
        """Asks until the time is over."""
        async with self.http:
            while time.monotonic() < until:
                began = time.monotonic()
                status, content = await self.ask()
                self.statuses[status] += 1
                if status == 429:
                    await asyncio.sleep(0.2)
                    continue
                self.waits.append(time.monotonic() - began)
                right = status == 200 and Image.open(io.BytesIO(content)).convert("RGB").tobytes() == self.expected
                self.wrong += not right

    @property
    def files(self) -> dict[str, bytes]:
        return {"image": encoded(self.image), "mask": encoded(clear_mask(self.mask))}

    @property
    def texts(self) -> dict[str, str]:
        pictures = {"image": self.image, "mask": white_mask(self.mask)}
        return {name: base64.b64encode(encoded(one)).decode() for name, one in pictures.items()}

    async def openai(self) -> tuple[int, bytes]:
        answer = await self.http.post("/v1/images/edits", files=self.files, data={"prompt": "x"})
        return answer.status_code, b"" if answer.is_error else base64.b64decode(answer.json()["data"][0]["b64_json"])

    async def stream(self) -> tuple[int, bytes]:
        values = {"prompt": "x", "stream": "true", "partial_images": "1"}
        answer = await self.http.post("/v1/images/edits", files=self.files, data=values)
        if answer.is_error:
            return answer.status_code, b""
        last = answer.text.strip().split("\n\n")[-1]
        return 200, base64.b64decode(json.loads(last.partition("data: ")[2])["b64_json"])

    async def a1111(self) -> tuple[int, bytes]:
        body: dict[str, Any] = {"init_images": [self.texts["image"]], "mask": self.texts["mask"], "mask_blur": 0}
        answer = await self.http.post("/sdapi/v1/img2img", json=body | {"inpaint_full_res": False})
        return answer.status_code, b"" if answer.is_error else base64.b64decode(answer.json()["images"][0])

    async def iopaint(self) -> tuple[int, bytes]:
        answer = await self.http.post("/api/v1/inpaint", json=self.texts | {"sd_mask_blur": 0})
        return answer.status_code, answer.content

    async def session(self) -> tuple[int, bytes]:
        begun = await self.http.post("/v1/sessions", files={"image": self.files["image"]})
        if begun.is_error:
            return begun.status_code, b""
        path = f"/v1/sessions/{begun.json()['id']}"
        answer = await self.http.post(f"{path}/edits", files={"mask": self.files["mask"]}, data={"prompt": "x"})
        await self.http.delete(path)
        return answer.status_code, b"" if answer.is_error else base64.b64decode(answer.json()["results"][0]["b64_json"])


async def crowd(one: Standing, seconds: float) -> list[Member]:
    """All clients at once, for so many seconds."""
    members = [Member(number, one.address) for number in range(CLIENTS)]
    until = time.monotonic() + seconds
    await asyncio.gather(*(member.live(until) for member in members))
    return members


def test_everybody_is_answered_with_their_own_edit_or_told_to_come_again() -> None:
    with standing(quick_server(step_seconds=0.002, most_waiting=24, most_waiting_of_key=16), KEYS) as one:
        members = asyncio.run(crowd(one, SECONDS))
        wait_for(lambda: not one.server.queue.running)
        total = sum((member.statuses for member in members), Counter())
        waits = sorted(wait for member in members for wait in member.waits)
        print(f"{dict(total)} in {SECONDS:g} s; median {waits[len(waits) // 2]:.2f} s, longest {waits[-1]:.2f} s")
        assert not sum(member.wrong for member in members)
        assert set(total) == {200, 429}
        by_way = Counter(member.ask.__name__ for member in members if member.statuses[200])
        assert min(by_way[way] for way in ("openai", "stream", "a1111", "iopaint", "session")) > 0
        assert not len(one.server.queue) and not len(one.server.desk)

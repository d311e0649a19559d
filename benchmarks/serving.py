"""The server as its clients meet it: a process of its own with the embedded model, asked over HTTP.

    python -m benchmarks.serving {strokes,rate,memory} [--count N] [--json OUT]

strokes  seconds from a stroke's request to its picture, medians of --count (20), the ways in turn:
         dense      every pass dense, without a session
         temporal   an edit without a session, as OpenAI's clients ask for one
         session    another edit of the same place of a session, with another prompt
         live       the same as a live edit, which takes the place of one that runs
         `overhead` is what HTTP, pictures and the queue add to the worker's own seconds
rate     requests a second of 8 clients at once, for --count (30) seconds each, by the number of workers
memory   the server's memory and its recordings during --count (500) edits in 20 sessions, under a budget

Needs `pip install '.[dev]'`, and Linux for `memory`.
"""

from __future__ import annotations

import argparse
import io
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image, ImageDraw

from benchmarks.harness import Row, machine, print_table, write_json
from sdxl.scenes.draw import draw
from sdxl.scenes.numbered import HELD_OUT, scene_at
from sdxl.scenes.scene import COLOURS, THINGS

SIDE = 256
COUNTS = {"strokes": 20, "rate": 30, "memory": 500}
CLIENTS, SESSIONS = 8, 20
STEPS = 10  # of an edit in `rate` and `memory`; `strokes` takes the server's own 30
BUDGET = 300_000_000  # bytes of recordings, in `memory`
REPORTS = 5  # rows of `memory` after the first
STARTED = 0.15  # seconds after which a live edit has begun


Timed = tuple[float, dict[str, Any]]  # seconds at the client, and what the server says of the picture


@dataclass(frozen=True)
class Asked:
    """The files and the words of one edit."""

    picture: bytes
    mask: bytes
    prompt: str


@contextmanager
def serving(*flags: str) -> Iterator[tuple[httpx.Client, int]]:
    """A client of a new server, and the server's process number; the server has painted once."""
    command = [sys.executable, "-m", "sdxl.serve", "--model", "embedded", "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            with httpx.Client(base_url=_address(process), timeout=600) as client:
                client.post("/v1/images/edits", **form(asked(0), steps=2)).raise_for_status()
                yield client, process.pid
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"ready at (http://\S+)", line):
            return found[1]
    raise SystemExit("the server did not start: try `python -m sdxl.serve --model embedded`")


def asked(number: int, place: int = 0) -> Asked:
    """The edit of that number: prompts differ from edit to edit, a place is always the same stroke."""
    rng = np.random.default_rng([21, place])
    x, y = rng.uniform(70, 186, 2)
    stroke = Image.new("RGBA", (SIDE, SIDE), "black")
    ImageDraw.Draw(stroke).ellipse((x - 46, y - 46, x + 46, y + 46), fill=(0, 0, 0, 0))  # a tenth of the picture
    prompt = f"a {list(COLOURS)[number % len(COLOURS)]} {list(THINGS)[number % len(THINGS)]}"
    return Asked(png(draw(scene_at(HELD_OUT + 4000 + place), SIDE)), png(stroke), prompt)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def form(edit: Asked, with_picture: bool = True, **fields: Any) -> dict[str, Any]:
    """The arguments of httpx for a form."""
    files = {"mask": ("mask.png", edit.mask, "image/png")}
    if with_picture:
        files["image"] = ("picture.png", edit.picture, "image/png")
    return {"files": files, "data": {"prompt": edit.prompt, **{name: str(value) for name, value in fields.items()}}}


class Session:
    """A session of the server."""

    def __init__(self, client: httpx.Client, picture: bytes) -> None:
        self.client = client
        answer = client.post("/v1/sessions", files={"image": ("picture.png", picture, "image/png")})
        self.path = f"/v1/sessions/{answer.raise_for_status().json()['id']}"

    def edit(self, edit: Asked, **fields: Any) -> dict[str, Any]:
        """The staged result."""
        answer = self.client.post(f"{self.path}/edits", **form(edit, with_picture=False, **fields))
        result: dict[str, Any] = answer.raise_for_status().json()["results"][0]
        return result

    def commit(self, result: dict[str, Any]) -> None:
        """Accepts a result."""
        self.client.post(f"{self.path}/commit", json={"result": result["id"]}).raise_for_status()

    def timed(self, edit: Asked, **fields: Any) -> Timed:
        """The seconds of an edit, and its result."""
        begin = time.perf_counter()
        result = self.edit(edit, **fields)
        return time.perf_counter() - begin, result

    def live(self, edit: Asked) -> Timed:
        """The seconds of a live edit that takes the place of another, and its result."""
        older = form(asked(0), with_picture=False, live=True)
        thread = threading.Thread(target=lambda: self.client.post(f"{self.path}/edits", **older))
        thread.start()
        time.sleep(STARTED)
        timed = self.timed(edit, live=True)
        thread.join()
        return timed


def alone(client: httpx.Client, edit: Asked, dense: bool) -> Timed:
    """The seconds of an edit without a session, and what it cost."""
    begin = time.perf_counter()
    answer = client.post("/v1/images/edits", **form(edit, dense=dense)).raise_for_status()
    return time.perf_counter() - begin, answer.json()["usage"]["edits"][0]


def strokes(count: int) -> list[Row]:
    """From the stroke to the picture."""
    with serving() as (client, _):
        session = Session(client, asked(0).picture)
        session.commit(session.edit(asked(0)))  # the first edit of the place makes the recordings
        ways: dict[str, Callable[[Asked], Timed]] = {
            "dense": partial(alone, client, dense=True),
            "temporal": partial(alone, client, dense=False),
            "session": session.timed,
            "live": session.live,
        }
        taken: dict[str, list[Timed]] = {name: [] for name in ways}
        for number in range(1, count + 1):
            for name, ask in ways.items():
                taken[name].append(ask(asked(number)))
    dense = statistics.median(seconds for seconds, _ in taken["dense"])
    return [_stroke_row(name, results, dense) for name, results in taken.items()]


def _stroke_row(name: str, results: Sequence[Timed], dense: float) -> Row:
    seconds = statistics.median(seconds for seconds, _ in results)
    added = statistics.median(seconds - said["seconds"] for seconds, said in results)
    row: Row = {"way": name, "count": len(results), "s": seconds, "times as fast as dense": dense / seconds}
    return row | {
        "slowest s": max(seconds for seconds, _ in results),
        "overhead ms": None if name == "live" else 1e3 * added,  # a live edit waits for the step that runs
        "dense passes": statistics.median(said["passes"].get("dense", 0) for _, said in results),
    }


def rate(count: int) -> list[Row]:
    """Requests a second."""
    rows = []
    for workers in (1, 2):
        with serving("--workers", str(workers)) as (client, _):
            for number in range(2 * workers):  # every worker has painted
                client.post("/v1/images/edits", **form(asked(number), steps=STEPS))
            rows.append({"workers": workers, "clients": CLIENTS, **_rate_of(client, count)})
    return rows


def _rate_of(client: httpx.Client, seconds: float) -> Row:
    begin = time.perf_counter()
    until = begin + seconds
    waits: list[float] = []
    refused: list[float] = []

    def ask(first: int) -> None:
        number = first
        while time.perf_counter() < until:
            sent = time.perf_counter()
            answer = client.post("/v1/images/edits", **form(asked(number, place=first), steps=STEPS))
            (waits if answer.status_code == 200 else refused).append(time.perf_counter() - sent)
            number += CLIENTS

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answered = len(waits) / (time.perf_counter() - begin)
    return {"requests a second": answered, "median s": statistics.median(waits), "refused": len(refused)}


def memory(count: int) -> list[Row]:
    """The memory of a server with many sessions."""
    with serving("--budget", str(BUDGET)) as (client, process):
        sessions = [Session(client, asked(0, place).picture) for place in range(SESSIONS)]
        rows = [_memory_row(client, process, 0)]
        for number in range(count):
            place = number % SESSIONS
            sessions[place].commit(sessions[place].edit(asked(number, place), steps=STEPS))
            if (number + 1) % max(count // REPORTS, 1) == 0:
                rows.append(_memory_row(client, process, number + 1))
    return rows


def _memory_row(client: httpx.Client, process: int, edits: int) -> Row:
    status = Path(f"/proc/{process}/status").read_text()
    resident = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]
    gauges = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[:1] != "#")
    recordings = float(gauges["sige_recordings_bytes"])
    return {"edits": edits, "resident MB": resident / 1e6, "recordings MB": recordings / 1e6, "budget MB": BUDGET / 1e6}


TABLES = {"strokes": strokes, "rate": rate, "memory": memory}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("table", choices=TABLES, help="which table to make")
    parser.add_argument("--count", type=int, help="edits, or seconds in the table rate")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write figures, machine and settings to OUT")
    options = parser.parse_args(arguments)
    count = COUNTS[options.table] if options.count is None else options.count
    if count < 1:
        parser.error("--count must be at least 1")
    rows = TABLES[options.table](count)
    print_table(rows)
    if options.json:
        settings = {"table": options.table, "count": count, "side": SIDE}
        write_json(options.json, {"machine": machine(), "settings": settings, "rows": rows})


if __name__ == "__main__":
    main()

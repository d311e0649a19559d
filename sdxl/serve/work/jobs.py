"""Job: the work of one HTTP request, on its way from the queue through a worker; what happens to it are events.

handler ─ Job ─▶ queue ─▶ worker's thread: work(studio, job) ─ tell(event) ─▶ handler, by `follow`
        ◀─────────────────────── cancel() ──────────────────── on_step returns False
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from sdxl.edits.result import Result
    from sdxl.edits.steps import Step

__all__ = [
    "Ended",
    "Event",
    "Failed",
    "Job",
    "Made",
    "Partial",
    "Queued",
    "Started",
    "Stepped",
    "Work",
    "partial_steps",
]

ALL = -1  # of `partials`: a preview after every step, of which the newest is kept
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Queued:
    """The job waits; others are before it."""

    before: int


@dataclass(frozen=True)
class Started:
    """A worker has taken the job."""


@dataclass(frozen=True)
class Stepped:
    """A step of one of the job's pictures has been taken."""

    number: int  # from 1, over all pictures of the job
    steps: int  # of all pictures


@dataclass(frozen=True, eq=False)
class Partial:
    """A preview of the picture that is being made."""

    index: int  # from 0, of its picture's previews
    image: Image.Image


@dataclass(frozen=True, eq=False)
class Made:
    """A picture of the job is finished."""

    number: int  # from 0
    result: Result
    seed: int
    about: Any = None  # what else the work says of it


@dataclass(frozen=True)
class Ended:
    """The job has ended: with all its pictures, or early because somebody cancelled it."""

    why: str | None = None  # None: it is done


@dataclass(frozen=True, eq=False)
class Failed:
    """The job has ended with an error."""

    error: Exception


Event = Queued | Started | Stepped | Partial | Made | Ended | Failed
Work = Callable[[Any, "Job"], None]  # the worker's studio, the job: tells what it makes


def partial_steps(steps: int, count: int) -> tuple[int, ...]:
    """The steps, from 1, after which `count` previews are drawn; never the last one, after which the picture comes.

    >>> partial_steps(20, 3), partial_steps(3, 3), partial_steps(4, ALL)
    ((5, 10, 15), (1, 2), (1, 2, 3))
    """
    if count == ALL:
        return tuple(range(1, steps))
    wanted = {round(steps * (turn + 1) / (count + 1)) for turn in range(count)}
    return tuple(sorted(step for step in wanted if 0 < step < steps))


class Job:
    """Some pictures that one client has asked for. A worker's thread tells its events, handlers follow them."""

    def __init__(
        self,
        work: Work,
        *,
        key: str = "",
        session: str | None = None,
        pictures: int = 1,
        partials: int = 0,
        pixels: int,  # of the picture that it edits, which stays in memory while it waits
    ) -> None:
        self.id = f"job-{next(_numbers)}"
        self.work, self.key, self.session, self.pixels = work, key, session, pixels
        self.pictures, self.partials = pictures, partials
        self.made = 0
        self.asked_at, self.started_at, self.ended_at = monotonic(), 0.0, 0.0
        self._events: list[Event | None] = []  # None: a preview that a newer one has replaced
        self._preview: int | None = None  # the number of the newest event that is one
        self._cancelled: str | None = None
        self._lock = Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    # ---- the worker's side ------------------------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """Adds an event, and wakes those who follow."""
        now = monotonic()
        if isinstance(event, Started):
            self.started_at = now
        elif isinstance(event, (Ended, Failed)):
            self.ended_at = now
        elif isinstance(event, Made):
            self.made += 1
        with self._lock:
            if isinstance(event, Partial) and self.partials == ALL:
                self._replace_preview()
            self._events.append(event)
            waiting = list(self._waiting)
        for loop, awake in waiting:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(awake.set)

    def _replace_preview(self) -> None:
        """Forgets the preview before: a picture for each step of a large one would fill the memory."""
        if self._preview is not None:
            self._events[self._preview] = None
        self._preview = len(self._events)

    def on_step(self, step: Step) -> bool:
        """Tells a step, and a preview where one is due; False where the job was cancelled."""
        if self.is_cancelled:
            return False
        self.tell(Stepped(self.made * step.steps + step.number, self.pictures * step.steps))
        due = partial_steps(step.steps, self.partials)
        if step.number in due:
            self.tell(Partial(due.index(step.number), step.preview()))
        return True

    # ---- the handlers' side -----------------------------------------------------------------------------------------

    def cancel(self, why: str = "cancelled") -> None:
        """Ends the job after the step that runs; the first reason stays."""
        with self._lock:
            self._cancelled = self._cancelled or why

    @property
    def is_cancelled(self) -> bool:
        """Says whether somebody has cancelled the job."""
        return self._cancelled is not None

    @property
    def why(self) -> str:
        """Why it was cancelled."""
        return self._cancelled or "cancelled"

    @property
    def is_over(self) -> bool:
        """Says whether the job has ended in any way."""
        with self._lock:
            return bool(self._events) and isinstance(self._events[-1], (Ended, Failed))

    @property
    def events(self) -> list[Event]:
        """What has happened so far."""
        with self._lock:
            return [event for event in self._events if event is not None]

    async def follow(self) -> AsyncIterator[Event]:
        """Every event, from the first to the one that ends the job."""
        mark = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._waiting.add(mark)
        try:
            for number in itertools.count():
                while number >= len(self._events):
                    await mark[1].wait()
                    mark[1].clear()
                event = self._events[number]
                if event is not None:
                    yield event
                if isinstance(event, (Ended, Failed)):
                    return
        finally:
            with self._lock:
                self._waiting.discard(mark)

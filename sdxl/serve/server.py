"""The server's parts, held together: queue, workers, desk, tables, counters. The adapters know nothing else.

request ─ adapter ─▶ Asked, pictures ─▶ Job ─▶ FairQueue ─▶ Worker(Studio, Tables) ─ events ─▶ adapter ─▶ answer
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from sdxl.edits.asked import Asked, Defaults
from sdxl.edits.request import Request
from sdxl.pictures.masks import Mask
from sdxl.serve.metrics import Metrics
from sdxl.serve.sessions.desk import Desk
from sdxl.serve.sessions.history import History
from sdxl.serve.sessions.tables import Tables
from sdxl.serve.sessions.work import NamedWork, SessionWork
from sdxl.serve.work.jobs import Ended, Event, Failed, Job, Made, Work
from sdxl.serve.work.queue import FairQueue
from sdxl.serve.work.studio import Studio, paint
from sdxl.serve.work.worker import Worker

__all__ = ["POLL", "Limits", "Server", "Stopped"]

Value = TypeVar("Value")

POLL = 0.1  # seconds between two looks whether the client is still there


class Stopped(Exception):  # noqa: N818
    """The client has gone away, or somebody has cancelled its job."""


@dataclass(frozen=True)
class Limits:
    """What one client, and all together, may ask for."""

    most_bytes: int = 50_000_000  # of a request's body
    body_seconds: float = 60.0  # until the next part of a body arrives
    header_seconds: float = 30.0  # until a request's whole header has arrived
    most_connections: int = 512
    most_waiting: int = 64
    most_waiting_of_key: int = 16
    most_sessions: int = 1000
    budget: int = 8 << 30  # bytes of all sessions' recordings on one device


@dataclass
class Server:
    """Everything that a request needs. `loader()` gives each worker its own function from a task to a pipeline."""

    loader: Callable[[], Callable[[str], Any]]
    model: str  # its name, as clients write it
    scheduler: str = "ddim"  # that its pipelines paint with
    defaults: Defaults = field(default_factory=Defaults)
    limits: Limits = field(default_factory=Limits)
    workers: int = 1
    state: Path | None = None  # where sessions are kept; None: in a folder that goes with the server

    def __post_init__(self) -> None:
        limits = self.limits
        self.queue = FairQueue(limits.most_waiting, limits.most_waiting_of_key, self.workers)
        self.metrics = Metrics()
        self._own = tempfile.TemporaryDirectory(prefix="sige-serve-") if self.state is None else None
        folder = Path(self._own.name) if self._own is not None else self.state
        assert folder is not None
        self.desk = Desk(folder, limits.most_sessions)
        self.tables = [Tables(limits.budget) for _ in range(self.workers)]
        self._aside = ThreadPoolExecutor(2, "sdxl-pictures")
        self._workers = [
            Worker(Studio(self.loader(), lane), self.queue, self._ended, tables.fit)
            for lane, tables in enumerate(self.tables)
        ]

    def warm(self) -> None:
        """Loads what every worker needs for inpainting."""
        for worker in self._workers:
            worker.studio.pipe("inpainting")

    def start(self) -> None:
        """Starts the workers."""
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """Cancels what waits and runs, and waits for the workers."""
        self.queue.close()
        for worker in self._workers:
            if worker.is_alive:
                worker.join(30)
        self._aside.shutdown(wait=False, cancel_futures=True)
        if self._own is not None:
            with suppress(OSError):
                self._own.cleanup()

    @property
    def is_healthy(self) -> bool:
        """Says whether every worker lives."""
        return all(worker.is_alive for worker in self._workers)

    @property
    def gauges(self) -> dict[str, float]:
        """What the metrics say of this moment."""
        return {
            "sige_queue_jobs": len(self.queue),
            "sige_running_jobs": len(self.queue.running),
            "sige_sessions": len(self.desk),
            "sige_recordings_bytes": sum(tables.nbytes for tables in self.tables),
        }

    async def aside(self, function: Callable[..., Value], *arguments: Any) -> Value:
        """Calls a function that reads or writes pictures, which may take seconds, while others are answered."""
        return await asyncio.get_running_loop().run_in_executor(self._aside, function, *arguments)

    def _ended(self, job: Job) -> None:
        self.metrics.count(job)

    # ---- jobs -------------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> Job:
        """Puts a job into the queue; raises `QueueFullError`."""
        self.queue.put(job)
        return job

    def cancel(self, job: Job, why: str = "cancelled") -> None:
        """Ends a job: at once where it waits, after the step that runs otherwise."""
        job.cancel(why)
        if self.queue.remove(job):
            job.tell(Ended(job.why))
            self.metrics.count(job)

    async def follow(self, job: Job, is_gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[Event]:
        """The job's events. It is cancelled when the client goes away, or the handler that follows ends early."""
        watcher = asyncio.create_task(self._watch(job, is_gone))
        try:
            async for event in job.follow():
                yield event
        finally:
            watcher.cancel()
            if not job.is_over:
                self.cancel(job, "the client has gone away")

    async def pictures(self, job: Job, is_gone: Callable[[], Awaitable[bool]]) -> list[Made]:
        """The job's pictures, when all are made; raises the job's error, or `Stopped`."""
        made = []
        async for event in self.follow(job, is_gone):
            if isinstance(event, Made):
                made.append(event)
            elif isinstance(event, Failed):
                raise event.error
            elif isinstance(event, Ended) and event.why is not None:
                raise Stopped(event.why)
        return made

    async def _watch(self, job: Job, is_gone: Callable[[], Awaitable[bool]]) -> None:
        while not await is_gone():
            await asyncio.sleep(POLL)
        self.cancel(job, "the client has gone away")

    # ---- sessions ---------------------------------------------------------------------------------------------------

    def end_session(self, history: History) -> None:
        """Forgets a session: its pictures now, its recordings when its worker has time."""
        self.desk.end(history)
        for tables in self.tables:
            tables.leave(history.id)
        self.queue.forget(history.id)

    def work(self, request: Request, session: str | None = None) -> Work:
        """The work of a request: plain, or on the recordings of the session with that identity."""
        return paint(request) if session is None else NamedWork(self.tables, session, request)

    def session_work(
        self,
        history: History,
        asked: Asked,
        mask: Mask | None,  # [H, W]
        edited: Image.Image | None,
    ) -> SessionWork:
        """The work of an edit in a session: its results are staged; `about` of `Made` is (identity, picture's name)."""
        return SessionWork(self.tables, self.defaults, self.model, self.scheduler, history, asked, mask, edited)

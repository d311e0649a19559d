"""RayWorkers: a pool of workers as actors of a Ray cluster. OUT and the pictures lie where all nodes see them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event as Flag
from typing import Any

from sdxl.batch.driver import Broken, Died, Ended, Event, Ready
from sdxl.batch.ledger import Ledger
from sdxl.batch.perform import Make, Outcome, perform
from sdxl.batch.row import Row
from sige.errors import SigeError

__all__ = ["RayWorkers"]

POLL = 1.0  # seconds, so that Ctrl-C is noticed
GRACE = 120.0  # seconds that a step may take when the batch stops


class RayWorkers:
    """One actor in each lane; an actor that dies is replaced, on whichever node has room."""

    def __init__(self, ray: Any, make: Make, out: Path, *, gpus: float) -> None:
        self._ray, self._make, self._out = ray, make, out
        # Two threads: `stop` arrives while `work` runs. Restarts and retries are the driver's, which counts deaths.
        self._actor = ray.remote(
            num_cpus=1, num_gpus=gpus, max_restarts=0, max_task_retries=0, max_concurrency=2
        )(_Actor)  # fmt: skip
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, int] = {}  # what each lane was last asked, and has not answered

    def begin(self, lane: int) -> None:
        lane_of_actor = 0  # Ray gives each actor a GPU of its own, which is the first that it sees
        actor = self._actors[lane] = self._actor.remote(self._make, lane_of_actor, self._out.absolute())
        self._calls[actor.ready.remote()] = lane

    def give(self, lane: int, row: Row) -> None:
        self._calls[self._actors[lane].work.remote(row)] = lane

    def wait(self) -> Sequence[Event]:
        done, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=POLL)
        return [self._read(call, self._calls.pop(call)) for call in done]

    def _read(self, call: Any, lane: int) -> Event:
        try:
            said = self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:  # it breaks the worker, which lives on
            self._end(lane)
            return Died(lane, _first_line(error))
        except self._ray.exceptions.RayActorError as error:
            self._end(lane)
            return Died(lane, _first_line(error), blames=not getattr(error, "preempted", False))
        if said is None:
            return Ready(lane)
        return Ended(lane, said) if isinstance(said, Outcome) else Broken(said)

    def _end(self, lane: int) -> None:
        with suppress(Exception):  # an actor that cannot be reached now must not write later
            self._ray.kill(self._actors.pop(lane))

    def stop(self) -> None:
        """Lets every actor end after its step, and waits; then they are gone."""
        try:
            stops = [actor.stop.remote() for actor in self._actors.values()]
            with suppress(self._ray.exceptions.RayError):
                self._ray.wait(stops, num_returns=len(stops), timeout=POLL) if stops else None
            busy = list(self._calls)
            with suppress(self._ray.exceptions.RayError):
                self._ray.wait(busy, num_returns=len(busy), timeout=GRACE) if busy else None
        finally:
            for lane in list(self._actors):
                self._end(lane)
            self._calls.clear()


class _Actor:
    """A worker. Ray ends it when the driver is gone."""

    def __init__(self, make: Make, lane: int, out: Path) -> None:
        self._ledger = Ledger(out)
        self._stopped = Flag()
        self._wrong: str | None = None
        try:
            self._lock = self._ledger.join()
            self._work = make(lane)
        except (SigeError, OSError) as error:
            self._wrong = str(error)

    def ready(self) -> str | None:
        """None, or why it cannot begin."""
        return self._wrong

    def work(self, row: Row) -> Outcome:
        """Does one row."""
        return perform(row, self._work, self._ledger, lambda: not self._stopped.is_set())

    def stop(self) -> None:
        """Lets the row end after its step."""
        self._stopped.set()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]

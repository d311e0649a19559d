"""The queue: round robin over keys, then over a key's sessions, so that nobody waits behind one busy client."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from threading import Condition

from sdxl.serve.errors import QueueFullError
from sdxl.serve.work.jobs import Ended, Job, Queued

__all__ = ["FairQueue"]

Turns = OrderedDict[str, deque[Job]]  # of one key: its sessions in the order of their turns
SECONDS = 10.0  # of a job, before any has ended
MOST_PIXELS = 200_000_000  # of all pictures that wait: about 2 GB with their masks
MOST_LANES = 10_000  # sessions whose lane is remembered


class FairQueue:
    """Jobs that wait for a worker. Threads put and take; two jobs of one session never run at the same time.

    A session belongs to the lane, the worker, that took its first job: its recordings are there.
    """

    def __init__(self, most: int = 64, most_of_key: int = 16, lanes: int = 1, most_pixels: int = MOST_PIXELS) -> None:
        self.most, self.most_of_key, self.lanes, self.most_pixels = most, most_of_key, lanes, most_pixels
        self._waiting: OrderedDict[str, Turns] = OrderedDict()  # by key, in the order of their turns
        self._running: set[Job] = set()
        self._places: dict[Job, int] = {}  # what each job that waits was told last
        self._lane_of: OrderedDict[str, int] = OrderedDict()  # session -> lane, the one used least recently first
        self._seconds = SECONDS
        self._changed = Condition()
        self._closed = False

    def __len__(self) -> int:
        with self._changed:
            return self._count()

    def put(self, job: Job) -> None:
        """Adds a job; raises `QueueFullError` where its key, or all keys together, have too many waiting."""
        with self._changed:
            if self._closed:
                raise QueueFullError("the server stops: try again when it is back", 10)
            of_key = sum(map(len, self._waiting.get(job.key, {}).values()))
            for count, most, whose in ((of_key, self.most_of_key, "yours"), (self._count(), self.most, "all clients'")):
                if count >= most:
                    seconds = self._wait_of(count)
                    raise QueueFullError(f"{count} edits of {whose} wait already: try again in {seconds} s", seconds)
            pixels = sum(one.pixels for one in self._jobs())
            if pixels and pixels + job.pixels > self.most_pixels:
                seconds = self._wait_of(self._count())
                raise QueueFullError(f"{pixels:,} pixels wait already: try again in {seconds} s", seconds)
            turns = self._waiting.setdefault(job.key, OrderedDict())
            turns.setdefault(job.session or "", deque()).append(job)
            self._tell_places()
            self._changed.notify_all()

    def take(self, lane: int = 0, timeout: float | None = None) -> Job | None:
        """The next job of this lane; waits for one. None when the queue is closed, or after the timeout."""
        with self._changed:
            job = self._next(lane)
            while job is None and not self._closed:
                if not self._changed.wait(timeout):
                    return None
                job = self._next(lane)
            if job is not None:
                self._remove(job)
                self._places.pop(job, None)
                self._rotate(job)
                self._running.add(job)
                if job.session is not None:
                    self._remember(job.session, lane)
                self._tell_places()
            return job

    def done(self, job: Job) -> None:
        """The worker has ended the job."""
        with self._changed:
            self._running.discard(job)
            if job.started_at and job.ended_at:
                self._seconds += 0.2 * (job.ended_at - job.started_at - self._seconds)
            self._changed.notify_all()

    def remove(self, job: Job) -> bool:
        """Takes out a job that still waits; False where it does not."""
        with self._changed:
            removed = self._remove(job)
            if removed:
                self._places.pop(job, None)
                self._tell_places()
            return removed

    def of_session(self, session: str) -> list[Job]:
        """The jobs of a session that wait or run."""
        with self._changed:
            waiting = [job for turns in self._waiting.values() for job in turns.get(session, ())]
            return [*waiting, *(job for job in self._running if job.session == session)]

    def forget(self, session: str) -> None:
        """The session is over: its lane is free for others."""
        with self._changed:
            self._lane_of.pop(session, None)

    @property
    def running(self) -> list[Job]:
        """The jobs that workers hold."""
        with self._changed:
            return list(self._running)

    @property
    def is_closed(self) -> bool:
        """Says whether the workers may go."""
        with self._changed:
            return self._closed

    def close(self) -> None:
        """Lets the workers go; jobs that wait are cancelled, and have ended."""
        with self._changed:
            self._closed = True
            left = list(self._jobs())
            self._waiting.clear()
            self._places.clear()
            for job in (*left, *self._running):
                job.cancel("the server stops")
            for job in left:
                job.tell(Ended(job.why))
            self._changed.notify_all()

    # ---- with the lock held -----------------------------------------------------------------------------------------

    def _jobs(self) -> Iterator[Job]:
        """The jobs that wait, in no order that matters."""
        return (job for turns in self._waiting.values() for jobs in turns.values() for job in jobs)

    def _count(self) -> int:
        return sum(len(jobs) for turns in self._waiting.values() for jobs in turns.values())

    def _remember(self, session: str, lane: int) -> None:
        self._lane_of.setdefault(session, lane)
        self._lane_of.move_to_end(session)
        if len(self._lane_of) > MOST_LANES:
            self._lane_of.popitem(last=False)

    def _tell_places(self) -> None:
        """Tells each job that waits how many are before it, where that has changed."""
        for before, job in enumerate(self._order()):
            if self._places.get(job) != before:
                self._places[job] = before
                job.tell(Queued(before))

    def _order(self) -> list[Job]:
        """The jobs that wait, in the order in which one worker would take them."""
        keys = {key: {name: list(jobs) for name, jobs in turns.items()} for key, turns in self._waiting.items()}
        order = []
        while keys:
            for key in list(keys):
                name = next(iter(keys[key]))
                first, *rest = keys[key].pop(name)
                order.append(first)
                if rest:
                    keys[key][name] = rest  # at the end: the other sessions come first
                if not keys[key]:
                    del keys[key]
        return order

    def _wait_of(self, count: int) -> int:
        return max(round(self._seconds * count / (2 * self.lanes)), 1)

    def _next(self, lane: int) -> Job | None:
        busy = {job.session for job in self._running if job.session is not None}
        for turns in self._waiting.values():
            for name, jobs in turns.items():
                if name not in busy and self._lane_of.get(name, lane) == lane:
                    return jobs[0]
        return None

    def _remove(self, job: Job) -> bool:
        turns, name = self._waiting.get(job.key, OrderedDict()), job.session or ""
        if job not in turns.get(name, ()):
            return False
        turns[name].remove(job)
        if not turns[name]:
            del turns[name]
        if not turns:
            del self._waiting[job.key]
        return True

    def _rotate(self, job: Job) -> None:
        """Puts the job's key behind the other keys, and its session behind the key's other sessions."""
        if job.key in self._waiting:
            self._waiting.move_to_end(job.key)
            turns = self._waiting[job.key]
            if (job.session or "") in turns:
                turns.move_to_end(job.session or "")

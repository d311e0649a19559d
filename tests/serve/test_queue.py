"""The queue's promises, under any order of what clients and workers do."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sdxl.serve.errors import QueueFullError
from sdxl.serve.work.jobs import Ended, Job, Queued
from sdxl.serve.work.queue import FairQueue

KEYS, SESSIONS = ("a", "b", "c"), (None, "s", "t")
MOST, MOST_OF_KEY, LANES = 8, 4, 2


def a_job(key: str = "", session: str | None = None, pixels: int = 0) -> Job:
    return Job(lambda studio, job: None, key=key, session=session, pixels=pixels)


class Clients(RuleBasedStateMachine):
    """Clients put and take back, workers of two lanes take and end; a model of the queue beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue(MOST, MOST_OF_KEY, LANES)
        self.waiting: list[Job] = []
        self.running: dict[int, Job] = {}
        self.lane_of: dict[str, int] = {}

    @rule(key=st.sampled_from(KEYS), session=st.sampled_from(SESSIONS))
    def put(self, key: str, session: str | None) -> None:
        job = a_job(key, session and f"{key}-{session}")
        full = len(self.waiting) >= MOST or sum(one.key == key for one in self.waiting) >= MOST_OF_KEY
        if full:
            with pytest.raises(QueueFullError) as caught:
                self.queue.put(job)
            assert caught.value.seconds >= 1
        else:
            self.queue.put(job)
            self.waiting.append(job)

    @rule(lane=st.integers(0, LANES - 1))
    def take(self, lane: int) -> None:
        if lane in self.running:
            return
        busy = {job.session for job in self.running.values() if job.session}
        open_to = [
            job
            for job in self.waiting
            if job.session is None or (job.session not in busy and self.lane_of.get(job.session, lane) == lane)
        ]
        job = self.queue.take(lane, timeout=0)
        assert (job is None) == (not open_to)
        if job is not None:
            assert job in open_to
            assert job is next(one for one in self.waiting if (one.key, one.session) == (job.key, job.session))
            self.waiting.remove(job)
            self.running[lane] = job
            if job.session:
                self.lane_of.setdefault(job.session, lane)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def done(self, data: Any) -> None:
        lane = data.draw(st.sampled_from(sorted(self.running)))
        self.queue.done(self.running.pop(lane))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: Any) -> None:
        job = data.draw(st.sampled_from(self.waiting))
        assert self.queue.remove(job) and not self.queue.remove(job)
        self.waiting.remove(job)

    @rule(session=st.sampled_from(["a-s", "b-t"]))
    def forget(self, session: str) -> None:
        self.queue.forget(session)
        self.lane_of.pop(session, None)

    @invariant()
    def every_job_that_waits_knows_its_place(self) -> None:
        places = [next(event.before for event in job.events[::-1] if isinstance(event, Queued)) for job in self.waiting]
        assert sorted(places) == list(range(len(self.waiting)))

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert set(self.queue.running) == set(self.running.values())
        for session in {job.session for job in self.waiting if job.session}:
            running = [job for job in self.running.values() if job.session == session]
            assert self.queue.of_session(session) == [*(j for j in self.waiting if j.session == session), *running]
            assert len(running) <= 1


TestClients = Clients.TestCase


@given(st.lists(st.sampled_from(KEYS), min_size=1, max_size=30))
def test_as_long_as_a_key_waits_it_gets_every_nth_turn(keys: list[str]) -> None:
    queue = FairQueue(most=100, most_of_key=100)
    for key in keys:
        queue.put(a_job(key))
    taken = [one.key for _ in keys if (one := queue.take(timeout=0)) is not None]
    assert sorted(taken) == sorted(keys)
    left = {key: keys.count(key) for key in KEYS}
    since: dict[str, int] = defaultdict(int)
    for key in taken:
        waiting = [one for one in KEYS if left[one]]
        for one in waiting:
            since[one] += 1
            assert since[one] <= len(KEYS)
        since[key] = 0
        left[key] -= 1


@given(st.lists(st.sampled_from(["s", "t", "u"]), min_size=1, max_size=20))
def test_a_key_s_sessions_take_turns(sessions: list[str]) -> None:
    queue = FairQueue(most=100, most_of_key=100)
    for session in sessions:
        queue.put(a_job("a", session))
    taken: list[str] = []
    while (job := queue.take(timeout=0)) is not None:
        taken.append(str(job.session))
        queue.done(job)
    assert sorted(taken) == sorted(sessions)
    busy = min(sessions.count(session) for session in set(sessions)) * len(set(sessions))
    for start in range(0, busy, len(set(sessions))):  # while all have some, each round has each
        assert set(taken[start : start + len(set(sessions))]) == set(sessions)


def test_places_are_the_order_in_which_one_worker_takes() -> None:
    queue = FairQueue()
    jobs = [a_job(key, session) for key, session in (("a", "s"), ("a", "s"), ("a", "t"), ("b", None), ("b", None))]
    for job in jobs:
        queue.put(job)
    said = {job: [event for event in job.events if isinstance(event, Queued)][-1].before for job in jobs}
    taken = []
    while (job := queue.take(timeout=0)) is not None:  # type: ignore[assignment]
        taken.append(job)
        queue.done(job)
    assert [said[job] for job in taken] == [0, 1, 2, 3, 4]


def test_one_busy_client_does_not_hold_up_another() -> None:
    queue = FairQueue()
    for _ in range(10):
        queue.put(a_job("busy"))
    queue.put(a_job("other"))
    keys = [job.key for _ in range(3) if (job := queue.take(timeout=0))]
    assert "other" in keys[:2]


def test_the_advice_when_to_come_back_follows_how_long_jobs_take() -> None:
    queue = FairQueue(most=4, most_of_key=4)
    for _ in range(40):
        job = a_job()
        job.started_at, job.ended_at = 1.0, 61.0
        queue.done(job)
    for _ in range(4):
        queue.put(a_job())
    with pytest.raises(QueueFullError, match="4 edits of yours wait already: try again in 120 s") as caught:
        queue.put(a_job())
    assert caught.value.seconds == 120


def test_large_pictures_wait_in_small_numbers() -> None:
    """One may always wait, whatever its size; what has been taken does not count."""
    queue = FairQueue(most_pixels=100)
    queue.put(a_job(pixels=500))
    with pytest.raises(QueueFullError, match="500 pixels wait already"):
        queue.put(a_job(pixels=1))
    queue.take(timeout=0)
    for _ in range(2):
        queue.put(a_job(pixels=50))
    with pytest.raises(QueueFullError, match="100 pixels wait already"):
        queue.put(a_job(pixels=1))


def test_the_lanes_of_many_sessions_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdxl.serve.work.queue.MOST_LANES", 2)
    queue = FairQueue(lanes=2)

    def has_lane_0(session: str) -> bool:
        queue.put(job := a_job("a", session))
        taken = queue.take(1, timeout=0)
        queue.remove(job)
        return taken is None

    for session in ("first", "second", "third"):
        queue.put(job := a_job("a", session))
        assert queue.take(0, timeout=0) is job
        queue.done(job)
    assert has_lane_0("third") and has_lane_0("second") and not has_lane_0("first")


def test_a_session_that_was_forgotten_while_it_runs_still_runs_once_at_a_time() -> None:
    queue = FairQueue(lanes=2)
    first, second = a_job("a", "s"), a_job("a", "s")
    queue.put(first)
    queue.put(second)
    assert queue.take(0, timeout=0) is first
    queue.forget("s")
    assert queue.take(1, timeout=0) is None
    queue.done(first)
    assert queue.take(1, timeout=0) is second


def test_a_queue_that_closes_ends_what_waits_and_takes_nothing_more() -> None:
    queue = FairQueue()
    running, waiting = a_job(), a_job()
    queue.put(running)
    assert queue.take(timeout=0) is running
    queue.put(waiting)
    queue.close()
    assert waiting.events[-1] == Ended("the server stops") and running.is_cancelled and not running.is_over
    assert queue.take() is None
    with pytest.raises(QueueFullError, match="the server stops"):
        queue.put(a_job())

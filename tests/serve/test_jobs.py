"""Jobs tell every event to everybody who follows, and workers outlive them."""

from __future__ import annotations

import asyncio
import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sdxl.errors import Cancelled, InputError
from sdxl.serve.errors import ApiError, BusyError
from sdxl.serve.work.jobs import ALL, Ended, Event, Failed, Job, Made, Partial, Started, Stepped, partial_steps
from sdxl.serve.work.queue import FairQueue
from sdxl.serve.work.worker import Worker, perform
from tests.serve.standing import wait_for

STUDIO: Any = SimpleNamespace(lane=0)


def a_step(number: int, steps: int) -> Any:
    return SimpleNamespace(number=number, steps=steps, preview=lambda: Image.new("RGB", (1, 1), (number, 0, 0)))


def a_job(work: Any = None, **values: Any) -> Job:
    return Job(work or (lambda studio, job: None), pixels=0, **values)


async def all_of(job: Job) -> list[Event]:
    return [event async for event in job.follow()]


def test_followers_see_every_event_in_its_order_whenever_they_come() -> None:
    job = a_job()
    told = [Started(), *(Stepped(number, 50) for number in range(1, 51)), Ended()]

    async def follow() -> tuple[list[Event], ...]:
        early = [asyncio.create_task(all_of(job)) for _ in range(3)]
        await asyncio.sleep(0)
        thread = threading.Thread(target=lambda: [job.tell(event) for event in told])
        thread.start()
        found = await asyncio.gather(*early)
        thread.join()
        return *found, await all_of(job)

    assert all(found == told for found in asyncio.run(follow()))
    assert job._waiting == set()


def test_telling_survives_a_follower_whose_loop_has_ended() -> None:
    job = a_job()

    async def leave() -> None:
        events = job.follow()
        task = asyncio.create_task(anext(events))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        job._waiting.add((asyncio.get_running_loop(), asyncio.Event()))
        task.cancel()

    asyncio.run(leave())
    job.tell(Started())
    assert job.events == [Started()]


@given(st.integers(1, 200), st.integers(0, 3))
def test_previews_are_spread_and_never_the_last_step(steps: int, count: int) -> None:
    due = partial_steps(steps, count)
    assert len(due) == min(count, steps - 1) and list(due) == sorted(set(due))
    assert all(0 < step < steps for step in due)


def test_of_a_preview_after_every_step_the_newest_is_kept() -> None:
    job = a_job(partials=ALL)
    for number in range(1, 6):
        assert job.on_step(a_step(number, 6))
    kept = [event for event in job.events if isinstance(event, Partial)]
    assert [one.index for one in kept] == [4] and kept[0].image.getpixel((0, 0)) == (5, 0, 0)
    assert sum(isinstance(event, Stepped) for event in job.events) == 5
    job.tell(Ended())
    assert asyncio.run(all_of(job)) == job.events


def test_previews_that_were_asked_for_by_number_are_all_kept() -> None:
    job = a_job(partials=3)
    for number in range(1, 9):
        job.on_step(a_step(number, 8))
    assert [event.index for event in job.events if isinstance(event, Partial)] == [0, 1, 2]


def test_steps_are_counted_over_all_pictures() -> None:
    job = a_job(pictures=2)
    result: Any = None
    for picture in range(2):
        for number in (1, 2, 3):
            job.on_step(a_step(number, 3))
        job.tell(Made(picture, result, picture))
    steps = [event for event in job.events if isinstance(event, Stepped)]
    assert [step.number for step in steps] == [1, 2, 3, 4, 5, 6] and {step.steps for step in steps} == {6}


def test_a_cancelled_job_stops_at_its_next_step_and_says_why() -> None:
    def work(studio: Any, job: Job) -> None:
        assert job.on_step(a_step(1, 3))
        job.cancel("superseded")
        job.cancel("too late")
        if job.on_step(a_step(2, 3)) is False:
            raise Cancelled("cancelled after step 2")

    job = a_job(work)
    perform(job, STUDIO)
    assert job.events[-1] == Ended("superseded") and job.is_over
    assert sum(isinstance(event, Stepped) for event in job.events) == 1


def test_a_job_that_was_cancelled_while_it_waited_is_not_begun() -> None:
    job = a_job(lambda studio, job: pytest.fail("begun"))
    job.cancel("gone")
    perform(job, STUDIO)
    assert job.events == [Ended("gone")]


@pytest.mark.parametrize(
    ("error", "kind"),
    [(InputError("steps: got 0"), InputError), (MemoryError(), BusyError), (ZeroDivisionError("x"), ZeroDivisionError)],
)
def test_every_error_ends_the_job(error: Exception, kind: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    def work(studio: Any, job: Job) -> None:
        raise error

    job = a_job(work)
    perform(job, STUDIO)
    last = job.events[-1]
    assert isinstance(last, Failed) and type(last.error) is kind and last.error.__traceback__ is None
    assert ("Traceback" in caplog.text) == (kind is ZeroDivisionError)  # a fault of the server has a trace in the log


def test_a_worker_lives_on_whatever_happens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    queue, seen = FairQueue(), []

    def look(job: Job) -> None:
        seen.append(job)
        raise RuntimeError("the counter is broken")

    def wrong(studio: Any, job: Job) -> None:
        raise RuntimeError("the work is broken")

    worker = Worker(STUDIO, queue, look)
    worker.start()
    jobs = [a_job(wrong), a_job(), a_job(wrong)]
    for job in jobs:
        queue.put(job)
    wait_for(lambda: len(seen) == 3, 5)
    queue.close()
    worker.join(5)
    assert [type(job.events[-1]) for job in jobs] == [Failed, Ended, Failed] and not queue.running


def test_a_worker_without_jobs_tidies_up_now_and_then() -> None:
    """Recordings of a session that ended, or was not used for long, must not wait for the next job."""
    queue, tidied = FairQueue(), []
    worker = Worker(STUDIO, queue, tidy=lambda: tidied.append(1), seconds=0.01)
    worker.start()
    wait_for(lambda: len(tidied) >= 3, 5)
    queue.close()
    worker.join(5)
    assert not worker.is_alive


def test_an_answer_that_is_ours_is_no_fault_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    """A session may be deleted while its last step runs."""

    def gone(studio: Any, job: Job) -> None:
        raise ApiError(404, "session: it has ended", "session_not_found", "session")

    job = a_job(gone)
    perform(job, STUDIO)
    last = job.events[-1]
    assert isinstance(last, Failed) and isinstance(last.error, ApiError) and not caplog.records

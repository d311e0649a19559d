"""The driver, with a pool of no processes: what it does with each event, in every order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sdxl.batch.driver import Broken, Died, Ended, Event, Ready, drive
from sdxl.batch.ledger import Ledger, State
from sdxl.batch.perform import Outcome
from sdxl.batch.row import Row
from sdxl.edits.asked import Asked
from sdxl.errors import SdxlError
from sige.errors import OutputError


class Script:
    """A pool whose workers answer at once: `answer` says how each row ends."""

    def __init__(self, answer: Callable[[int, Row], Event], start: Callable[[int], Event] = Ready) -> None:
        self.answer, self.start = answer, start
        self.events: deque[Event] = deque()
        self.begun: list[int] = []
        self.given: list[str] = []

    def begin(self, lane: int) -> None:
        self.begun.append(lane)
        self.events.append(self.start(lane))

    def give(self, lane: int, row: Row) -> None:
        self.given.append(row.id)
        self.events.append(self.answer(lane, row))

    def wait(self) -> Sequence[Event]:
        assert self.events, "the driver waits for nothing"
        return [self.events.popleft()]


def rows(count: int) -> list[Row]:
    return [Row(f"r{number}", Path("a.png"), Asked("x")) for number in range(count)]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "out")
    ledger.prepare()
    return ledger


def done(lane: int, row: Row) -> Event:
    return Ended(lane, Outcome(row.id, State.DONE))


def test_every_row_is_given_once(ledger: Ledger) -> None:
    pool, seen = Script(done), list[Outcome]()
    drive(rows(5), ledger, pool, 2, seen.append)
    assert pool.given == [one.id for one in seen] == ["r0", "r1", "r2", "r3", "r4"]
    assert pool.begun == [0, 1]


def test_no_more_workers_than_rows(ledger: Ledger) -> None:
    pool = Script(done)
    drive(rows(1), ledger, pool, 8)
    assert pool.begun == [0]


def test_a_lethal_row_is_set_aside_after_three_deaths(ledger: Ledger) -> None:
    pool, seen = Script(lambda lane, row: Died(lane, "SIGKILL") if row.id == "r1" else done(lane, row)), list[Outcome]()
    drive(rows(4), ledger, pool, 1, seen.append)
    assert pool.given.count("r1") == 3
    assert [one.id for one in seen] == ["r0", "r2", "r3", "r1"]
    assert seen[-1].state is State.SET_ASIDE and ledger.deaths("r1") == 3


def test_a_machine_that_goes_is_no_fault_of_the_row(ledger: Ledger) -> None:
    left = [5]

    def answer(lane: int, row: Row) -> Event:
        left[0] -= 1
        return Died(lane, "preempted", blames=False) if left[0] else done(lane, row)

    drive(rows(1), ledger, Script(answer), 1)
    assert ledger.deaths("r0") == 0 and left == [0]


def test_a_worker_that_dies_after_its_work_costs_nothing(ledger: Ledger) -> None:
    def answer(lane: int, row: Row) -> Event:
        ledger.picture(row.id).touch()
        return Died(lane, "SIGKILL")

    pool, seen = Script(answer), list[Outcome]()
    drive(rows(2), ledger, pool, 1, seen.append)
    assert pool.given == ["r0", "r1"] and [one.state for one in seen] == [State.DONE, State.DONE]
    assert ledger.deaths("r0") == 0


def test_workers_that_never_begin_end_the_batch(ledger: Ledger) -> None:
    with pytest.raises(SdxlError, match=r"3 workers died before they took a row \(SIGKILL\)"):
        drive(rows(2), ledger, Script(done, start=lambda lane: Died(lane, "SIGKILL")), 1)
    with pytest.raises(SdxlError, match="the weights are damaged"):
        drive(rows(2), ledger, Script(done, start=lambda lane: Broken("the weights are damaged")), 1)


def test_a_full_disk_ends_the_batch(ledger: Ledger) -> None:
    full = Script(lambda lane, row: Ended(lane, Outcome(row.id, State.LEFT, error="the disk is full", stops=True)))
    with pytest.raises(OutputError, match="the disk is full"):
        drive(rows(2), ledger, full, 1)

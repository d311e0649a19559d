"""Driver: gives rows to workers until each row is done, failed or set aside. It knows no processes and no Ray.

waiting ─give─▶ lane ─ Ended ─▶ done, failed
   ▲              └─── Died ──▶ deaths + 1 ─▶ set aside at three
   └───────────────────────────────┘ below three
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sdxl.batch.ledger import MOST_DEATHS, Ledger, State
from sdxl.batch.perform import Outcome
from sdxl.batch.row import Row
from sdxl.errors import SdxlError
from sige.errors import OutputError

__all__ = ["Broken", "Died", "Ended", "Event", "Pool", "Ready", "drive"]

STARTS = 3  # workers that die one after the other before they take a row: then something else is wrong


@dataclass(frozen=True)
class Ready:
    """A worker waits for a row."""

    lane: int


@dataclass(frozen=True)
class Ended:
    """A worker has ended its row, and waits for the next."""

    lane: int
    outcome: Outcome


@dataclass(frozen=True)
class Died:
    """A worker is gone. `blames`: its row may have killed it; False where the machine went, or somebody took it."""

    lane: int
    how: str
    blames: bool = True


@dataclass(frozen=True)
class Broken:
    """A worker could not begin, for a reason that the user can mend, and that all workers share."""

    error: str


Event = Ready | Ended | Died | Broken


class Pool(Protocol):
    """Workers, one in each lane."""

    def begin(self, lane: int) -> None:
        """Starts a worker in the lane; `Ready` follows."""

    def give(self, lane: int, row: Row) -> None:
        """Lets a worker that is ready begin a row; `Ended` or `Died` follows."""

    def wait(self) -> Sequence[Event]:
        """What has happened; waits for something."""


def drive(
    rows: Sequence[Row], ledger: Ledger, pool: Pool, lanes: int, seen: Callable[[Outcome], None] = lambda outcome: None
) -> None:
    """Brings every row to its end; `seen` is told each. Raises where no worker can begin, or none can write."""
    _Driver(rows, ledger, pool, seen).run(lanes)


class _Driver:
    def __init__(self, rows: Sequence[Row], ledger: Ledger, pool: Pool, seen: Callable[[Outcome], None]) -> None:
        self.ledger, self.pool, self.seen = ledger, pool, seen
        self.waiting = deque(rows)
        self.idle: list[int] = []
        self.in_hand: dict[int, Row] = {}  # lane -> its row
        self.unborn = 0  # workers that died before they were ready, one after the other

    def run(self, lanes: int) -> None:
        for lane in range(min(lanes, len(self.waiting))):
            self.pool.begin(lane)
        while self.waiting or self.in_hand:
            for event in self.pool.wait():
                self._take(event)
            while self.waiting and self.idle:
                lane, row = self.idle.pop(0), self.waiting.popleft()
                self.in_hand[lane] = row
                self.pool.give(lane, row)

    def _take(self, event: Event) -> None:
        if isinstance(event, Broken):
            raise SdxlError(event.error)
        if isinstance(event, Died):
            self._bury(event)
            return
        self.idle.append(event.lane)
        self.unborn = 0
        if isinstance(event, Ended):
            row = self.in_hand.pop(event.lane)
            if event.outcome.stops:
                raise OutputError(event.outcome.error)
            if event.outcome.state is State.LEFT:
                self.waiting.append(row)
            else:
                self.seen(event.outcome)

    def _bury(self, event: Died) -> None:
        """Counts the death, and begins another worker where there is work for one."""
        row = self.in_hand.pop(event.lane, None)
        if row is not None:
            self._judge(row, event)
        elif event.lane in self.idle:
            self.idle.remove(event.lane)
        else:
            self.unborn += 1
            if self.unborn == STARTS:
                raise SdxlError(
                    f"{STARTS} workers died before they took a row ({event.how}): take fewer --workers, or see whether "
                    "the memory suffices"
                )
        if self.waiting or self.in_hand:
            self.pool.begin(event.lane)

    def _judge(self, row: Row, event: Died) -> None:
        if self.ledger.picture(row.id).exists():  # it died after its work
            self.seen(Outcome(row.id, State.DONE))
        elif event.blames and self.ledger.count_death(row, event.how) >= MOST_DEATHS:
            self.seen(Outcome(row.id, State.SET_ASIDE, error=f"{MOST_DEATHS} workers died over it ({event.how})"))
        else:
            self.waiting.append(row)

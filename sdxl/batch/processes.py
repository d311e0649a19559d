"""Processes: a pool of workers on this machine. One that dies, by whatever signal, is noticed; the others go on."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from threading import Event as Flag
from threading import Thread

from sdxl.batch.driver import Broken, Died, Ended, Event, Ready
from sdxl.batch.ledger import Ledger
from sdxl.batch.perform import Make, Outcome, perform
from sdxl.batch.row import Row
from sige.errors import SigeError
from sige.terminal import escape_logs

__all__ = ["Processes"]

READY = "ready"


class Processes:
    """Workers as processes that are started afresh, so that they share no lock and no CUDA context with the driver.

    `make` and what it holds are pickled; a worker imports its module.
    """

    def __init__(self, make: Make, out: Path) -> None:
        self._make, self._out = make, out
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, tuple[BaseProcess, Connection]] = {}

    def begin(self, lane: int) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_live, args=(theirs, self._make, lane, self._out), daemon=True)
        process.start()
        theirs.close()  # so that its end is the worker's alone, and closes with it
        self._workers[lane] = process, ours

    def give(self, lane: int, row: Row) -> None:
        with suppress(OSError):  # it has died since: `wait` says so
            self._workers[lane][1].send(row)

    def wait(self) -> Sequence[Event]:
        lanes = {pipe: lane for lane, (_, pipe) in self._workers.items()}
        return [self._read(lanes[pipe]) for pipe in wait(list(lanes)) if isinstance(pipe, Connection)]

    def _read(self, lane: int) -> Event:
        process, pipe = self._workers[lane]
        try:
            said = pipe.recv()
        except (EOFError, OSError):
            pipe.close()
            process.join()
            del self._workers[lane]
            return Died(lane, _how(process.exitcode))
        if isinstance(said, Outcome):
            return Ended(lane, said)
        return Ready(lane) if said == READY else Broken(said)

    def stop(self) -> None:
        """Lets every worker end after its step, and waits; a second Ctrl-C ends them at once."""
        try:
            for _, pipe in self._workers.values():
                with suppress(OSError):
                    pipe.send(None)
            for process, _ in self._workers.values():
                process.join()
        finally:
            for process, pipe in self._workers.values():
                process.kill()
                process.join()
                pipe.close()
            self._workers.clear()


def _how(code: int | None) -> str:
    """How a process ended.

    >>> _how(-9), _how(1)
    ('SIGKILL', 'exit status 1')
    """
    if code is not None and code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit status {code}"


# ---- in the worker ---------------------------------------------------------------------------------------------------


def _live(pipe: Connection, make: Make, lane: int, out: Path) -> None:
    """A worker's life: it makes its tools, says that it is ready, and does row after row."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the driver, too, which says when to stop
        signal.signal(number, signal.SIG_IGN)
    escape_logs()
    orders = _Orders(pipe)
    try:
        ledger = Ledger(out)
        lock = ledger.join()
        work = make(lane)
    except (SigeError, OSError) as error:
        pipe.send(str(error))
        return
    orders.ready.set()
    pipe.send(READY)
    while (row := orders.next()) is not None:
        outcome = perform(row, work, ledger, orders.goes_on)
        pipe.send(outcome)
    lock.close()


class _Orders:
    """What the driver says, read by a thread. Where the driver dies, so does the worker, before it writes anything."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._rows: SimpleQueue[Row | None] = SimpleQueue()
        self._stopped = Flag()
        self.ready = Flag()
        Thread(target=self._listen, daemon=True).start()

    def next(self) -> Row | None:
        """The next row; None when the batch stops."""
        return None if self._stopped.is_set() else self._rows.get()

    def goes_on(self) -> bool:
        """Says whether the driver wants the row's end."""
        return not self._stopped.is_set()

    def _listen(self) -> None:
        try:
            while (row := self._pipe.recv()) is not None:
                self._rows.put(row)
        except (EOFError, OSError):
            os._exit(1)
        self._stopped.set()
        self._rows.put(None)
        if not self.ready.is_set():  # it loads weights, which has no steps
            os._exit(0)

"""Ledger: what became of each row, as files in OUT that any process can count. What exists is done.

OUT/<id>.png            done; a worker writes it beside and renames it
OUT/failed/<id>.json    the row cannot be made, and why; --retry tries it again
OUT/deaths/<id>.json    how many workers died over the row; after three it is set aside
OUT/.driver, .workers   locks: one batch at a time, and none while a worker of the last one still lives
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from sdxl.batch.row import Row
from sdxl.errors import InputError
from sige.files import atomic_write
from sige.leftovers import remove_leftovers
from sige.locks import hold

__all__ = ["MOST_DEATHS", "Ledger", "State"]

MOST_DEATHS = 3  # of workers, over one row
PATIENCE = 60.0  # seconds that the workers of a dead driver get to notice
FAILED, DEATHS = "failed", "deaths"


class State(StrEnum):
    """What became of a row."""

    DONE = "done"
    FAILED = "failed"
    SET_ASIDE = "set aside"
    LEFT = "left"


@dataclass(frozen=True)
class Ledger:
    """The files of one OUT; every process has its own object."""

    out: Path

    def picture(self, name: str) -> Path:
        """The file that is there when the row is done."""
        return self.out / f"{name}.png"

    def prepare(self) -> None:
        """Makes the folders, and removes what killed processes left."""
        for folder in (self.out, self.out / FAILED, self.out / DEATHS):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{folder}: cannot be made ({error.strerror}): take another OUT") from error
            remove_leftovers(folder)

    def states(self, rows: Iterable[Row]) -> dict[str, State]:
        """What became of each row, from one look at each folder."""
        done, failed = _stems(self.out, ".png"), _stems(self.out / FAILED, ".json")
        deaths = _stems(self.out / DEATHS, ".json")

        def state(name: str) -> State:
            if name in done:
                return State.DONE
            if name in failed:
                return State.FAILED
            return State.SET_ASIDE if name in deaths and self.deaths(name) >= MOST_DEATHS else State.LEFT

        return {row.id: state(row.id) for row in rows}

    def forgive(self, rows: Iterable[Row]) -> None:
        """Forgets failures and deaths of the rows, so that they are tried again."""
        for row in rows:
            for folder in (FAILED, DEATHS):
                (self.out / folder / f"{row.id}.json").unlink(missing_ok=True)

    # ---- failures ---------------------------------------------------------------------------------------------------

    def fail(self, row: Row, error: str, **more: Any) -> None:
        """Notes that a row cannot be made."""
        self._write(FAILED, row.id, {"id": row.id, "error": error, **more, "at": _now(), "row": row.to_dict()})

    def failure(self, name: str) -> Mapping[str, Any]:
        """What was noted of a failed row; empty where nothing was."""
        return self._read(FAILED, name)

    # ---- deaths -----------------------------------------------------------------------------------------------------

    def deaths(self, name: str) -> int:
        """How many workers died over the row."""
        return len(self._read(DEATHS, name).get("ends", ()))

    def count_death(self, row: Row, end: str) -> int:
        """Notes that a worker died over the row, and how; returns how many did."""
        ends = [*self._read(DEATHS, row.id).get("ends", ()), {"how": end, "at": _now()}]
        self._write(DEATHS, row.id, {"id": row.id, "ends": ends, "row": row.to_dict()})
        return len(ends)

    # ---- locks ------------------------------------------------------------------------------------------------------

    def lock(self) -> IO[bytes]:
        """Makes this process the only driver; keep the result open. Waits for workers that a dead driver has left."""
        driver = hold(self.out / ".driver")
        if driver is None:
            raise InputError(f"{self.out}: another batch writes there now: wait for its end, or take another OUT")
        workers = hold(self.out / ".workers", PATIENCE)
        if workers is None:
            driver.close()
            raise InputError(f"{self.out}: workers of an earlier batch still run: end these processes first")
        workers.close()
        return driver

    def join(self) -> IO[bytes]:
        """Says, as long as the result is open, that a worker lives."""
        held = hold(self.out / ".workers", PATIENCE, shared=True)
        if held is None:
            raise InputError(f"{self.out}: another batch begins there: end it first")
        return held

    # ---- files ------------------------------------------------------------------------------------------------------

    def _write(self, folder: str, name: str, facts: Mapping[str, Any]) -> None:
        with atomic_write(self.out / folder / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")

    def _read(self, folder: str, name: str) -> Mapping[str, Any]:
        path = self.out / folder / f"{name}.json"
        try:
            facts = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except (ValueError, OSError) as error:
            raise InputError(f"{path}: cannot be read ({error}): remove it, and the row is tried again") from error
        if not isinstance(facts, dict) or not isinstance(facts.get("ends", []), list):
            raise InputError(f"{path}: is not what a batch writes: remove it, and the row is tried again")
        return facts


def _stems(folder: Path, suffix: str) -> set[str]:
    with os.scandir(folder) as entries:
        return {entry.name[: -len(suffix)] for entry in entries if entry.name.endswith(suffix)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

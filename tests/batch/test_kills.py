"""A batch that is killed at random moments loses no row and makes none twice: a few kills of tests/batch/kills.py."""

from __future__ import annotations

from pathlib import Path

from sdxl.batch.ledger import State
from tests.batch.kills import kill_often


def test_ten_kills_lose_nothing_and_make_nothing_twice(tmp_path: Path) -> None:
    found = kill_often(tmp_path, kills=10, rows=100, lethal=2, seed=3)
    assert found.wrong == []
    assert found.twice == 0
    assert found.states == {State.DONE: 98, State.SET_ASIDE: 2}
    assert found.kills["driver"] >= 4 and found.kills["worker"] >= 3, "the batch was over before it could be killed"

"""The ledger: what is in OUT says what became of each row, whoever wrote it, and whoever died."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdxl.batch import ledger as ledgers
from sdxl.batch.ledger import Ledger, State
from sdxl.batch.row import Row
from sdxl.edits.asked import Asked
from sdxl.errors import InputError


def row(name: str) -> Row:
    return Row(name, Path("a.png"), Asked("a horse"))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "out")
    ledger.prepare()
    return ledger


def test_files_say_what_became_of_each_row(ledger: Ledger) -> None:
    rows = [row(name) for name in ("done", "bad", "lethal", "hurt", "new")]
    ledger.picture("done").touch()
    ledger.fail(rows[1], "image: is damaged", kind="InputError")
    for _ in range(3):
        deaths = ledger.count_death(rows[2], "SIGKILL")
    assert deaths == 3
    assert ledger.count_death(rows[3], "SIGSEGV") == 1
    assert list(ledger.states(rows).values()) == ["done", "failed", "set aside", "left", "left"]
    said = json.loads((ledger.out / "failed/bad.json").read_text())
    assert (said["error"], said["kind"], said["row"]["prompt"]) == ("image: is damaged", "InputError", "a horse")


def test_deaths_are_counted_across_processes(ledger: Ledger) -> None:
    ledger.count_death(row("one"), "SIGKILL")
    assert Ledger(ledger.out).count_death(row("one"), "SIGSEGV") == 2
    said = json.loads((ledger.out / "deaths/one.json").read_text())
    assert [end["how"] for end in said["ends"]] == ["SIGKILL", "SIGSEGV"]


def test_what_is_done_is_done_although_it_once_failed(ledger: Ledger) -> None:
    ledger.fail(row("one"), "it was")
    ledger.picture("one").touch()
    assert ledger.states([row("one")]) == {"one": State.DONE}


def test_retry_forgets_failures_and_deaths(ledger: Ledger) -> None:
    ledger.fail(row("one"), "it was")
    ledger.count_death(row("two"), "SIGKILL")
    ledger.forgive([row("one"), row("two"), row("three")])
    assert set(ledger.states([row("one"), row("two")]).values()) == {State.LEFT}
    assert ledger.deaths("two") == 0


def test_a_damaged_count_is_named(ledger: Ledger) -> None:
    for text in ("{", "[]", '{"ends": 3}'):
        (ledger.out / "deaths/one.json").write_text(text)
        with pytest.raises(InputError, match="one.json: .*remove it, and the row is tried again"):
            ledger.states([row("one")])


def test_one_driver_at_a_time(ledger: Ledger) -> None:
    lock = ledger.lock()
    with pytest.raises(InputError, match="another batch writes there now"):
        ledger.lock()
    lock.close()
    ledger.lock().close()


def test_a_driver_waits_for_the_workers_of_a_dead_one(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "PATIENCE", 0.1)
    worker = ledger.join()
    with pytest.raises(InputError, match="workers of an earlier batch still run"):
        ledger.lock()
    worker.close()
    lock = ledger.lock()
    ledger.join().close(), ledger.join().close()
    lock.close()


def test_an_out_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="take another OUT"):
        Ledger(tmp_path / "file" / "out").prepare()

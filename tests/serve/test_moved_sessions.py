"""A session that moves to another server process keeps its pictures and its history, and no change is lost."""

from __future__ import annotations

from multiprocessing import get_context
from pathlib import Path

import pytest

from sdxl.errors import InputError
from sdxl.serve.errors import ApiError
from sdxl.serve.sessions.desk import Desk
from sdxl.serve.sessions.history import History


@pytest.fixture
def desks(tmp_path: Path) -> tuple[Desk, Desk]:
    """Those of two replicas, on one folder."""
    return Desk(tmp_path), Desk(tmp_path)


def test_each_desk_sees_what_the_other_changed(desks: tuple[Desk, Desk]) -> None:
    here, there = desks
    one = here.begin(b"first", "key").id
    result, _ = there.find(one, "key").stage(b"second", 7)
    assert [said["seed"] for said in here.find(one, "key").facts()["staged"]] == [7]
    here.find(one, "key").commit(result)
    assert there.find(one, "key").picture() == b"second"
    there.find(one, "key").go(-1)
    assert here.find(one, "key").picture() == b"first"
    assert here.find(one, "key").facts() == there.find(one, "key").facts()


def test_a_change_begins_with_what_the_other_saved(desks: tuple[Desk, Desk]) -> None:
    """Without a look between: a worker that stages has found its session long ago."""
    here, there = desks
    history = here.begin(b"first", "key")
    other = there.find(history.id, "key")
    history.stage(b"second", 1)
    other.stage(b"third", 2)
    assert [said["seed"] for said in other.facts()["staged"]] == [1, 2]
    assert all((history.folder / f"{said['picture']}.png").exists() for said in other.facts()["staged"])


def test_a_result_of_a_picture_that_is_no_longer_the_sessions_is_refused(desks: tuple[Desk, Desk]) -> None:
    here, there = desks
    history = here.begin(b"first", "key")
    base = history.current
    one, _ = there.find(history.id, "key").stage(b"second", 1, of=base)
    there.find(history.id, "key").commit(one)
    with pytest.raises(InputError, match="session: its picture was changed"):
        history.stage(b"third", 2, of=base)
    assert history.facts()["staged"] == []


def test_a_session_that_ended_elsewhere_is_gone(desks: tuple[Desk, Desk]) -> None:
    here, there = desks
    history = here.begin(b"first", "key")
    there.end(there.find(history.id, "key"))
    with pytest.raises(ApiError) as caught:
        here.find(history.id, "key")
    assert caught.value.status == 404
    with pytest.raises(ApiError, match="it has ended") as caught:
        history.stage(b"second", 1)
    assert caught.value.status == 404 and len(here) == 0


def stage_ten(folder: Path) -> None:
    history = History.open(folder)
    for number in range(10):
        history.stage(b"picture", number)


def test_two_processes_that_stage_at_once_lose_nothing(tmp_path: Path) -> None:
    history = History.begin(tmp_path / ("0" * 32), b"first", "key")
    both = [get_context("fork").Process(target=stage_ten, args=(history.folder,)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
    history.refresh()
    assert sorted(said["seed"] for said in history.staged.values()) == sorted([*range(10)] * 2)
    assert len(list(history.folder.glob("*.png"))) == 21

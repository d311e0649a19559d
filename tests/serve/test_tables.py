"""Recordings of the server's sessions: under one budget, dropped when they are idle, and never needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdxl.edits.sampling import Sampling
from sdxl.pipelines.load import load_pipeline
from sdxl.serve.sessions.tables import IDLE, Tables

SIDE = 64
SAMPLING = Sampling("a horse", steps=4, scale=1.0)


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def pipe() -> Any:
    pipe = load_pipeline("tiny")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def mask() -> np.ndarray:  # [H, W]
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[16:40, 16:40] = True
    return mask


def edit(tables: Tables, pipe: Any, session: str, name: str = "first", new: str = "second") -> Any:
    """An edit of the picture of that name, whose result the history would call `new`."""
    result = tables.of(session, pipe, name, picture, None).edit(mask(), SAMPLING)
    tables.know(session, result.image, new)
    return result


def test_a_table_follows_the_history_forward_and_back(pipe: Any) -> None:
    tables = Tables(1 << 30)
    edit(tables, pipe, "a")
    session = tables.of("a", pipe, "second", picture, None)  # it was accepted meanwhile
    assert len(session.pictures) == 2
    assert tables.of("a", pipe, "first", picture, None) is session and len(session.pictures) == 1  # undone
    assert tables.of("a", pipe, "another", picture, None) is not session  # which this table never saw


def test_what_is_idle_or_has_ended_is_dropped(pipe: Any) -> None:
    clock = Clock()
    tables = Tables(1 << 30, clock)
    edit(tables, pipe, "a")
    clock.now = IDLE / 2
    for session in ("b", "c"):
        edit(tables, pipe, session)
    clock.now = IDLE + 1
    tables.leave("c")
    tables.fit()
    assert [one for one in "abc" if one in tables] == ["b"] and tables.nbytes > 0
    clock.now *= 2
    tables.fit()
    assert tables.nbytes == 0


def test_over_the_budget_the_oldest_goes(pipe: Any) -> None:
    tables = Tables(1 << 30)
    for session in "ab":
        edit(tables, pipe, session)
    tables.budget = tables.nbytes - 1
    tables.fit()
    assert [one for one in "ab" if one in tables] == ["b"]

"""Tables: the engine's sessions in a worker's thread, with their recordings, under one budget.

A table is only a faster way to the same picture. The history says which picture is the session's; the table follows it
by accepting or undoing, or begins anew. So it can be dropped at any time: the next edit is a first one, and slower.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from PIL import Image

from sdxl.sessions.session import Session

__all__ = ["Tables"]

logger = logging.getLogger(__name__)

IDLE = 15 * 60.0  # seconds: then recordings are dropped
HISTORY = 4  # edits that a table can take back by itself


class _Table:
    """An engine session, and the pictures that it knows by the history's names."""

    def __init__(self, session: Session, name: str) -> None:
        self.session = session
        self.used_at = monotonic()
        self.names: dict[int, str] = {id(session.picture): name}
        self._pictures: dict[int, Image.Image] = {id(session.picture): session.picture}  # else an id could come again

    @property
    def nbytes(self) -> int:
        """Bytes of its recordings and its pictures."""
        return self.session.store.nbytes + sum(one.width * one.height * 3 for one in list(self._pictures.values()))

    def know(self, picture: Image.Image, name: str) -> None:
        """Notes the history's name of a picture."""
        self.names[id(picture)], self._pictures[id(picture)] = name, picture
        kept = {id(one) for one in (*self.session.pictures, picture)}
        self.names = {key: value for key, value in self.names.items() if key in kept}
        self._pictures = {key: value for key, value in self._pictures.items() if key in kept}

    def follow(self, name: str) -> bool:
        """Brings the engine's session to the picture of that name; False where it cannot."""
        session = self.session
        if session.staged is not None and self.names.get(id(session.staged.image)) == name:
            session.accept()
            self.know(session.picture, name)
        known = [self.names.get(id(picture)) for picture in session.pictures]
        if name not in known:
            return False
        while self.names.get(id(session.picture)) != name:
            session.undo()
        return True


class Tables:
    """Tables by session, the least recently used first."""

    def __init__(self, budget: int, clock: Callable[[], float] = monotonic) -> None:
        self.budget = budget
        self._clock = clock
        self._tables: OrderedDict[str, _Table] = OrderedDict()
        self._left: deque[str] = deque()

    @property
    def nbytes(self) -> int:
        """Bytes of all recordings."""
        return sum(table.session.store.nbytes for table in list(self._tables.values()))

    def __contains__(self, one: str) -> bool:
        return one in self._tables

    def of(self, one: str, pipe: Any, name: str, read: Callable[[], Image.Image], policy: Any) -> Session:
        """The engine's session of a picture; a new one where there is none, or none that leads to that picture."""
        table = self._tables.get(one)
        if table is None or not table.follow(name):
            self.drop(one)
            session = Session(pipe, read(), budget=self.budget, policy=policy, history=HISTORY)
            table = self._tables[one] = _Table(session, name)
        self._tables.move_to_end(one)
        table.used_at = self._clock()
        table.session.policy = policy
        return table.session

    def know(self, one: str, picture: Image.Image, name: str) -> None:
        """Notes the history's name of a staged picture."""
        if one in self._tables:
            self._tables[one].know(picture, name)

    def fit(self) -> None:
        """Drops tables that were not used for long, and the oldest ones until the budget holds."""
        while self._left:
            self.drop(self._left.popleft())
        now = self._clock()
        for one in [one for one, table in self._tables.items() if now - table.used_at > IDLE]:
            logger.info("session %s: its recordings were not used for %d minutes, and go", one, IDLE // 60)
            self.drop(one)
        while len(self._tables) > 1 and sum(table.nbytes for table in self._tables.values()) > self.budget:
            self.drop(next(iter(self._tables)))

    def leave(self, one: str) -> None:
        """Notes, from any thread, that a session has ended; `fit` drops it."""
        self._left.append(one)

    def drop(self, one: str) -> None:
        """Frees a session's recordings."""
        table = self._tables.pop(one, None)
        if table is not None:
            table.session.close()

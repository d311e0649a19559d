"""The desk: every open session, by its identity; each belongs to the key that began it."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from threading import Lock

from sdxl.serve.errors import ApiError
from sdxl.serve.sessions.history import History, digest_of, new_id

__all__ = ["Desk"]

logger = logging.getLogger(__name__)


class Desk:
    """Sessions in a folder. One that another process has begun there is found, too."""

    def __init__(self, folder: Path, most: int = 1000) -> None:
        self.folder, self.most = folder, most
        self._open: dict[str, History] = {}
        self._lock = Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, picture: bytes, key: str) -> History:
        """A new session of a picture, as PNG."""
        with self._lock:
            if sum(1 for one in self.folder.iterdir() if one.is_dir()) >= self.most:
                message = f"{self.most} sessions are open: delete those that are done with"
                raise ApiError(429, message, "too_many_sessions", headers={"Retry-After": "60"})
            history = History.begin(self.folder / new_id(), picture, key)
            self._open[history.id] = history
            return history

    def find(self, one: str, key: str) -> History:
        """The session, if it is this client's."""
        with self._lock:
            history = self._current(one)
        if history is None or history.key != digest_of(key):
            raise ApiError(404, f"session: there is no {one[:40]!r}", "session_not_found", "session")
        return history

    def end(self, history: History) -> None:
        """Forgets a session and its pictures."""
        with self._lock, history.lock:
            self._open.pop(history.id, None)
            shutil.rmtree(history.folder, ignore_errors=True)

    def _current(self, one: str) -> History | None:
        """The session as it stands: another process may have changed it, or ended it."""
        history = self._open.get(one)
        if history is None:
            return self._opened(one)
        try:
            history.refresh()
        except FileNotFoundError:
            del self._open[one]
            return None
        except (OSError, ValueError) as error:
            logger.warning("session %s cannot be read again: %s", one, error)
        return history

    def _opened(self, one: str) -> History | None:
        if not re.fullmatch(r"[0-9a-f]{32}", one) or not (self.folder / one).is_dir():
            return None
        try:
            self._open[one] = History.open(self.folder / one)
        except (OSError, ValueError) as error:
            logger.warning("session %s cannot be read: %s", one, error)
            return None
        return self._open[one]

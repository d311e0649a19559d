"""The pictures of one session, in a folder: those that edits have led through, and those that are staged.

index.json   {"key", "at", "entries": [name …], "staged": {id: {"name", "seed"}}}
<name>.png   a picture; files never change, and those that the index does not name are removed

So pictures and history outlive the recordings, the worker and the process. Several processes may serve a session: each
reads the index again where another has written it, and none writes while another does.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from time import monotonic
from typing import Any

from sdxl.errors import InputError
from sdxl.serve.errors import ApiError
from sige.files import atomic_write
from sige.locks import hold

__all__ = ["History", "new_id"]

INDEX = "index.json"
MOST_ENTRIES = 100  # pictures that can be gone back to
MOST_STAGED = 32
PATIENCE = 10.0  # seconds that another process may take to change a session


def new_id() -> str:
    """An identity that nobody guesses."""
    return secrets.token_hex(16)


def digest_of(key: str) -> str:
    """What is written of a client's key, to know it again."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


class History:
    """The picture of a session, the ones before and after it, and the results that nobody has accepted yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = folder.name
        self.lock = RLock()
        self.used_at = monotonic()
        self.key, self.at = "", 0
        self.entries: list[str] = []
        self.staged: dict[str, dict[str, Any]] = {}
        self._seen: tuple[int, ...] = ()  # which index it has read, or written

    @classmethod
    def begin(cls, folder: Path, picture: bytes, key: str) -> History:
        """A new session of a picture."""
        folder.mkdir(parents=True)
        history = cls(folder)
        history.key = digest_of(key)
        history.entries = [history._keep(picture)]
        history._save()
        return history

    @classmethod
    def open(cls, folder: Path) -> History:
        """The session in a folder; raises `ValueError` where its index is damaged."""
        history = cls(folder)
        history.refresh()
        return history

    def refresh(self) -> None:
        """Reads the index where another process has written it; `FileNotFoundError`: it has ended the session."""
        with self.lock, (self.folder / INDEX).open() as file:
            if self._seen != (seen := _version(file.fileno())):
                self._read(json.load(file))
                self._seen = seen

    def _read(self, index: Any) -> None:
        try:
            self.key, self.at = str(index["key"]), int(index["at"])
            self.entries = [_name(name) for name in index["entries"]]
            self.staged = {str(one): {"name": _name(said["name"]), "seed": int(said["seed"])}
                              for one, said in index["staged"].items()}  # fmt: skip
            if not 0 <= self.at < len(self.entries):
                raise ValueError(f"entry {self.at} of {len(self.entries)}")
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.folder / INDEX}: {error!r}") from error

    # ---- what it holds ----------------------------------------------------------------------------------------------

    @property
    def current(self) -> str:
        """The name of the session's picture."""
        with self.lock:
            return self.entries[self.at]

    def picture(self, name: str | None = None) -> bytes:
        """The PNG of an entry or of a staged result; None means the current one."""
        with self.lock:
            known = {*self.entries, *(said["name"] for said in self.staged.values())}
            chosen = self.current if name is None else name
            if chosen not in known:
                raise ApiError(404, f"picture: the session has no {chosen[:40]!r}", "picture_not_found", "picture")
            try:
                return (self.folder / f"{chosen}.png").read_bytes()
            except FileNotFoundError:  # another process has just removed it
                raise ApiError(404, f"picture: {chosen} is gone", "picture_not_found", "picture") from None

    def facts(self) -> dict[str, Any]:
        """What a client is told of it."""
        with self.lock:
            return {
                "id": self.id,
                "current": self.current,
                "entries": list(self.entries),
                "at": self.at,
                "undo": self.at,
                "redo": len(self.entries) - 1 - self.at,
                "staged": [{"id": one, "picture": said["name"], "seed": said["seed"]}
                           for one, said in self.staged.items()],
            }  # fmt: skip

    # ---- what changes it --------------------------------------------------------------------------------------------

    def stage(self, picture: bytes, seed: int, of: str | None = None) -> tuple[str, str]:
        """Keeps a result until it is accepted or discarded; returns its identity and the name of its picture.

        A result `of` another picture than the session's is refused: accepting it would take back what came between.
        """
        with self._changing():
            if of is not None and of != self.current:
                raise InputError("session: its picture was changed while the edit ran: make the edit again", "session")
            one, name = f"result-{secrets.token_hex(6)}", self._keep(picture)
            self.staged[one] = {"name": name, "seed": seed}
            while len(self.staged) > MOST_STAGED:
                del self.staged[next(iter(self.staged))]
            return one, name

    def commit(self, one: str) -> None:
        """Makes a staged result the session's picture. The other staged results are of the picture before: they go."""
        with self._changing():
            if one not in self.staged:
                raise ApiError(404, f"result: {one[:40]!r} is not staged", "result_not_found", "result")
            self.entries[self.at + 1 :] = [self.staged[one]["name"]]
            self.at += 1
            self.staged.clear()
            gone = max(len(self.entries) - MOST_ENTRIES, 0)
            del self.entries[:gone]
            self.at -= gone

    def discard(self, one: str | None = None) -> None:
        """Forgets a staged result, or all of them."""
        with self._changing():
            if one is not None and one not in self.staged:
                raise ApiError(404, f"result: {one[:40]!r} is not staged", "result_not_found", "result")
            for name in [one] if one is not None else list(self.staged):
                del self.staged[name]

    def go(self, steps: int) -> None:
        """Goes back (-1) or forward (1) in the history."""
        with self._changing():
            at = self.at + steps
            if not 0 <= at < len(self.entries):
                verb = "undo" if steps < 0 else "redo"
                raise ApiError(409, f"{verb}: there is nothing to {verb}", f"nothing_to_{verb}")
            self.at = at
            self.staged.clear()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Inside, this is the session as it stands, and no other thread or process changes it; then it is saved."""
        with self.lock:
            try:
                held = hold(self.folder / ".lock", PATIENCE)
                if held is None:
                    raise ApiError(503, "session: another server holds it: try again", "session_busy", "session")
                with held:
                    self.refresh()
                    self._seen = ()  # where the block or the disk fails, the next look reads the index again
                    yield
                    self._save()
            except FileNotFoundError:
                raise ApiError(404, "session: it has ended", "session_not_found", "session") from None

    # ---- files ------------------------------------------------------------------------------------------------------

    def _keep(self, picture: bytes) -> str:
        name = secrets.token_hex(8)
        with atomic_write(self.folder / f"{name}.png") as temporary:
            temporary.write_bytes(picture)
        return name

    def _save(self) -> None:
        self.used_at = monotonic()
        index = {"key": self.key, "at": self.at, "entries": self.entries, "staged": self.staged}
        with atomic_write(self.folder / INDEX) as temporary:
            temporary.write_text(json.dumps(index))
        with (self.folder / INDEX).open() as saved:
            self._seen = _version(saved.fileno())
        named = {*self.entries, *(said["name"] for said in self.staged.values())}
        for file in self.folder.glob("*.png"):
            if file.stem not in named:
                file.unlink(missing_ok=True)


def _version(file: int) -> tuple[int, ...]:
    """What is different for an index that was written anew: it is another file."""
    facts = os.fstat(file)
    return facts.st_ino, facts.st_mtime_ns, facts.st_size


def _name(text: Any) -> str:
    if not re.fullmatch(r"[0-9a-f]{16}", str(text)):
        raise ValueError(f"{str(text)[:40]!r} is no picture's name")
    return str(text)

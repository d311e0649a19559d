"""The pictures of one session, in a folder: those that edits have led through, and those that are staged.

index.json   {"key", "at", "entries": [name …], "staged": {id: {"name", "seed"}}}
<name>.png   a picture; files never change, and those that the index does not name are removed

So pictures and history outlive the recordings, the worker and the process.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from pathlib import Path
from threading import RLock
from time import monotonic
from typing import Any

from sdxl.serve.errors import ApiError
from sige.files import atomic_write

__all__ = ["History", "new_id"]

INDEX = "index.json"
MOST_ENTRIES = 100  # pictures that can be gone back to
MOST_STAGED = 32


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
        index = json.loads((folder / INDEX).read_text())
        try:
            history.key, history.at = str(index["key"]), int(index["at"])
            history.entries = [_name(name) for name in index["entries"]]
            history.staged = {str(one): {"name": _name(said["name"]), "seed": int(said["seed"])}
                              for one, said in index["staged"].items()}  # fmt: skip
            if not 0 <= history.at < len(history.entries):
                raise ValueError(f"entry {history.at} of {len(history.entries)}")
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / INDEX}: {error!r}") from error
        return history

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
            return (self.folder / f"{chosen}.png").read_bytes()

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

    def stage(self, picture: bytes, seed: int) -> tuple[str, str]:
        """Keeps a result until it is accepted or discarded; returns its identity and the name of its picture."""
        with self.lock:
            one, name = f"result-{secrets.token_hex(6)}", self._keep(picture)
            self.staged[one] = {"name": name, "seed": seed}
            while len(self.staged) > MOST_STAGED:
                del self.staged[next(iter(self.staged))]
            self._save()
            return one, name

    def commit(self, one: str) -> None:
        """Makes a staged result the session's picture. The other staged results are of the picture before: they go."""
        with self.lock:
            if one not in self.staged:
                raise ApiError(404, f"result: {one[:40]!r} is not staged", "result_not_found", "result")
            self.entries[self.at + 1 :] = [self.staged[one]["name"]]
            self.at += 1
            self.staged.clear()
            gone = max(len(self.entries) - MOST_ENTRIES, 0)
            del self.entries[:gone]
            self.at -= gone
            self._save()

    def discard(self, one: str | None = None) -> None:
        """Forgets a staged result, or all of them."""
        with self.lock:
            if one is not None and one not in self.staged:
                raise ApiError(404, f"result: {one[:40]!r} is not staged", "result_not_found", "result")
            for name in [one] if one is not None else list(self.staged):
                del self.staged[name]
            self._save()

    def go(self, steps: int) -> None:
        """Goes back (-1) or forward (1) in the history."""
        with self.lock:
            at = self.at + steps
            if not 0 <= at < len(self.entries):
                verb = "undo" if steps < 0 else "redo"
                raise ApiError(409, f"{verb}: there is nothing to {verb}", f"nothing_to_{verb}")
            self.at = at
            self.staged.clear()
            self._save()

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
        named = {*self.entries, *(said["name"] for said in self.staged.values())}
        for file in self.folder.glob("*.png"):
            if file.stem not in named:
                file.unlink(missing_ok=True)


def _name(text: Any) -> str:
    if not re.fullmatch(r"[0-9a-f]{16}", str(text)):
        raise ValueError(f"{str(text)[:40]!r} is no picture's name")
    return str(text)

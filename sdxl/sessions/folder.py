"""A session's folder: its book and its recordings as files, the old state or the new one at any moment."""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import sige
from sdxl.errors import InputError, is_out_of_memory
from sdxl.pictures.images import open_picture
from sdxl.pictures.png import save_png
from sdxl.sessions.book import Book, Recorded, State
from sdxl.sessions.check import check_entry
from sige.files import atomic_write
from sige.recordings import FolderShelf
from sige.tensor_files import check_header_length

__all__ = ["SessionFolder"]

INDEX = "session.json"
VERSION = 1
RECORDINGS = "recordings"
MOST_BYTES = 1_000_000  # of the index; 33 entries take 10,000
_OURS = re.compile(r"[0-9a-f]{12}\.(png|safetensors)|[\w.]+-([0-9]+-)?[0-9a-f]{8}\.safetensors|\..*\.part", re.DOTALL)


class SessionFolder:
    """A session on disk.

    Files never change: what is new gets a new name. `session.json` names those that count, and is replaced as a whole.
    So a process that is killed at any moment leaves the old state or the new one.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._names: dict[int, tuple[object, str]] = {}  # by id: what was written or read, and the name of its files

    @property
    def exists(self) -> bool:
        """Says whether the folder holds a session."""
        return (self.path / INDEX).is_file()

    def pictures(self) -> list[Image.Image]:
        """The session's pictures, the one it began with or the oldest that is kept first; none where it is new."""
        self._check()
        if not self.exists:
            return []
        with self._explained():
            entries = self._index()["entries"]
            return [open_picture(self.path / f"{entry['state']}.png") for entry in entries]

    def open(
        self, device: torch.device, budget: int | str | None, code: str = "auto"
    ) -> tuple[Book | None, sige.Store]:
        """The book and the store; no book where the folder is new."""
        self._check()
        recordings = self.path / RECORDINGS
        recordings.mkdir(parents=True, exist_ok=True)
        if not self.exists:
            return None, sige.Store(budget, code, FolderShelf(recordings, device))
        with self._explained():
            index = self._index()
            shelf = FolderShelf(recordings, device, index["recordings"])
            return self._book(index, device), sige.Store(budget, index["code"], shelf)

    def _check(self) -> None:
        """Refuses a folder with other files, or a place where none can be made."""
        if self.exists:
            return
        if self.path.exists() and (not self.path.is_dir() or not all(map(_is_ours, self.path.rglob("*")))):
            raise InputError(f"session: {self.path} is not empty and holds no session: name another folder", "session")
        if not self.path.absolute().parent.is_dir():
            raise InputError(f"session: the folder {self.path.parent} does not exist; create it first", "session")

    def _index(self) -> dict[str, Any]:
        path = self.path / INDEX
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{INDEX} is larger than {MOST_BYTES:,} bytes")
        index: dict[str, Any] = json.loads(path.read_text())
        if index["version"] != VERSION:
            raise ValueError(f"it is of version {reprlib.repr(index['version'])}, expected {VERSION}")
        if not index["entries"]:
            raise ValueError("it names no pictures")
        names = [name for entry in index["entries"] for name in (entry["state"], entry["recorded"])]
        for name in (*names, *([] if index["noise"] is None else [index["noise"]])):
            if not re.fullmatch(r"[0-9a-f]{12}", name):  # it becomes part of a path
                raise ValueError(f"it names the file {reprlib.repr(name)}")
        return index

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Inside, an error about a file becomes an `InputError` of one line."""
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:  # a damaged folder may hold anything
            if is_out_of_memory(error):
                raise
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(f"session: {self.path} cannot be read ({why}): name another folder", "session") from error

    def save(self, book: Book, store: sige.Store) -> None:
        """Writes what is new, then the index, then removes what no longer counts."""
        shelf = store.shelf
        assert isinstance(shelf, FolderShelf)
        index = {
            "version": VERSION,
            "signature": book.signature,
            "code": store.code,
            "recordings": shelf.manifest,
            "noise": None if book.noise is None else self._saved(book.noise, {"noise": book.noise}),
            "entries": [
                {"state": self._saved_state(state), "recorded": self._saved(recorded, vars(recorded))}
                for state, recorded in (*book.before, (book.state, book.recorded))
            ],
        }
        with atomic_write(self.path / INDEX) as temporary:
            temporary.write_text(json.dumps(index, indent=1))
        shelf.sweep()
        self._sweep(index)

    # ---- files ------------------------------------------------------------------------------------------------------

    def _saved_state(self, state: State) -> str:
        tensors = {name: value for name, value in vars(state).items() if name != "picture"}
        name = self._saved(state, tensors)
        picture = self.path / f"{name}.png"
        if not picture.exists():
            save_png(state.picture, picture, {})
        return name

    def _saved(self, owner: object, tensors: dict[str, Tensor | None]) -> str:
        """The name of the file with the owner's tensors, which is written once."""
        known = self._names.get(id(owner))
        if known is not None and known[0] is owner:
            return known[1]
        name = os.urandom(6).hex()
        kept = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items() if value is not None}
        with atomic_write(self.path / f"{name}.safetensors") as temporary:
            save_file(kept, temporary)
        self._names[id(owner)] = owner, name
        return name

    def _read(self, name: str, device: torch.device) -> dict[str, Tensor]:
        path = self.path / f"{name}.safetensors"
        check_header_length(path)
        return load_file(path, device=str(device))  # type: ignore[no-any-return]

    def _book(self, index: dict[str, Any], device: torch.device) -> Book:
        entries = []
        for entry in index["entries"]:
            state = State(open_picture(self.path / f"{entry['state']}.png"), **self._read(entry["state"], device))
            recorded = Recorded(**self._read(entry["recorded"], device))
            check_entry(state, recorded)
            self._names |= {id(one): (one, entry[key]) for key, one in (("state", state), ("recorded", recorded))}
            entries.append((state, recorded))
        noise = None if index["noise"] is None else self._read(index["noise"], device)["noise"]
        if noise is not None:
            self._names[id(noise)] = noise, index["noise"]
        if not isinstance(index["signature"], str):
            raise ValueError("its signature is no text")
        *before, (state, recorded) = entries
        return Book(state, recorded, before, noise, index["signature"])

    def _sweep(self, index: dict[str, Any]) -> None:
        counts = {index["noise"], *(name for entry in index["entries"] for name in entry.values())}
        self._names = {key: kept for key, kept in self._names.items() if kept[1] in counts}
        for path in _own_files(self.path):
            if path.stem not in counts:
                with suppress(FileNotFoundError):
                    path.unlink()


def _own_files(folder: Path) -> Iterable[Path]:
    return [path for path in folder.iterdir() if path.suffix in (".safetensors", ".png") and len(path.stem) == 12]


def _is_ours(path: Path) -> bool:
    """Says whether an edit that was killed before the first index may have left the file or folder."""
    return path.name == RECORDINGS or any(_OURS.fullmatch(name) for name in (path.name, path.parent.name))

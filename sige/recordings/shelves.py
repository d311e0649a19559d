"""Shelves: where a store keeps coded recordings, in memory or in files, and how an edit is undone on each."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch

from sige.errors import DamagedError
from sige.recordings.coded import Coded, CodedPatch
from sige.recordings.coded_files import damaged_unless_read, load_coded, load_patch, save_coded, save_patches

__all__ = ["MOST_UNDO", "FolderShelf", "MemoryShelf", "Shelf"]

MOST_UNDO = 8  # edits that can be undone
_NAME = r"[\w.]+-\d{1,9}"  # component and step
_FILE = r"[\w.-]+\.safetensors"  # in the folder itself, whatever a damaged list says

Patches = dict[str, CodedPatch]  # by the name of the recording


class Shelf(Protocol):
    """Recordings by name, with a pile of edits that can be undone."""

    is_slow: bool  # to read: it pays to begin early

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the recordings."""

    @property
    def nbytes(self) -> int:
        """Bytes of recordings and of the pile."""

    def put(self, name: str, coded: Coded) -> None:
        """Keeps a recording under the name, in the place of an earlier one."""

    def read(self, name: str) -> Coded:
        """The recording, with every accepted edit in it."""

    def drop(self, name: str) -> None:
        """Forgets a recording."""

    def apply(self, patches: Patches) -> None:
        """Puts an edit into the recordings, and onto the pile."""

    def undo(self) -> bool:
        """Takes the last edit out again; False where the pile is empty."""

    def forget_oldest(self) -> bool:
        """Makes the oldest edit of the pile final; False where the pile is empty."""


class MemoryShelf:
    """Recordings in memory, with edits put in; the pile holds the rows that were there before."""

    is_slow = False

    def __init__(self) -> None:
        self._kept: dict[str, Coded] = {}
        self._pile: list[Patches] = []

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._kept)

    @property
    def nbytes(self) -> int:
        pile = (patch for patches in self._pile for patch in patches.values())
        return sum(coded.nbytes for coded in self._kept.values()) + sum(patch.nbytes for patch in pile)

    def put(self, name: str, coded: Coded) -> None:
        self._kept[name] = coded
        self._pile.clear()

    def read(self, name: str) -> Coded:
        return self._kept[name]

    def drop(self, name: str) -> None:
        del self._kept[name]
        for patches in self._pile:
            patches.pop(name, None)

    def apply(self, patches: Patches) -> None:
        self._pile.append({name: self._kept[name].apply(patch) for name, patch in patches.items()})
        if len(self._pile) > MOST_UNDO:
            self.forget_oldest()

    def undo(self) -> bool:
        if not self._pile:
            return False
        for name, patch in self._pile.pop().items():
            self._kept[name].apply(patch)
        return True

    def forget_oldest(self) -> bool:
        if not self._pile:
            return False
        del self._pile[0]
        return True


class FolderShelf:
    """Recordings as files. An edit is a file of its own, which `read` puts in, so to undo it is to leave it out.

    A file never changes. `manifest` names those that count, and the owner of the shelf writes it down; `sweep` then
    removes the others. So a process that is killed leaves the old state or the new one.
    """

    is_slow = True

    def __init__(self, folder: Path, device: torch.device, manifest: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.device = device
        manifest = manifest or {}
        self._files: dict[str, str] = dict(manifest.get("recordings", {}))  # file by the recording's name
        self._patches: list[str] = list(manifest.get("edits", []))  # files, the oldest first
        for name, file in (*self._files.items(), *(("edit-0", file) for file in self._patches)):
            if not (re.fullmatch(_NAME, name) and re.fullmatch(_FILE, file)):
                raise DamagedError(f"{folder}: the list of its recordings names {file!r} for {name!r}")

    @property
    def manifest(self) -> dict[str, Any]:
        """The names of the files that count, as JSON can hold them."""
        return {"recordings": self._files, "edits": self._patches}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._files)

    @property
    def nbytes(self) -> int:
        return sum((self.folder / file).stat().st_size for file in (*self._files.values(), *self._patches))

    def put(self, name: str, coded: Coded) -> None:
        while self.forget_oldest():
            pass
        self._files[name] = self._written(name, lambda path: save_coded(coded, path))

    def read(self, name: str) -> Coded:
        return self._read(name, self._patches)

    def drop(self, name: str) -> None:
        del self._files[name]

    def apply(self, patches: Patches) -> None:
        self._patches.append(self._written("edit", lambda path: save_patches(patches, path)))
        if len(self._patches) > MOST_UNDO:
            self.forget_oldest()

    def undo(self) -> bool:
        if not self._patches:
            return False
        self._patches.pop()
        return True

    def forget_oldest(self) -> bool:
        if not self._patches:
            return False
        oldest, *others = self._patches
        for name in self.names:
            coded = self._read(name, [oldest])
            self._files[name] = self._written(name, lambda path, coded=coded: save_coded(coded, path))  # type: ignore[misc]
        self._patches = others
        return True

    def sweep(self) -> None:
        """Removes every file that does not count."""
        counts = {*self._files.values(), *self._patches}
        for path in self.folder.glob("*.safetensors"):
            if path.name not in counts:
                with suppress(FileNotFoundError):
                    path.unlink()

    def _read(self, name: str, patches: Iterable[str]) -> Coded:
        coded = load_coded(self.folder / self._files[name], self.device)
        for file in patches:
            patch = load_patch(self.folder / file, name, self.device)
            if patch is not None:
                with damaged_unless_read(self.folder / file):
                    coded.apply(patch)
        return coded

    def _written(self, name: str, write: Callable[[Path], None]) -> str:
        file = f"{name}-{os.urandom(4).hex()}.safetensors"
        write(self.folder / file)
        return file

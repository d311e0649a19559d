"""A store: recordings by component and step under a byte budget; accepted edits go in, and can be undone.

put(component, step, part) ─▶ coded ─▶ shelf: memory, or a folder's files
get(component, step)       ─▶ recording whose rows are decoded as a pass reads them, kept while `hold` names it
patch({key: …})            ─▶ a region's new rows into the recordings

Where the budget is too small, the oldest edits become final. Then rows are kept in fewer bits, then steps are left
out, then other components. An edit on fewer recordings takes more dense passes, and is never wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from sige.errors import ConfigError, RecordingError
from sige.recordings.coded import CODES, Code, Coded, CodedPatch
from sige.recordings.patch import Patch
from sige.recordings.recording import ComponentRecording, Recording
from sige.recordings.shelves import MemoryShelf, Shelf
from sige.sizes import parse_bytes

__all__ = ["Key", "Store"]

logger = logging.getLogger(__name__)

Key = tuple[str, int]  # component and step
LEAST_STEPS = 3  # fewer do not show how features change over the steps


class Store:
    """Recordings that outlive an edit."""

    def __init__(self, budget: int | str | None = None, code: str = "auto", shelf: Shelf | None = None) -> None:
        self.budget = None if budget is None else parse_bytes(budget)
        if code not in ("auto", *CODES):
            raise ConfigError(f"code: got {code!r}, expected one of auto, {', '.join(CODES)}")
        self.code: Code = "exact" if code == "auto" else code  # type: ignore[assignment]
        self.shelf = MemoryShelf() if shelf is None else shelf
        self._held: dict[Key, Future[Recording]] = {}
        self._reader: ThreadPoolExecutor | None = None

    # ---- what is kept -----------------------------------------------------------------------------------------------

    def steps(self, component: str) -> tuple[int, ...]:
        """The steps at which the component is kept."""
        return tuple(sorted(step for name, step in self._keys() if name == component))

    @property
    def nbytes(self) -> int:
        """Bytes of the recordings at rest, and of what undoing needs."""
        return self.shelf.nbytes

    def _keys(self) -> list[Key]:
        return [_key(name) for name in self.shelf.names]

    def put(self, component: str, step: int, part: ComponentRecording) -> None:
        """Keeps a recording; the edits before can no longer be undone."""
        self._held.pop((component, step), None)
        self.shelf.put(_name((component, step)), Coded.of(part, self.code))
        self._fit()

    def patch(self, patches: Mapping[Key, Patch]) -> None:
        """Puts new rows into the recordings; `undo` takes them out again."""
        coded: dict[str, CodedPatch] = {}
        for key, patch in patches.items():
            if key in self._keys():
                coded[_name(key)] = CodedPatch.of(patch, self.shelf.read(_name(key)))
        self._held.clear()
        self.shelf.apply(coded)
        self._fit()

    def undo(self) -> bool:
        """Takes the last patches out again; False where there are none."""
        self._held.clear()
        return self.shelf.undo()

    def clear(self, component: str | None = None) -> None:
        """Forgets every recording, or those of one component; edits before can no longer be undone."""
        self._held.clear()
        for key in self._keys():
            if component in (None, key[0]):
                self.shelf.drop(_name(key))
        while self.shelf.forget_oldest():
            pass

    # ---- what is read -----------------------------------------------------------------------------------------------

    def get(self, component: str, step: int) -> Recording:
        """The recording; its rows are decoded as they are read."""
        key = component, step
        if key not in self._held:
            self._held[key] = self._read_later(key)
        return self._held[key].result()

    def hold(self, now: Collection[Key], next_: Collection[Key] = ()) -> None:
        """Forgets recordings but those that are read now or next; reads the next from files meanwhile."""
        for key in [key for key in self._held if key not in now and key not in next_]:
            del self._held[key]
        for key in (*now, *(next_ if self.shelf.is_slow else ())):
            if key not in self._held:
                self._held[key] = self._read_later(key)

    def _read_later(self, key: Key) -> Future[Recording]:
        if key not in self._keys():
            raise RecordingError(f"store: {key[0]} of step {key[1]} is not kept: it holds {self.shelf.names}")
        self._reader = self._reader or ThreadPoolExecutor(1, "sige-store")
        return self._reader.submit(self._read, key)

    def _read(self, key: Key) -> Recording:
        return Recording({key[0]: self.shelf.read(_name(key)).recording()})

    # ---- the budget -------------------------------------------------------------------------------------------------

    def _fit(self) -> None:
        """Makes what is kept smaller until it fits the budget."""
        while self.budget is not None and self.nbytes > self.budget:
            if self.shelf.forget_oldest():
                continue
            self._held.clear()
            keys = self._keys()
            if self.code != CODES[-1]:
                self.code = CODES[CODES.index(self.code) + 1]
                for key in keys:
                    part = self.shelf.read(_name(key)).recording()
                    self.shelf.put(_name(key), Coded.of(part, self.code))
                continue
            key = _least_missed(keys)
            logger.warning("the budget of %d bytes is too small for %s at step %d", self.budget, *key)
            self.shelf.drop(_name(key))


def _least_missed(keys: Collection[Key]) -> Key:
    """The recording to leave out first: of the component with most steps, the one whose neighbours are nearest."""
    by_component: dict[str, list[int]] = {}
    for component, step in sorted(keys):
        by_component.setdefault(component, []).append(step)
    component, steps = max(by_component.items(), key=lambda item: len(item[1]))
    if len(steps) <= LEAST_STEPS:  # too few to interpolate: they go after the components of one recording
        component, steps = min(by_component.items(), key=lambda item: len(item[1]))
    inner = range(1, len(steps) - 1)
    if not inner:
        return component, steps[-1]
    return component, steps[min(inner, key=lambda at: (steps[at + 1] + 1) / (steps[at - 1] + 1))]


def _name(key: Key) -> str:
    return f"{key[0]}-{key[1]}"


def _key(name: str) -> Key:
    component, _, step = name.rpartition("-")
    return component, int(step)

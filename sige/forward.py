"""A component's own forward, as dense and recorded passes call it: plain, or compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sige.compiled import Compilation, Compiled
from sige.errors import UnsupportedError
from sige.merging.hooks import merges
from sige.models.component import Component
from sige.recordings import ComponentRecording, Taps

__all__ = ["Forward"]


class Forward:
    """The forward of the model itself, with the taps of its recordings."""

    def __init__(self, plain: Callable[..., Any], taps: Taps | None = None) -> None:
        self.plain = plain
        self.taps = Taps() if taps is None else taps
        self.compilation: Compilation | None = None  # what the user has asked for
        self._compiled: Compiled | None = None

    def prepare(self, component: Component) -> None:
        """Hangs the taps of a component that was walked, and compiles its passes where that was asked for."""
        self.taps.hang(component.probes())
        if self.compilation is None:
            return
        if merges(component.module):
            raise UnsupportedError(
                f"{component.name}: its rows merge, which a compiled pass cannot do: call sige.tome.remove() first, or "
                "handle.compile(None) to run uncompiled"
            )
        self._compiled = Compiled(component.name, self.plain, component.regions(), self.compilation)

    def reset(self) -> None:
        """Takes taps and compiled code away; `prepare` makes new ones."""
        self.taps.remove()
        if self._compiled is not None:
            self._compiled.remove()
        self._compiled = None

    def uncompiled(self) -> Forward:
        """The same forward with the same taps, not compiled as a whole; its blocks stay as they are."""
        return Forward(self.plain if self._compiled is None else self._compiled.blocks, self.taps)

    def dense(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs a dense pass."""
        return self.plain(*args, **kwargs) if self._compiled is None else self._compiled.dense(args, kwargs)

    def recorded(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ComponentRecording]:
        """Runs a dense pass; returns its result, and the rows and sums that the taps have kept."""
        with self.taps.recording():
            if self._compiled is None:
                result = self.plain(*args, **kwargs)
            else:
                result = self._compiled.recorded(args, kwargs)
            return result, self.taps.collect()

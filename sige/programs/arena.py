"""The arena: what packed passes read from recordings, at addresses that stay the same from pass to pass.

A CUDA graph reads where it read when it was captured. So recorded rows, keys, values and sums are copied into the arena
when a pass reads another recording than the one before, and all graphs of a component read them there.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from sige.recordings import BlendedComponent, ComponentRecording

__all__ = ["Arena", "Slot", "like"]

Slot = tuple[str, int, str]  # kind, term, key: the arguments of `BlendedComponent.read`


@dataclass
class Held:
    """A tensor of the arena, and what was copied into it."""

    tensor: Tensor
    part: weakref.ref[ComponentRecording] | None = None  # None: nothing, or what may be another by now
    source: weakref.ref[Tensor] | None = None
    version: int = -1  # of the source, which counts what is written to it; a tensor of inference mode has none

    def fill(self, part: ComponentRecording, source: Tensor) -> None:
        """Copies what the part recorded."""
        self.tensor.copy_(source, non_blocking=True)
        self.part, self.source = weakref.ref(part), weakref.ref(source)
        self.version = -1 if source.is_inference() else source._version

    def holds(self, part: ComponentRecording) -> bool:
        """Says whether the tensor was filled from this part."""
        return self.part is not None and self.part() is part

    def is_current(self, slot: Slot) -> bool:
        """Says whether the part still has the same tensor there, and nobody wrote to it."""
        kind, _, key = slot
        part = None if self.part is None else self.part()
        source = None if self.source is None else self.source()
        if part is None or source is None or self.version < 0 or source._version != self.version:
            return False
        kept = part.rows if kind == "rows" else part.stats
        return isinstance(kept, dict) and kept.get(key) is source  # coded rows are decoded anew at each read


class Arena:
    """The tensors of one component; regions share them, inputs of other sizes do not."""

    def __init__(self) -> None:
        self.fills = 0  # how often a tensor was filled: as long as it stays, so does what all of them hold
        self._held: dict[tuple[Slot, Hashable], Held] = {}

    def read(self, slot: Slot, size: Hashable, recorded: BlendedComponent) -> Tensor:
        """The tensor of a slot, filled with what the pass reads there. `size` says whose inputs may share it."""
        kind, term, key = slot
        part = recorded.terms[term][0]
        held = self._held.get((slot, size))
        if held is None or not held.holds(part):
            source = recorded.read(kind, term, key)
            held = held or self._held.setdefault((slot, size), Held(like(source)))
            held.fill(part, source)
            self.fills += 1
        return held.tensor

    def check(self) -> bool:
        """Forgets the contents of tensors whose recording was written to since; says whether there were any."""
        stale = [held for (slot, _), held in self._held.items() if not held.is_current(slot)]
        for held in stale:
            held.part = None
        return bool(stale)

    @property
    def nbytes(self) -> int:
        """Bytes of every tensor."""
        return sum(held.tensor.nbytes for held in self._held.values())


def like(source: Tensor) -> Tensor:
    """A tensor with the shape, dtype and strides of another."""
    return torch.empty_like(source, memory_format=torch.preserve_format)

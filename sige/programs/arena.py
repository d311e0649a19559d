"""The arena: what packed passes read from recordings, at addresses that stay the same from pass to pass.

A CUDA graph reads where it read when it was captured. So recorded rows, keys, values and sums are copied into the arena
when a pass reads another recording than the one before, and all graphs of a component read them there.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from sige.recordings import BlendedComponent, ComponentRecording

__all__ = ["Arena", "Slot", "like"]

Slot = tuple[str, int, str]  # kind, term, key: the arguments of `BlendedComponent.read`


@dataclass
class Held:
    """A tensor of the arena, and the recording whose rows lie in it."""

    tensor: Tensor
    part: Callable[[], ComponentRecording | None]  # None where it is gone


def _nothing() -> None:
    """The recording of a tensor whose contents are forgotten."""


class Arena:
    """The tensors of one component; regions share them, inputs of other sizes do not."""

    def __init__(self) -> None:
        self._held: dict[Hashable, Held] = {}

    def read(self, slot: Slot, size: Hashable, recorded: BlendedComponent) -> Tensor:
        """The tensor of a slot, filled with what the pass reads there. `size` says whose inputs may share it."""
        kind, term, key = slot
        part = recorded.terms[term][0]
        held = self._held.get((slot, size))
        if held is not None and held.part() is part:
            return held.tensor
        source = recorded.read(kind, term, key)
        held = Held(like(source) if held is None else held.tensor, weakref.ref(part))
        held.tensor.copy_(source, non_blocking=True)
        self._held[slot, size] = held
        return held.tensor

    def forget_contents(self) -> None:
        """Reads every recording anew."""
        for held in self._held.values():
            held.part = _nothing

    @property
    def nbytes(self) -> int:
        """Bytes of every tensor."""
        return sum(held.tensor.nbytes for held in self._held.values())


def like(source: Tensor) -> Tensor:
    """A tensor with the shape, dtype and strides of another."""
    return torch.empty_like(source, memory_format=torch.preserve_format)

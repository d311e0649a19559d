"""Recordings: what a dense pass leaves for later passes.

A `Recording` keeps, for each component of a model (`unet`, `vae.encoder`, `vae.decoder`), the input rows of the layers
that look at neighbours, the keys and values of self-attention, the sums of every GroupNorm, and the output.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sige.errors import RecordingError

__all__ = ["ComponentRecording", "Recording"]


@dataclass
class ComponentRecording:
    """One component's part: rows and sums by the name of the layer."""

    rows: MutableMapping[str, Tensor] = field(default_factory=dict)  # name -> [B, H * W, C]
    stats: dict[str, Tensor] = field(default_factory=dict)  # name -> fp64 [B, G, 2]
    input: Tensor | None = None  # on the meta device: shape and dtype of what was recorded
    output: Tensor | None = None  # [B, C_out, H_out, W_out]

    def clear(self) -> None:
        """Frees every tensor, also where a traceback still holds this part."""
        self.rows.clear()
        self.stats.clear()
        self.input = self.output = None

    @property
    def nbytes(self) -> int:
        """Bytes of every tensor kept."""
        kept = [*self.rows.values(), *self.stats.values()]
        return sum(tensor.nbytes for tensor in kept) + (self.output.nbytes if self.output is not None else 0)

    def check(self, name: str, sample: Tensor) -> None:  # [B, C, H, W]
        """Refuses an input whose batch size, resolution, dtype or device is not the recorded one."""
        recorded, output = self.ends(name)
        got = list(sample.shape), sample.dtype, sample.device
        want = list(recorded.shape), recorded.dtype, output.device
        if got != want:
            raise RecordingError(
                f"edit: {name} got {got[1]} {got[0]} on {got[2]}, expected what was recorded, {want[1]} {want[0]} on "
                f"{want[2]}: record a dense pass with the same batch size, resolution, dtype and device"
            )

    def ends(self, name: str) -> tuple[Tensor, Tensor]:  # [B, C, H, W] on the meta device, [B, C_out, H_out, W_out]
        """The recorded input and output; refuses an empty recording."""
        if self.input is None or self.output is None:
            raise RecordingError(f"edit: the recording of {name} is empty")
        return self.input, self.output

    def to(self, device: torch.device | str | None, dtype: torch.dtype | None) -> ComponentRecording:
        """A copy on another device or in another dtype; the sums stay fp64."""
        if self.output is None or self.input is None:
            return ComponentRecording()
        return ComponentRecording(
            {name: rows.to(device, dtype) for name, rows in self.rows.items()},
            {name: stats.to(device) for name, stats in self.stats.items()},
            self.input.to(dtype=dtype),
            self.output.to(device, dtype),
        )


@dataclass
class Recording:
    """The values that one dense pass left; a recording lives on its own, and several can be kept."""

    components: dict[str, ComponentRecording] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of every tensor kept."""
        return sum(component.nbytes for component in self.components.values())

    def clear(self) -> None:
        """Forgets every component; an edit on a cleared recording is an error."""
        self.components.clear()

    def free(self) -> None:
        """Frees every tensor at once, also where a traceback still holds a component."""
        for component in self.components.values():
            component.clear()
        self.clear()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Recording:
        """A copy on another device (the host, say) or in another dtype."""
        return Recording({name: component.to(device, dtype) for name, component in self.components.items()})

    def __repr__(self) -> str:
        return f"Recording({', '.join(self.components) or 'empty'}, {self.nbytes / 2**20:.1f} MiB)"

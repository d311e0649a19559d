"""A patch: a region's rows of every layer. Put into a recording, they make it the recording of the changed picture."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sige.errors import RecordingError
from sige.recordings.recording import ComponentRecording
from sige.region import Region
from sige.sizes import Size

__all__ = ["Patch", "active_index"]

_HALVINGS = 8  # levels that are looked at, above and below the size of the sample


@dataclass
class Patch:
    """New rows of one component at the active positions of a region, by the key of their layer."""

    region: Region
    rows: dict[str, Tensor] = field(default_factory=dict)  # key -> [B, N, C]
    output: Tensor | None = None  # [B, C_out, H_out, W_out], all of it

    @classmethod
    def of(cls, part: ComponentRecording, region: Region, name: str) -> Patch:
        """The region's rows of a whole recording."""
        before, after = part.ends(name)
        size = before.shape[2], before.shape[3]
        indices = {count: active_index(region, count, size, after.device) for count in _counts(part)}
        rows = {key: rows.index_select(1, indices[rows.shape[1]]) for key, rows in part.rows.items()}
        return cls(region, rows, after.clone())

    @property
    def nbytes(self) -> int:
        """Bytes of every tensor."""
        return sum(rows.nbytes for rows in self.rows.values()) + (0 if self.output is None else self.output.nbytes)


def _counts(part: ComponentRecording) -> set[int]:
    return {rows.shape[1] for rows in part.rows.values()}


def active_index(region: Region, count: int, size: Size, device: torch.device) -> Tensor:  # int32 [N]
    """The active positions of the level that has `count` positions, where the sample has the size `size`.

    Each level of a model has half as many rows and columns as the one before, rounded up, or twice as many.
    """
    height, width = size
    levels = [(height << k, width << k) for k in range(1, _HALVINGS)]
    levels += [(-(-height >> k), -(-width >> k)) for k in range(_HALVINGS)]
    for level in levels:
        if level[0] * level[1] == count:
            return torch.tensor(region.index(*level), device=device)
    raise RecordingError(f"patch: a layer has {count} positions, which is no level of a sample of {height} x {width}")

"""Coded recordings: rows as they were recorded, or in 16 or 8 bits with a scale for each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from sige.errors import RecordingError
from sige.ops import update_group_stats
from sige.recordings.patch import Patch, active_index
from sige.recordings.recording import ComponentRecording

__all__ = ["CODES", "Code", "Coded", "CodedPatch", "CodedRows"]

Code = Literal["exact", "16 bit", "8 bit"]
CODES: tuple[Code, ...] = ("exact", "16 bit", "8 bit")  # from the largest to the smallest
_LARGEST = {"16 bit": 1.0, "8 bit": 127.0}  # what the largest value of a row becomes
_KINDS = {"16 bit": torch.float16, "8 bit": torch.int8}
_TINY = 1e-30  # the scale of a row of zeros


@dataclass
class CodedRows:
    """One layer's rows in a code."""

    values: Tensor  # [B, M, C]
    dtype: torch.dtype  # of the rows
    scale: Tensor | None = None  # fp32 [B, M, 1]: features differ in size from position to position

    @classmethod
    def of(cls, rows: Tensor, code: Code) -> CodedRows:  # [B, M, C]
        """The rows in a code; exact rows are not copied."""
        if code == "exact":
            return cls(rows, rows.dtype)
        scale = rows.abs().amax(dim=2, keepdim=True).float().clamp_min(_TINY) / _LARGEST[code]
        values = rows / scale
        return cls((values.round() if code == "8 bit" else values).to(_KINDS[code]), rows.dtype, scale)

    def rows(self) -> Tensor:  # [B, M, C]
        """The rows, decoded; exact ones are not copied."""
        if self.scale is not None:
            return self.values.float().mul_(self.scale).to(self.dtype)
        return self.values

    def select(self, index: Tensor) -> CodedRows:  # int32 [N]
        """A copy of some of the rows."""
        scale = None if self.scale is None else self.scale.index_select(1, index)
        return CodedRows(self.values.index_select(1, index), self.dtype, scale)

    def write(self, index: Tensor, rows: CodedRows) -> None:  # int32 [N]
        """Puts rows in the same code in the place of those at `index`."""
        self.values.index_copy_(1, index.long(), rows.values)
        if self.scale is not None and rows.scale is not None:
            self.scale.index_copy_(1, index.long(), rows.scale)

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return self.values.nbytes + (0 if self.scale is None else self.scale.nbytes)


class DecodedRows(MutableMapping[str, Tensor]):
    """Coded rows that are decoded when they are read: a whole recording takes no more memory than its code.

    A norm and the convolution after it read the same rows one after the other, so the last ones are kept.
    """

    def __init__(self, coded: Mapping[str, CodedRows]) -> None:
        self._coded = dict(coded)
        self._last: tuple[str, Tensor] | None = None  # key and [B, M, C]

    def __getitem__(self, key: str) -> Tensor:  # [B, M, C]
        last = self._last
        if last is None or last[0] != key:
            self._last = last = key, self._coded[key].rows()
        return last[1]

    def __setitem__(self, key: str, rows: Tensor) -> None:  # [B, M, C]
        self._last = None
        self._coded[key] = CodedRows.of(rows, "exact")

    def __delitem__(self, key: str) -> None:
        self._last = None
        del self._coded[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._coded)

    def __len__(self) -> int:
        return len(self._coded)

    def clear(self) -> None:
        """Forgets every row; the inherited one would decode each before."""
        self._last = None
        self._coded.clear()


@dataclass
class Coded:
    """One component's recording in a code."""

    code: Code
    rows: dict[str, CodedRows]
    stats: dict[str, Tensor]  # fp64 [B, G, 2]
    input: Tensor  # [B, C, H, W], on the meta device
    output: Tensor  # [B, C_out, H_out, W_out]

    @classmethod
    def of(cls, part: ComponentRecording, code: Code) -> Coded:
        """A recording in a code; tensors of an exact one are shared with it."""
        rows = {key: CodedRows.of(rows, code) for key, rows in part.rows.items()}
        return cls(code, rows, dict(part.stats), *part.ends("store"))

    def recording(self) -> ComponentRecording:
        """The recording, whose rows are decoded when they are read; tensors of an exact one are shared."""
        return ComponentRecording(DecodedRows(self.rows), dict(self.stats), self.input, self.output)

    def apply(self, patch: CodedPatch) -> CodedPatch:
        """Puts a patch in, and returns the patch that takes it out again. Group sums follow."""

        def index(key: str) -> Tensor:  # int32 [N]
            return patch.index[self.rows[key].values.shape[1]]

        # Layers may share a tensor, so all old rows are read before the first is written.
        before = {key: self.rows[key].select(index(key)) for key in patch.rows}
        undo = CodedPatch(patch.index, before, self.output, dict(self.stats))
        for key in self.stats.keys() & patch.rows.keys():
            self.stats[key] = update_group_stats(self.stats[key], before[key].rows(), None, patch.rows[key].rows())
        for key, rows in patch.rows.items():
            self.rows[key].write(index(key), rows)
        self.stats |= patch.stats
        self.output = patch.output
        return undo

    @property
    def nbytes(self) -> int:
        """Bytes of every tensor kept."""
        kept = sum(rows.nbytes for rows in self.rows.values()) + sum(stats.nbytes for stats in self.stats.values())
        return kept + self.output.nbytes


@dataclass
class CodedPatch:
    """A patch in the code of the recording that it goes into."""

    index: dict[int, Tensor]  # the active positions int32 [N], by the number of positions of the level
    rows: dict[str, CodedRows]
    output: Tensor  # [B, C_out, H_out, W_out]
    stats: dict[str, Tensor] = field(default_factory=dict)  # fp64 [B, G, 2], where they are known and not derived

    @classmethod
    def of(cls, patch: Patch, into: Coded) -> CodedPatch:
        """A patch for a recording, in its code."""
        if patch.output is None:
            raise RecordingError("patch: it is empty, expected one that a packed pass has filled")
        size, device = (into.input.shape[2], into.input.shape[3]), patch.output.device
        counts = {into.rows[key].values.shape[1] for key in patch.rows}
        index = {count: active_index(patch.region, count, size, device) for count in counts}
        return cls(index, {key: CodedRows.of(rows, into.code) for key, rows in patch.rows.items()}, patch.output)

    @property
    def nbytes(self) -> int:
        """Bytes of every tensor."""
        return sum(rows.nbytes for rows in self.rows.values()) + self.output.nbytes

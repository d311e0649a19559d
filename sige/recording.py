"""What a dense pass leaves for later passes, and weighted sums of it.

A `Recording` keeps, for each component of a model (`unet`, `vae.encoder`, `vae.decoder`), the input rows of the layers
that look at neighbours, the keys and values of self-attention, the sums of every GroupNorm, and the output. A packed
pass reads it through a `Blend`: one recording, or a weighted sum of several (a forecast, an interpolation, a
correction). Only the rows that are read are blended.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from sige.errors import RecordingError
from sige.ops import MOST_TERMS, blend_rows, norm_affine, update_group_stats
from sige.ops.moments import blend_stats, scale_and_shift

__all__ = ["Blend", "BlendedComponent", "ComponentRecording", "Recording"]

_WEIGHT_TOLERANCE = 1e-6


@dataclass
class ComponentRecording:
    """One component's part: rows and sums by the name of the layer."""

    rows: dict[str, Tensor] = field(default_factory=dict)  # name -> [B, H * W, C]
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
    """What one dense pass left; it lives on its own, and several can be kept."""

    components: dict[str, ComponentRecording] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of every tensor kept."""
        return sum(component.nbytes for component in self.components.values())

    def clear(self) -> None:
        """Frees every tensor; an edit on a cleared recording is an error."""
        self.components.clear()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Recording:
        """A copy on another device (the host, say) or in another dtype."""
        return Recording({name: component.to(device, dtype) for name, component in self.components.items()})

    def __repr__(self) -> str:
        return f"Recording({', '.join(self.components) or 'empty'}, {self.nbytes / 2**20:.1f} MiB)"


@dataclass(frozen=True)
class Blend:
    """A weighted sum of recordings; the weights add up to 1."""

    terms: tuple[tuple[Recording, float], ...]

    @classmethod
    def of(cls, terms: Iterable[tuple[Recording, float]]) -> Blend:
        """Checks the terms and leaves out those of weight zero."""
        made = tuple(_term(term) for term in _listed(terms))
        total = sum(weight for _, weight in made)
        if not abs(total - 1.0) <= _WEIGHT_TOLERANCE:
            raise RecordingError(
                f"blend: got weights {[weight for _, weight in made]} that add up to {total:g}, expected 1: "
                "a forecast, an interpolation or a correction all do"
            )
        return cls(tuple((recording, weight) for recording, weight in made if weight != 0.0))

    def component(self, name: str) -> BlendedComponent:
        """The part of one component; every recording must have it."""
        parts = []
        for recording, weight in self.terms:
            part = recording.components.get(name)
            if part is None or part.output is None:
                have = ", ".join(recording.components) or "nothing: it is empty or was cleared"
                raise RecordingError(
                    f"edit: {name} was not recorded (this recording holds {have}): "
                    f"run the dense pass of {name} inside `with handle.record():` first"
                )
            parts.append((part, weight))
        return BlendedComponent(name, tuple(parts))


def _listed(terms: Any) -> list[Any]:
    if isinstance(terms, Recording) or not isinstance(terms, Iterable):
        raise RecordingError(
            f"blend: got {type(terms).__name__}, expected a list of (recording, weight): [(recording, 1.0)], say"
        )
    return list(terms)


def _term(term: Any) -> tuple[Recording, float]:
    pair = tuple(term) if isinstance(term, tuple | list) else ()
    if len(pair) != 2 or not isinstance(pair[0], Recording) or not isinstance(pair[1], Real):
        raise RecordingError(f"blend: got {term!r} as a term, expected (recording, weight)")
    return pair[0], float(pair[1])


@dataclass(frozen=True)
class BlendedComponent:
    """What one packed pass reads."""

    name: str
    terms: tuple[tuple[ComponentRecording, float], ...]

    @property
    def is_one(self) -> bool:
        """Is it a single recording of weight 1, whose rows are read without a copy?"""
        return len(self.terms) == 1 and self.terms[0][1] == 1.0

    @property
    def weights(self) -> list[float]:
        """One for each recording."""
        return [weight for _, weight in self.terms]

    def check(self, sample: Tensor) -> None:
        """Refuses an input that the recordings were not made for."""
        for part, _ in self.terms:
            check_fits(self.name, part, sample)

    def rows(self, key: str, index: Tensor | None = None) -> Tensor:  # int [N] -> [B, N, C]; None: all rows
        """The weighted sum of the recorded rows at `index`; one recording of weight 1 without index is not copied."""
        if self.is_one:
            rows = self.terms[0][0].rows[key]
            return rows if index is None else rows.index_select(1, index)
        sums = [_blend_few(key, self.terms[k : k + MOST_TERMS], index) for k in range(0, len(self.terms), MOST_TERMS)]
        return sums[0] if len(sums) == 1 else torch.stack(sums).sum(dim=0)

    def stats(self, key: str) -> Tensor:  # fp64 [B, G, 2]
        """The recorded sums, blended as moments."""
        return self._blend_stats(key, [part.stats[key] for part, _ in self.terms])

    def updated_stats(
        self,
        key: str,
        index: Tensor,  # int32 [N]
        packed: Tensor,  # [B, N, C]
    ) -> Tensor:  # fp64 [B, G, 2]
        """The sums after the packed rows have replaced the recorded ones, in each recording by itself, then blended."""
        updated = [update_group_stats(part.stats[key], part.rows[key], index, packed) for part, _ in self.terms]
        return self._blend_stats(key, updated)

    def _blend_stats(self, key: str, stats: list[Tensor]) -> Tensor:  # fp64 [B, G, 2] each -> [B, G, 2]
        return blend_stats(stats, self.weights, self._group_size(key, stats[0].shape[1]))

    def _group_size(self, key: str, groups: int) -> int:
        """Elements of a group."""
        rows = self.terms[0][0].rows[key]  # [B, M, C]
        return rows.shape[1] * rows.shape[2] // groups

    def affine(
        self,
        key: str,
        index: Tensor,  # int32 [N]
        packed: Tensor,  # [B, N, C]
        norm: nn.GroupNorm,
    ) -> tuple[Tensor, Tensor]:  # fp32 [B, C] each
        """What the norm multiplies by and adds, from the updated sums; beyond `MOST_TERMS` in many small calls."""
        layer = norm.weight, norm.bias, norm.eps
        if len(self.terms) > MOST_TERMS:
            stats = self.updated_stats(key, index, packed)
            return scale_and_shift(stats, self._group_size(key, norm.num_groups), norm.num_channels, *layer)
        sums = [part.stats[key] for part, _ in self.terms]
        rows = [part.rows[key] for part, _ in self.terms]
        return norm_affine(sums, rows, self.weights, index, packed, *layer)

    def output(self) -> Tensor:  # [B, C_out, H_out, W_out]
        """A copy of the recorded output, to write into."""
        (first, weight), *rest = [(part.output, weight) for part, weight in self.terms if part.output is not None]
        total = first.clone() if self.is_one else first * weight
        for output, weight in rest:
            total.add_(output, alpha=weight)
        return total


def _blend_few(
    key: str,
    terms: tuple[tuple[ComponentRecording, float], ...],
    index: Tensor | None,  # int [N]
) -> Tensor:  # [B, N, C]
    return blend_rows([part.rows[key] for part, _ in terms], [weight for _, weight in terms], index)


def check_fits(name: str, part: ComponentRecording, sample: Tensor) -> None:
    """The input of an edit has the batch size, resolution, dtype and device that were recorded."""
    recorded = part.input
    if recorded is None or part.output is None:
        raise RecordingError(f"edit: the recording of {name} is empty")
    got = list(sample.shape), sample.dtype, sample.device
    want = list(recorded.shape), recorded.dtype, part.output.device
    if got != want:
        raise RecordingError(
            f"edit: {name} got {got[1]} {got[0]} on {got[2]}, expected what was recorded, {want[1]} {want[0]} on "
            f"{want[2]}: record a dense pass with the same batch size, resolution, dtype and device"
        )

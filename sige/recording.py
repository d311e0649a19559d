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
from torch import Tensor

from sige.errors import RecordingError
from sige.ops import update_group_stats

__all__ = ["Blend", "BlendedComponent", "ComponentRecording", "Recording"]

_WEIGHT_TOLERANCE = 1e-6
_LEAST_VARIANCE = 1e-12  # of a group that is constant; GroupNorm's own epsilon is 1e-6 or more


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

    def check(self, sample: Tensor) -> None:
        """Refuses an input that the recordings were not made for."""
        for part, _ in self.terms:
            check_fits(self.name, part, sample)

    def rows(self, key: str, index: Tensor | None = None) -> Tensor:  # int [N] -> [B, N, C]; None: all rows
        """The weighted sum of the recorded rows at `index`; one recording of weight 1 without index is not copied."""

        def read(part: ComponentRecording) -> Tensor:
            return part.rows[key] if index is None else part.rows[key].index_select(1, index)

        return self._sum([(read(part), weight) for part, weight in self.terms])

    def stats(self, key: str) -> Tensor:  # fp64 [B, G, 2]
        """The recorded sums, blended as moments."""
        return self._blend_moments(key, [part.stats[key] for part, _ in self.terms])

    def updated_stats(
        self,
        key: str,
        index: Tensor,  # int32 [N]
        packed: Tensor,  # [B, N, C]
    ) -> Tensor:  # fp64 [B, G, 2]
        """The sums after the packed rows have replaced the recorded ones, in each recording by itself, then blended."""
        updated = [update_group_stats(part.stats[key], part.rows[key], index, packed) for part, _ in self.terms]
        return self._blend_moments(key, updated)

    def _blend_moments(self, key: str, stats: list[Tensor]) -> Tensor:  # fp64 [B, G, 2] each -> [B, G, 2]
        """Weighted means, and variances weighted on a logarithmic scale.

        A forecast has negative weights. Blended sums of squares could leave a variance below zero; this cannot.
        """
        if len(stats) == 1:
            return stats[0]
        rows = self.terms[0][0].rows[key]  # [B, M, C]
        count = rows.shape[1] * rows.shape[2] // stats[0].shape[1]
        mean = log_variance = torch.zeros_like(stats[0][..., 0])  # [B, G]
        for sums, (_, weight) in zip(stats, self.terms, strict=True):
            moments = sums / count
            variance = (moments[..., 1] - moments[..., 0].square()).clamp(min=_LEAST_VARIANCE)
            mean = mean + weight * moments[..., 0]
            log_variance = log_variance + weight * variance.log()
        return torch.stack([mean, log_variance.exp() + mean.square()], dim=-1) * count

    def output(self) -> Tensor:  # [B, C_out, H_out, W_out]
        """A copy of the recorded output, to write into."""
        outputs = [(part.output, weight) for part, weight in self.terms if part.output is not None]
        return self._sum(outputs) if len(outputs) > 1 else outputs[0][0].clone()

    @staticmethod
    def _sum(terms: list[tuple[Tensor, float]]) -> Tensor:
        (first, weight), *rest = terms
        if not rest:
            return first if weight == 1.0 else first * weight
        total = first * weight
        for tensor, weight in rest:
            total.add_(tensor, alpha=weight)
        return total


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

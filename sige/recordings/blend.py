"""Weighted sums of recordings: a forecast, an interpolation, a correction. Only the rows that are read are summed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from sige.errors import RecordingError
from sige.ops import MOST_TERMS, blend_rows
from sige.recordings.recording import ComponentRecording, Recording

__all__ = ["Blend", "BlendedComponent"]

_WEIGHT_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Blend:
    """A weighted sum of recordings; the weights add up to 1."""

    terms: tuple[tuple[Recording, float], ...]
    factors: dict[torch.device, Tensor] = field(default_factory=dict, compare=False, repr=False)  # fp64 [K] each

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
        return BlendedComponent(name, tuple(parts), self.factors)


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
    """One component of each recording and the weights: what one packed pass reads."""

    name: str
    terms: tuple[tuple[ComponentRecording, float], ...]
    _factors: dict[torch.device, Tensor] = field(default_factory=dict, compare=False, repr=False)  # of the whole blend

    @property
    def is_one(self) -> bool:
        """Says whether this is a single recording of weight 1, whose rows are read without a copy."""
        return len(self.terms) == 1 and self.terms[0][1] == 1.0

    @property
    def weights(self) -> list[float]:
        """The weights, one for each recording."""
        return [weight for _, weight in self.terms]

    @property
    def factors(self) -> Tensor:  # fp64 [K]
        """The weights as the ops read them: on the device of the recordings, moved there once, without waiting."""
        output = self.terms[0][0].output
        device = torch.device("cpu") if output is None else output.device
        if device not in self._factors:
            weights = torch.empty(len(self.terms), dtype=torch.float64, pin_memory=device.type == "cuda")
            weights.copy_(torch.tensor(self.weights, dtype=torch.float64))
            self._factors[device] = weights.to(device, non_blocking=True)
        return self._factors[device]

    @property
    def keys(self) -> set[str]:
        """The keys of the recorded rows."""
        return set(self.terms[0][0].rows)

    def groups(self, key: str) -> int | None:
        """The number of groups of the norm that reads these rows; None where none does."""
        sums = self.terms[0][0].stats.get(key)
        return None if sums is None else sums.shape[1]

    def check(self, sample: Tensor) -> None:
        """Refuses an input that the recordings were not made for."""
        for part, _ in self.terms:
            part.check(self.name, sample)

    def rows(self, key: str, index: Tensor | None = None) -> Tensor:  # int [N] -> [B, N, C]; None: all rows
        """The weighted sum of the recorded rows at `index`; one recording of weight 1 without index is not copied."""
        if self.is_one:
            rows = self.read("rows", 0, key)
            return rows if index is None else rows.index_select(1, index)
        starts = range(0, len(self.terms), MOST_TERMS)
        sums = [self._blend_few(key, range(len(self.terms))[k : k + MOST_TERMS], index) for k in starts]
        return sums[0] if len(sums) == 1 else torch.stack(sums).sum(dim=0)

    def _blend_few(self, key: str, terms: range, index: Tensor | None) -> Tensor:  # int [N] -> [B, N, C]
        weights = self.factors if len(terms) == len(self.terms) else self.factors[terms.start : terms.stop]
        return blend_rows([self.read("rows", k, key) for k in terms], weights, index)

    def parts(self, key: str) -> tuple[list[Tensor], list[Tensor]]:  # fp64 [B, G, 2] each, [B, M, C] each
        """The sums and the rows that each recording keeps under the key, for a norm."""
        terms = range(len(self.terms))
        return [self.read("stats", k, key) for k in terms], [self.read("rows", k, key) for k in terms]

    def read(self, kind: str, term: int, key: str) -> Tensor:
        """What one recording keeps under the key: `rows` [B, M, C], or the `stats` fp64 [B, G, 2] of a norm."""
        part = self.terms[term][0]
        return part.rows[key] if kind == "rows" else part.stats[key]

    def output(self) -> Tensor:  # [B, C_out, H_out, W_out]
        """A copy of the recorded output, to write into."""
        (first, weight), *rest = [(part.output, weight) for part, weight in self.terms if part.output is not None]
        total = first.clone() if self.is_one else first * weight
        for output, weight in rest:
            total.add_(output, alpha=weight)
        return total

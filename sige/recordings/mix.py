"""New recordings made of others: one half of the batch, a weighted sum, two halves side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sige.ops import group_stats
from sige.recordings.blend import Blend
from sige.recordings.recording import ComponentRecording, Recording

__all__ = ["half_of", "joined", "mixed"]


def half_of(recording: Recording, name: str, second: bool) -> Recording:
    """One component's recording of the first or the second half of the batch; the tensors are views."""
    part = recording.components[name]

    def cut(tensor: Tensor) -> Tensor:  # [B, ...] -> [B / 2, ...]
        return tensor.chunk(2)[int(second)]

    before, after = part.ends(name)
    rows = {key: cut(rows) for key, rows in part.rows.items()}
    stats = {key: cut(stats) for key, stats in part.stats.items()}
    return Recording({name: ComponentRecording(rows, stats, cut(before), cut(after))})


def mixed(terms: Sequence[tuple[Recording, float]], name: str) -> ComponentRecording:
    """The weighted sum of one component's recordings at every position, with the sums of its own rows."""
    blend = Blend.of(terms).component(name)
    first = blend.terms[0][0]
    rows = {key: blend.rows(key) for key in first.rows}
    stats = {key: group_stats(rows[key], sums.shape[1]) for key, sums in first.stats.items()}
    return ComponentRecording(rows, stats, first.input, blend.output())


def joined(first: ComponentRecording, second: ComponentRecording, name: str) -> ComponentRecording:
    """Two halves of a batch side by side; takes the tensors out of both, so that few are in memory twice."""
    (before, first_after), (_, second_after) = first.ends(name), second.ends(name)
    result = ComponentRecording()
    for key in list(first.rows):
        result.rows[key] = torch.cat([first.rows.pop(key), second.rows.pop(key)])
    for key, sums in first.stats.items():
        result.stats[key] = torch.cat([sums, second.stats[key]])
    result.input = torch.cat([before, before])
    result.output = torch.cat([first_after, second_after])
    return result

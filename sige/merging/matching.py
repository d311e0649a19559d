"""A matching: which rows merge into which. It merges rows into fewer, and gives every position a row again.

The method is bipartite soft matching (Bolya et al., 2022; for diffusion Bolya and Hoffman, 2023): the rows fall into
destinations and sources, each source finds the destination that it is most like, and the best pairs merge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sige.merging.destinations import Int64Array

__all__ = ["Matching", "match"]

MOST_SCORES = 2**22  # that are kept at once: 16 MB in fp32


@dataclass(frozen=True)
class Matching:
    """The rows of a batch that merge. Indices count over the whole batch: position p of sample b is row b * N + p."""

    batch: int
    positions: int  # N
    kept: Tensor  # int64 [B * (S - R)], the sources that stay by themselves
    sources: Tensor  # int64 [B * R], those that merge
    destinations: Tensor  # int64 [B * D]
    into: Tensor  # int64 [B * R]: for each source that merges, the number of its destination among B * D
    counts: Tensor  # [B, D, 1]: rows that each destination stands for, itself among them
    row_of: Tensor  # int64 [B * N]: the merged row that stands for each position

    @property
    def merged(self) -> int:
        """The number of merged rows of a sample."""
        return (len(self.kept) + len(self.destinations)) // self.batch

    def merge(self, rows: Tensor) -> Tensor:  # [B, N, C] -> [B, N - R, C]
        """The sources that stay, then the destinations, each the mean of the rows that it stands for.

        The mean is taken of differences to the destination: the mean of equal rows is the same row, bit for bit.
        """
        flat, channels = rows.reshape(-1, rows.shape[2]), rows.shape[2]
        own = flat.index_select(0, self.destinations)
        moved = flat.index_select(0, self.sources) - own.index_select(0, self.into)
        total = torch.zeros_like(own).index_add(0, self.into, moved).view(self.batch, -1, channels)
        means = own.view(self.batch, -1, channels) + total / self.counts.to(rows.dtype)
        return torch.cat([flat.index_select(0, self.kept).view(self.batch, -1, channels), means], dim=1)

    def unmerge(self, rows: Tensor) -> Tensor:  # [B, N - R, C] -> [B, N, C]
        """A row for every position: a copy of the merged row that stands for it."""
        flat = rows.reshape(-1, rows.shape[2])
        return flat.index_select(0, self.row_of).view(self.batch, self.positions, rows.shape[2])


@torch.no_grad()
def match(
    rows: Tensor,  # [B, N, C]
    chosen: Int64Array,  # [D], the destinations' positions
    count: int,  # R: how many rows merge, at most all sources
) -> Matching:
    """The matching in which the `count` sources that are most like a destination merge into it, in each sample alone.

    Likeness is the cosine between the rows.
    """
    batch, positions = rows.shape[:2]
    is_source = np.ones(positions, dtype=bool)
    is_source[chosen] = False
    destinations = torch.from_numpy(chosen).to(rows.device)  # [D]
    sources = torch.from_numpy(np.flatnonzero(is_source)).to(rows.device)  # [S]
    unit = F.normalize(rows, dim=2)
    score, best = _best(unit.index_select(1, sources), unit.index_select(1, destinations))
    order = score.argsort(dim=1, descending=True, stable=True)  # [B, S]
    merging, staying = order[:, :count], order[:, count:]
    into = best.gather(1, merging)  # [B, R]
    kept = sources[staying]  # [B, S - R]
    row_of = torch.empty(batch, positions, dtype=torch.int64, device=rows.device)
    stays = torch.arange(kept.shape[1], device=rows.device).expand_as(kept)
    row_of.scatter_(1, kept, stays)
    row_of[:, destinations] = torch.arange(len(chosen), device=rows.device) + kept.shape[1]
    row_of.scatter_(1, sources[merging], into + kept.shape[1])
    ones = torch.ones_like(into, dtype=torch.float32)
    counts = torch.ones(batch, len(chosen), device=rows.device).scatter_add_(1, into, ones)
    return Matching(
        batch,
        positions,
        kept=_over_batch(kept, positions),
        sources=_over_batch(sources[merging], positions),
        destinations=_over_batch(destinations.expand(batch, -1), positions),
        into=_over_batch(into, len(chosen)),
        counts=counts[:, :, None],
        row_of=_over_batch(row_of, kept.shape[1] + len(chosen)),
    )


def _best(
    sources: Tensor,  # [B, S, C]
    destinations: Tensor,  # [B, D, C]
) -> tuple[Tensor, Tensor]:  # [B, S], int64 [B, S]
    """The greatest product of each source with a destination, and the number of that destination.

    Computed for some sources at a time: all products of a 128x128 level would take 400 MB.
    """
    columns = destinations.transpose(1, 2)
    some = max(MOST_SCORES // (columns.shape[0] * columns.shape[2]), 1)
    found = [torch.bmm(part, columns).max(dim=2) for part in sources.split(some, dim=1)]
    return torch.cat([values for values, _ in found], dim=1), torch.cat([numbers for _, numbers in found], dim=1)


def _over_batch(index: Tensor, rows: int) -> Tensor:  # int64 [B, K] -> int64 [B * K]
    """Indices into the rows of one sample as indices into those of the whole batch."""
    first = torch.arange(0, index.shape[0] * rows, rows, device=index.device)
    return (index + first[:, None]).flatten()

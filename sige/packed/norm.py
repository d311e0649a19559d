"""GroupNorm on packed rows: sums become one scale and shift per channel, which the next gather applies."""

from __future__ import annotations

from torch import Tensor, nn

from sige.ops import MOST_TERMS, gather, norm_affine, update_group_stats
from sige.ops.moments import blend_stats, scale_and_shift
from sige.packed.features import Features, PackedPass
from sige.recordings import Probe

__all__ = ["PackedGroupNorm"]


class PackedGroupNorm:
    """A GroupNorm whose input was recorded under `key`."""

    def __init__(self, key: str, norm: nn.GroupNorm, at: nn.Module | None = None) -> None:
        self.key = key
        self.norm = norm
        self.probes = [Probe(key, at or norm, "input", norm.num_groups)]

    def affine(self, x: Features, packed_pass: PackedPass) -> tuple[Tensor, Tensor]:  # fp32 [B, C] each
        """Scale and shift for rows of x, which the caller applies.

        Each recording's sums are updated by the new rows, then blended as moments; without `exact_statistics` the sums
        stay as they were recorded.
        """
        norm, recorded, index = self.norm, packed_pass.recorded, packed_pass.layout.index(x.size)
        layer = norm.weight, norm.bias, norm.eps
        stats, rows = recorded.parts(self.key)
        if packed_pass.exact_statistics and len(stats) <= MOST_TERMS:
            return norm_affine(stats, rows, recorded.weights, index, x.rows, *layer)
        if packed_pass.exact_statistics:  # more terms than one op takes
            both = zip(stats, rows, strict=True)
            stats = [update_group_stats(before, old, index, x.rows) for before, old in both]
        height, width = x.size
        count = height * width * norm.num_channels // norm.num_groups  # elements of a group
        blended = blend_stats(stats, recorded.weights, count)
        return scale_and_shift(blended, count, norm.num_channels, *layer)

    def __call__(self, x: Features, packed_pass: PackedPass) -> Tensor:  # [B, N, C]
        """The normalised rows."""
        scale, shift = self.affine(x, packed_pass)
        nothing = x.rows.new_empty(x.rows.shape[0], 0, x.rows.shape[2])
        return gather(x.rows, nothing, packed_pass.layout.identity(x.size), scale, shift)

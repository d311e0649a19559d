"""GroupNorm on packed rows: sums become one scale and shift per channel, which the next gather applies."""

from __future__ import annotations

from torch import Tensor, nn

from sige.ops import MOST_TERMS, gather, norm_affine, update_group_stats
from sige.ops.moments import blend_stats, scale_and_shift
from sige.packed.features import Features, PackedPass
from sige.recordings import BlendedComponent, Probe

__all__ = ["PackedGroupNorm", "blended_sums", "updated_affine"]


class PackedGroupNorm:
    """A GroupNorm whose input was recorded under `key`."""

    def __init__(self, key: str, norm: nn.GroupNorm, at: nn.Module | None = None) -> None:
        self.key = key
        self.norm = norm
        self.probes = [Probe(key, at or norm, "input", norm.num_groups)]

    def affine(self, x: Features, packed_pass: PackedPass) -> tuple[Tensor, Tensor]:  # fp32 [B, C] each
        """Scale and shift for the rows of x, which the caller applies; the recorded ones without `exact_statistics`."""
        recorded = packed_pass.recorded
        packed_pass.keep(self.key, x.rows)
        if packed_pass.exact_statistics:
            return updated_affine(recorded, self.key, self.norm, packed_pass.layout.index(x.size), x.rows)
        return _affine_of(blended_sums(recorded, self.key), recorded, self.key, self.norm)

    def __call__(self, x: Features, packed_pass: PackedPass) -> Tensor:  # [B, N, C]
        """The normalised rows."""
        scale, shift = self.affine(x, packed_pass)
        # The map names no recorded row, so any rows may stand for them.
        return gather(x.rows, x.rows, packed_pass.layout.identity(x.size), scale, shift)


def updated_affine(
    recorded: BlendedComponent,
    key: str,
    norm: nn.GroupNorm,
    index: Tensor,  # int32 [N]
    packed: Tensor,  # [B, N, C]
) -> tuple[Tensor, Tensor]:  # fp32 [B, C] each
    """Scale and shift of the norm after the packed rows have replaced the recorded ones."""
    stats, rows = recorded.parts(key)
    if len(stats) > MOST_TERMS:  # more than the op takes: many small calls instead
        return _affine_of(blended_sums(recorded, key, index, packed), recorded, key, norm)
    return norm_affine(stats, rows, recorded.factors, index, packed, norm.weight, norm.bias, norm.eps)


def blended_sums(
    recorded: BlendedComponent,
    key: str,
    index: Tensor | None = None,  # int32 [N]
    packed: Tensor | None = None,  # [B, N, C]
) -> Tensor:  # fp64 [B, G, 2]
    """The recorded sums, blended as moments; packed rows, if given, replace theirs in each recording's sums before."""
    stats, rows = recorded.parts(key)
    if index is not None and packed is not None:
        stats = [update_group_stats(sums, old, index, packed) for sums, old in zip(stats, rows, strict=True)]
    return blend_stats(stats, recorded.weights, _group_size(rows[0], stats[0]))


def _affine_of(
    sums: Tensor,  # fp64 [B, G, 2]
    recorded: BlendedComponent,
    key: str,
    norm: nn.GroupNorm,
) -> tuple[Tensor, Tensor]:  # fp32 [B, C] each
    _, rows = recorded.parts(key)
    return scale_and_shift(sums, _group_size(rows[0], sums), norm.num_channels, norm.weight, norm.bias, norm.eps)


def _group_size(
    rows: Tensor,  # [B, M, C]
    sums: Tensor,  # [B, G, 2]
) -> int:
    """The number of elements in a group."""
    return rows.shape[1] * rows.shape[2] // sums.shape[1]

"""norm_affine: a GroupNorm on packed rows as one scale and shift per channel, from recorded sums updated exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sige.ops.checks import check_as_many, check_tensor, check_terms, check_weights
from sige.ops.group_stats import _update_group_stats_reference, check_rows
from sige.ops.moments import blend_stats, scale_and_shift
from sige.ops.registry import IndexRange, register

__all__ = ["norm_affine"]


def norm_affine(
    stats: Sequence[Tensor],  # fp64 [B, G, 2] each, one to MOST_TERMS of them
    recorded: Sequence[Tensor],  # [B, M, C] each, one for each of stats
    blend: Tensor,  # fp64 [K], one for each of stats
    index: Tensor,  # int32 [N]
    packed: Tensor,  # [B, N, C]
    weight: Tensor | None = None,  # [C], of packed's dtype or fp32
    bias: Tensor | None = None,  # [C], the same
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:  # fp32 [B, C] each
    """Scale and shift of the norm after packed row n has replaced row `index[n]` in each recording.

    A packed row whose entry is -1 does not count.

    Then the moments are blended: `blend` weights the means, and the variances on a logarithmic scale. Terms of weight 0
    are left out, and a term of weight 1 that is left alone is not changed.

    >>> recorded = torch.tensor([[[1.0], [4.0]]])
    >>> stats = torch.tensor([[[5.0, 17.0]]], dtype=torch.float64)
    >>> index, packed = torch.tensor([1], dtype=torch.int32), torch.tensor([[[3.0]]])
    >>> scale, shift = norm_affine([stats], [recorded], torch.ones(1).double(), index, packed, eps=0.0)
    >>> (torch.tensor([1.0, 3.0]) * scale + shift).tolist()
    [[-1.0, 1.0]]
    """
    op = torch.ops.sige.norm_affine.default
    return op(stats, recorded, blend, index, packed, weight, bias, eps)  # type: ignore[no-any-return]


def _norm_affine_fake(
    stats: Sequence[Tensor],
    recorded: Sequence[Tensor],
    blend: Tensor,
    index: Tensor,
    packed: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    op = "norm_affine"
    check_terms(op, "stats", stats)
    check_as_many(op, "recorded", recorded, "stats", stats)
    check_tensor(op, "stats[0]", stats[0], stats[0], stats[0].dtype, "[B, G, 2]", (None, None, 2))
    groups = stats[0].shape[1]
    check_rows(op, "packed", packed, groups)
    batch, count, channels = packed.shape
    for k, (sums, rows) in enumerate(zip(stats, recorded, strict=True)):
        check_tensor(op, f"stats[{k}]", sums, packed, torch.float64, "[B, G, 2]", (batch, groups, 2))
        size = recorded[0].shape[1] if k else None
        check_tensor(op, f"recorded[{k}]", rows, packed, packed.dtype, "[B, M, C]", (batch, size, channels))
    check_weights(op, "blend", blend, stats)
    check_tensor(op, "index", index, packed, torch.int32, "[N]", (count,))
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None:
            dtype = torch.float32 if parameter.dtype == torch.float32 else packed.dtype
            check_tensor(op, name, parameter, packed, dtype, "[C]", (channels,))
    scale, shift = (packed.new_empty(batch, channels, dtype=torch.float32) for _ in range(2))
    return scale, shift


def _norm_affine_reference(
    stats: Sequence[Tensor],  # [B, G, 2] each
    recorded: Sequence[Tensor],  # [B, M, C] each
    blend: Tensor,  # [K]
    index: Tensor,  # int [N]
    packed: Tensor,  # [B, N, C]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    eps: float,
) -> tuple[Tensor, Tensor]:  # [B, C] each
    pairs = zip(stats, recorded, strict=True)
    updated = [_update_group_stats_reference(sums, rows, index, packed) for sums, rows in pairs]
    count = recorded[0].shape[1] * packed.shape[2] // stats[0].shape[1]
    return scale_and_shift(blend_stats(updated, blend.tolist(), count), count, packed.shape[2], weight, bias, eps)


def _norm_affine_range(
    stats: Sequence[Tensor], recorded: Sequence[Tensor], blend: Tensor, index: Tensor, *_: object
) -> IndexRange:
    return IndexRange("index", index, -1, recorded[0].shape[1])


register(
    "norm_affine(Tensor[] stats, Tensor[] recorded, Tensor blend, Tensor index, Tensor packed, Tensor? weight, "
    "Tensor? bias, float eps) -> (Tensor, Tensor)",
    reference=_norm_affine_reference,
    fake=_norm_affine_fake,
    index_range=_norm_affine_range,
)

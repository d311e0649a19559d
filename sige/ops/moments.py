"""Computes the scale and shift of a GroupNorm from the sums of its groups; norm_affine and frozen statistics use it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["blend_stats", "scale_and_shift"]

LEAST_VARIANCE = 1e-12  # of a group that is constant; GroupNorm's own epsilon is 1e-6 or more


def blend_stats(
    stats: Sequence[Tensor],  # fp64 [B, G, 2] each
    weights: Sequence[float],
    count: int,  # elements of a group
) -> Tensor:  # fp64 [B, G, 2]
    """Sums with the blend's mean and variance: means are weighted, variances are weighted on a logarithmic scale.

    Terms of weight 0 are left out; a term of weight 1 that is left alone comes back unchanged.

    A forecast has negative weights. Blended sums of squares could leave a variance below zero; this cannot.

    >>> sums = [torch.tensor([[[2.0, 10.0]]]).double(), torch.tensor([[[4.0, 12.0]]]).double()]
    >>> [round(value, 6) for value in blend_stats(sums, [2.0, -1.0], count=2).flatten().tolist()]  # variances 4 and 2
    [0.0, 16.0]
    """
    terms = [(sums, weight) for sums, weight in zip(stats, weights, strict=True) if weight != 0.0]
    if [weight for _, weight in terms] == [1.0]:
        return terms[0][0]
    mean = log_variance = torch.zeros_like(stats[0][..., 0])  # [B, G]
    for sums, weight in terms:
        moments = sums / count
        variance = (moments[..., 1] - moments[..., 0].square()).clamp(min=LEAST_VARIANCE)
        mean = mean + weight * moments[..., 0]
        log_variance = log_variance + weight * variance.log()
    return torch.stack([mean, log_variance.exp() + mean.square()], dim=-1) * count


def scale_and_shift(
    stats: Tensor,  # fp64 [B, G, 2]: sum, sum of squares
    count: int,  # elements of a group
    channels: int,  # C
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    eps: float,
) -> tuple[Tensor, Tensor]:  # fp32 [B, C] each
    """`norm(x) = x * scale + shift` for an x whose groups have these sums."""
    mean, mean_square = (stats / count).unbind(2)  # [B, G]
    inverse = (mean_square - mean.square()).clamp_(min=0).add_(eps).rsqrt_()
    scale, mean = (value.repeat_interleave(channels // stats.shape[1], 1) for value in (inverse, mean))  # [B, C]
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias
    return scale.float(), shift.float()

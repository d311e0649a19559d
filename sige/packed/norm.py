"""GroupNorm on packed rows: sums become one scale and shift per channel, which the next gather applies."""

from __future__ import annotations

from torch import Tensor, nn

from sige.ops import gather
from sige.packed.features import Features, PackedPass, Tap

__all__ = ["PackedGroupNorm", "scale_and_shift"]


def scale_and_shift(
    stats: Tensor,  # fp64 [B, G, 2]: sum, sum of squares
    count: int,  # elements of a group
    norm: nn.GroupNorm,
) -> tuple[Tensor, Tensor]:  # fp32 [B, C] each
    """`norm(x) = x * scale + shift` for an x whose groups have these sums."""
    mean, mean_square = (stats / count).unbind(2)  # [B, G]
    inverse = (mean_square - mean.square()).clamp_(min=0).add_(norm.eps).rsqrt_()
    channels = norm.num_channels // norm.num_groups
    scale, mean = (value.repeat_interleave(channels, 1) for value in (inverse, mean))  # [B, C]
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    return scale.float(), shift.float()


class PackedGroupNorm:
    """A GroupNorm whose input was recorded under `key`."""

    def __init__(self, key: str, norm: nn.GroupNorm, at: nn.Module | None = None) -> None:
        self.key = key
        self.norm = norm
        self.taps = [Tap(key, at or norm, "input", norm.num_groups)]

    def affine(self, x: Features, run: PackedPass) -> tuple[Tensor, Tensor]:  # fp32 [B, C] each
        """Scale and shift for rows of x; the caller applies them."""
        height, width = x.size
        count = height * width * self.norm.num_channels // self.norm.num_groups
        return scale_and_shift(run.stats(self.key, x), count, self.norm)

    def __call__(self, x: Features, run: PackedPass) -> Tensor:  # [B, N, C]
        """The normalised rows."""
        scale, shift = self.affine(x, run)
        nothing = x.rows.new_empty(x.rows.shape[0], 0, x.rows.shape[2])
        return gather(x.rows, nothing, run.layout.identity(x.size), scale, shift)

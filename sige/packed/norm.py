"""GroupNorm on packed rows: sums become one scale and shift per channel, which the next gather applies."""

from __future__ import annotations

from torch import Tensor, nn

from sige.ops import gather
from sige.ops.moments import scale_and_shift
from sige.packed.features import Features, PackedPass, Tap

__all__ = ["PackedGroupNorm"]


class PackedGroupNorm:
    """A GroupNorm whose input was recorded under `key`."""

    def __init__(self, key: str, norm: nn.GroupNorm, at: nn.Module | None = None) -> None:
        self.key = key
        self.norm = norm
        self.taps = [Tap(key, at or norm, "input", norm.num_groups)]

    def affine(self, x: Features, run: PackedPass) -> tuple[Tensor, Tensor]:  # fp32 [B, C] each
        """Scale and shift for rows of x; the caller applies them."""
        norm = self.norm
        if run.exact_statistics:
            return run.recorded.affine(self.key, run.layout.index(x.size), x.rows, norm)
        height, width = x.size
        count = height * width * norm.num_channels // norm.num_groups
        stats = run.recorded.stats(self.key)  # frozen as they were recorded
        return scale_and_shift(stats, count, norm.num_channels, norm.weight, norm.bias, norm.eps)

    def __call__(self, x: Features, run: PackedPass) -> Tensor:  # [B, N, C]
        """The normalised rows."""
        scale, shift = self.affine(x, run)
        nothing = x.rows.new_empty(x.rows.shape[0], 0, x.rows.shape[2])
        return gather(x.rows, nothing, run.layout.identity(x.size), scale, shift)

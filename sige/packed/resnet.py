"""The residual block of UNet and VAE, and the VAE's attention block, on packed rows."""

from __future__ import annotations

from torch import Tensor, nn

from sige.packed.attention import SelfAttention
from sige.packed.conv import PackedConv
from sige.packed.features import Features, PackedPass
from sige.packed.linear import linear
from sige.packed.norm import PackedGroupNorm

__all__ = ["AttentionBlock", "ResnetBlock"]


class ResnetBlock:
    """The residual block: norm, SiLU, convolution, + time embedding, norm, SiLU, convolution, + shortcut."""

    def __init__(
        self,
        first: PackedConv,
        second: PackedConv,
        time: nn.Module | None,  # [B, E] -> [B, C]; a `TimeTable` calls it
        shortcut: nn.Module | None,
        output_scale: float,
    ) -> None:
        self.first = first
        self.second = second
        self.time = time
        self.shortcut = shortcut
        self.output_scale = output_scale
        self.probes = [*first.probes, *second.probes]

    def __call__(
        self,
        x: Features,
        packed_pass: PackedPass,
        bias: Tensor | None = None,  # [B, C], of the first convolution: its own, and what the time adds
    ) -> Features:
        hidden = self.first(x, packed_pass, bias=bias)
        residual = x.rows if self.shortcut is None else linear(x.rows, self.shortcut)
        out = self.second(hidden, packed_pass, residual)
        if self.output_scale != 1.0:
            out.rows.div_(self.output_scale)
        return out


class AttentionBlock:
    """The attention block of a VAE: norm, self-attention over positions, + input, divided by a constant."""

    def __init__(self, norm: PackedGroupNorm, attention: SelfAttention, output_scale: float) -> None:
        self.norm = norm
        self.attention = attention
        self.output_scale = output_scale
        self.probes = [*norm.probes, *attention.probes]

    def __call__(self, x: Features, packed_pass: PackedPass) -> Features:
        rows = self.attention(self.norm(x, packed_pass), x.size, packed_pass, x.rows)
        return Features(rows.div_(self.output_scale) if self.output_scale != 1.0 else rows, x.size)

"""The transformer of a UNet level on packed rows: norm, projection, blocks, projection, residual."""

from __future__ import annotations

from torch import Tensor, nn

from sige.packed.attention import CrossAttention, SelfAttention
from sige.packed.features import Features, PackedPass
from sige.packed.linear import FeedForward, linear
from sige.packed.norm import PackedGroupNorm
from sige.recordings import Probe
from sige.sizes import Size

__all__ = ["PackedTransformer", "TransformerBlock"]


class TransformerBlock:
    """Self-attention, cross-attention and feed-forward; each reads normalised rows and adds its result to the rows."""

    def __init__(
        self,
        norms: tuple[nn.Module, nn.Module, nn.Module],
        self_attention: SelfAttention,
        cross_attention: CrossAttention,
        feed_forward: FeedForward,
    ) -> None:
        self.norms = norms
        self.self_attention = self_attention
        self.cross_attention = cross_attention
        self.feed_forward = feed_forward
        self.probes = self_attention.probes

    def __call__(self, rows: Tensor, size: Size, packed_pass: PackedPass) -> Tensor:  # [B, N, C] -> [B, N, C]
        first, second, third = self.norms
        rows = self.self_attention(first(rows), size, packed_pass, rows)
        rows = self.cross_attention(second(rows), packed_pass, rows)
        return self.feed_forward(third(rows), rows)


class PackedTransformer:
    """A Transformer2DModel; its projections are linear layers or 1x1 convolutions."""

    def __init__(
        self, norm: PackedGroupNorm, proj_in: nn.Module, blocks: list[TransformerBlock], proj_out: nn.Module
    ) -> None:
        self.norm = norm
        self.proj_in = proj_in
        self.blocks = blocks
        self.proj_out = proj_out
        self.probes: list[Probe] = [*norm.probes, *(probe for block in blocks for probe in block.probes)]

    def __call__(self, x: Features, packed_pass: PackedPass) -> Features:
        rows = linear(self.norm(x, packed_pass), self.proj_in)
        for block in self.blocks:
            rows = block(rows, x.size, packed_pass)
        return Features(linear(rows, self.proj_out, x.rows), x.size)

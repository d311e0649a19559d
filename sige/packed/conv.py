"""Convolutions on packed rows: [GroupNorm, SiLU,] convolution [+ residual] through a gather map."""

from __future__ import annotations

from torch import Tensor, nn

from sige.geometry import Geometry
from sige.ops import flatten_weight, sparse_conv2d
from sige.packed.features import Features, PackedPass
from sige.packed.norm import PackedGroupNorm
from sige.recordings import Probe
from sige.sizes import Size

__all__ = ["PackedConv"]


class PackedConv:
    """A convolution whose input was recorded under `key`, with the norm and SiLU before it if it has them."""

    def __init__(
        self,
        key: str,
        conv: nn.Conv2d,
        geometry: Geometry,
        norm: nn.GroupNorm | None = None,  # a SiLU follows it
        at: nn.Module | None = None,  # the module whose input is recorded; None: the norm, else the convolution
    ) -> None:
        self.key = key
        self.conv = conv
        self.geometry = geometry
        self.norm = PackedGroupNorm(key, norm, at) if norm is not None else None
        self.probes = self.norm.probes if self.norm else [Probe(key, at or conv, "input")]

    def __call__(
        self,
        x: Features,
        packed_pass: PackedPass,
        residual: Tensor | None = None,  # [B, N_out, C_out]
        upsample_size: Size | None = None,  # size of the next level, where it is not twice this one
        bias: Tensor | None = None,  # [B, C_out], in place of the layer's own
    ) -> Features:
        geometry = self.geometry
        if upsample_size is not None and upsample_size != geometry.upsampled_size(*x.size):
            geometry = Geometry.upsample_conv3x3(upsample_size)
        if self.norm is None:
            packed_pass.keep(self.key, x.rows)
        index, halo = packed_pass.layout.gather(geometry, x.size)
        scale, shift = self.norm.affine(x, packed_pass) if self.norm else (None, None)
        rows = sparse_conv2d(
            x.rows,
            packed_pass.recorded.rows(self.key, halo),
            index,
            flatten_weight(self.conv.weight),  # a view, because enable() makes the weights channels-last
            self.conv.bias if bias is None else bias,
            scale,
            shift,
            "silu" if self.norm else "none",
            residual,
        )
        return Features(rows, geometry.output_size(*x.size))

"""Convolutions on packed rows: [GroupNorm, SiLU,] convolution [+ residual] through a gather map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sige.geometry import Geometry
from sige.ops import flatten_weight, sparse_conv2d
from sige.packed.features import Features, PackedPass
from sige.packed.norm import PackedGroupNorm
from sige.recordings import Probe
from sige.sizes import Size

__all__ = ["PackedConv", "missing_channels"]

VECTOR = 8  # elements of 16 bits that a thread of a CUDA kernel moves at once


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
        weight = flatten_weight(self.conv.weight)  # a view, because enable() makes the weights channels-last
        bias = self.conv.bias if bias is None else bias
        missing = missing_channels(weight, residual)
        if missing:
            weight, bias = F.pad(weight, (0, 0, 0, missing)), None if bias is None else F.pad(bias, (0, missing))
        rows = sparse_conv2d(
            x.rows,
            packed_pass.recorded.rows(self.key, halo),
            index,
            weight,
            bias,
            scale,
            shift,
            "silu" if self.norm else "none",
            residual,
        )
        if missing:
            rows = rows[..., :-missing].contiguous()
        return Features(rows, geometry.output_size(*x.size))


def missing_channels(
    weight: Tensor,  # [C_out, T * C]
    residual: Tensor | None,  # [B, N_out, C_out]
) -> int:
    """Channels of zeros that a layer of few outputs gets on CUDA, where the op's own product takes multiples of 8.

    Without them the last convolution of a decoder, of three outputs, gathers nine times its input, chunk by chunk.
    """
    fits = weight.shape[0] % VECTOR == 0 or weight.shape[1] % VECTOR != 0
    if fits or residual is not None or not weight.is_cuda or weight.dtype == torch.float32:
        return 0
    return -weight.shape[0] % VECTOR

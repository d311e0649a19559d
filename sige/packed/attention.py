"""Attention on packed rows: active queries, recorded keys and values with the active ones replaced."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sige.errors import UnsupportedError
from sige.ops import block_attention
from sige.packed.features import PackedPass, Size, Tap
from sige.packed.linear import linear

__all__ = ["CrossAttention", "Projections", "SelfAttention"]

# benchmarks/block_attention.py: up to this head size the op is faster than SDPA on the CPU, above it slower. On CUDA
# SDPA has tensor cores, which the op has not.
LARGEST_HEAD_ON_CPU = 160


@dataclass(frozen=True)
class Projections:
    """The layers of an attention module."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    out: nn.Module
    heads: int

    def split(self, rows: Tensor) -> Tensor:  # [B, N, Hd * D] -> [B, N, Hd, D]
        """Rows by head."""
        return rows.view(*rows.shape[:2], self.heads, rows.shape[2] // self.heads)


def sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # [B, N, Hd, D], [B, L, Hd, D] twice -> [B, N, Hd, D]
    """PyTorch's attention on rows."""
    query, key, value = (rows.transpose(1, 2) for rows in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


class SelfAttention:
    """Active queries over all positions; keys and values of the inactive ones were recorded under `key`."""

    def __init__(self, key: str, layers: Projections) -> None:
        self.key_name, self.value_name = f"{key}.key", f"{key}.value"
        self.layers = layers
        self.taps = [Tap(self.key_name, layers.key, "output"), Tap(self.value_name, layers.value, "output")]

    def __call__(
        self,
        rows: Tensor,  # [B, N, C]
        size: Size,
        run: PackedPass,
        residual: Tensor,  # [B, N, C]
    ) -> Tensor:  # [B, N, C]
        layers = self.layers
        query, key, value = (layers.split(linear(rows, layer)) for layer in (layers.query, layers.key, layers.value))
        if query.shape[1] == 0:
            return residual
        in_place = run.recorded.is_one  # then recorded rows are read where they lie, active ones skipped
        inactive = None if in_place else run.layout.inactive(size)
        recorded_key, recorded_value = (
            layers.split(run.recorded.rows(name, inactive)) for name in (self.key_name, self.value_name)
        )
        if rows.device.type != "cuda" and query.shape[3] <= LARGEST_HEAD_ON_CPU:
            index = run.layout.keys(size, compact=not in_place)
            out = block_attention(query, key, value, recorded_key, recorded_value, index)
        elif in_place:
            active = run.layout.index(size).long()
            out = sdpa(query, recorded_key.index_copy(1, active, key), recorded_value.index_copy(1, active, value))
        else:
            out = sdpa(query, torch.cat([key, recorded_key], 1), torch.cat([value, recorded_value], 1))
        return linear(out.flatten(2), layers.out, residual)


class CrossAttention:
    """Active queries over the tokens of the prompt, whose keys and values are computed once per prompt."""

    def __init__(self, layers: Projections) -> None:
        self.layers = layers
        self.taps: list[Tap] = []

    def __call__(
        self,
        rows: Tensor,  # [B, N, C]
        run: PackedPass,
        residual: Tensor,  # [B, N, C]
    ) -> Tensor:  # [B, N, C]
        key, value = self._text(run)
        out = sdpa(self.layers.split(linear(rows, self.layers.query)), key, value)
        return linear(out.flatten(2), self.layers.out, residual)

    def _text(self, run: PackedPass) -> tuple[Tensor, Tensor]:  # [B, tokens, Hd, D] each
        kept = run.text_cache.projected
        if self.layers.key not in kept:
            if run.text is None:
                raise UnsupportedError("encoder_hidden_states is missing: pass the prompt")
            key, value = (self.layers.split(linear(run.text, layer)) for layer in (self.layers.key, self.layers.value))
            kept[self.layers.key] = key, value
        return kept[self.layers.key]

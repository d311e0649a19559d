"""Attention on packed rows: active queries see recorded keys and values, with fresh ones at the active positions."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sige.ops import backends, block_attention, gather
from sige.packed.features import PackedPass
from sige.packed.linear import linear, linear_each
from sige.packed.wide_attention import is_wide, wide_attention
from sige.recordings import Probe
from sige.sizes import Size

__all__ = ["CrossAttention", "Projections", "SelfAttention"]

# On the CPU the op is faster than SDPA up to this head size and slower above it (benchmarks/block_attention.py).
LARGEST_HEAD_ON_CPU = 160
# On CUDA the op uses tensor cores up to this head size; csrc/common/tensor_attention_tile.cuh holds the same number.
LARGEST_HEAD_ON_CUDA = 160


def wants_op() -> bool:
    """False where `SIGE_ATTENTION=platform` asks for SDPA; the default, `own`, is what is the fastest for each head."""
    wanted = os.environ.get("SIGE_ATTENTION", "") or "own"
    if wanted not in ("own", "platform"):
        message = f"SIGE_ATTENTION is {wanted!r}, expected own or platform: taking own"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return wanted != "platform"


def suits_op(device: str, dtype: torch.dtype, head_size: int) -> bool:
    """Says whether `block_attention` is the faster one for such heads, or expected to be: on CUDA nothing was timed."""
    if device != "cuda":
        return head_size <= LARGEST_HEAD_ON_CPU
    on_tensor_cores = dtype != torch.float32 and head_size % 8 == 0 and head_size <= LARGEST_HEAD_ON_CUDA
    return on_tensor_cores and any(backend.device == "CUDA" and backend.native for backend in backends())


@dataclass(frozen=True)
class Projections:
    """The layers of an attention module."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    out: nn.Module
    heads: int

    def takes_op(self, query: Tensor) -> bool:  # [B, N, Hd * D]
        """Says whether `block_attention` runs for these heads, or `attend`."""
        return wants_op() and suits_op(query.device.type, query.dtype, query.shape[2] // self.heads)

    def attend(
        self,
        query: Tensor,  # [B, N, Hd * D]
        key: Tensor,  # [B, L, Hd * D]
        value: Tensor,  # [B, L, Hd * D]
    ) -> Tensor:  # [B, N, Hd * D]
        """Attention without the op: PyTorch's, or two products where its kernel for such heads is slow."""
        query, key, value = (rows.unflatten(2, (self.heads, -1)).transpose(1, 2) for rows in (query, key, value))
        wide = wants_op() and is_wide(query.device.type, query.dtype, query.shape[3])
        attention = wide_attention if wide else F.scaled_dot_product_attention
        return attention(query, key, value).transpose(1, 2).flatten(2)


class SelfAttention:
    """Active queries over all positions; keys and values of the inactive ones were recorded under `key`.

    Where dense passes merge rows, `restore` makes recorded keys and values of all positions from the merged ones.
    """

    def __init__(
        self,
        key: str,
        layers: Projections,
        restore: Callable[[Tensor], Tensor] | None = None,  # [B, merged, C] -> [B, H * W, C]
    ) -> None:
        self.key_name, self.value_name = f"{key}.key", f"{key}.value"
        self.layers = layers
        recorded = ((self.key_name, layers.key), (self.value_name, layers.value))
        self.probes = [Probe(name, layer, "output", restore=restore) for name, layer in recorded]

    def __call__(
        self,
        rows: Tensor,  # [B, N, C]
        size: Size,
        packed_pass: PackedPass,
        residual: Tensor,  # [B, N, C]
    ) -> Tensor:  # [B, N, C]
        layers = self.layers
        query, key, value = linear_each(rows, (layers.query, layers.key, layers.value))
        packed_pass.keep(self.key_name, key)
        packed_pass.keep(self.value_name, value)
        if query.shape[1] == 0:
            return residual
        in_place = packed_pass.recorded.is_one  # then the op reads the recorded rows in place and skips active ones
        inactive = None if in_place else packed_pass.layout.inactive(size)
        recorded_key, recorded_value = (
            packed_pass.recorded.rows(name, inactive) for name in (self.key_name, self.value_name)
        )
        index = packed_pass.layout.keys(size, compact=not in_place)
        if layers.takes_op(query):
            out = block_attention(query, key, value, recorded_key, recorded_value, index, layers.heads)
        else:
            each = index[:, None]  # [H * W, 1]
            keys, values = gather(key, recorded_key, each), gather(value, recorded_value, each)  # [B, H * W, C] each
            out = layers.attend(query, keys, values)
        return linear(out, layers.out, residual)


class CrossAttention:
    """Active queries over the tokens of the prompt, whose keys and values are computed once per prompt."""

    def __init__(self, layers: Projections) -> None:
        self.layers = layers
        self.probes: list[Probe] = []

    def __call__(
        self,
        rows: Tensor,  # [B, N, C]
        packed_pass: PackedPass,
        residual: Tensor,  # [B, N, C]
    ) -> Tensor:  # [B, N, C]
        key, value = packed_pass.prompt.project(self.layers.key, self.layers.value, self._project)
        query = linear(rows, self.layers.query)
        if self.layers.takes_op(query):
            tokens = packed_pass.layout.numbers(key.shape[1])  # all rows are fresh, so any may stand for recorded ones
            out = block_attention(query, key, value, key, value, tokens, self.layers.heads)
        else:
            out = self.layers.attend(query, key, value)
        return linear(out, self.layers.out, residual)

    def _project(self, text: Tensor) -> tuple[Tensor, Tensor]:  # [B, tokens, C] -> [B, tokens, Hd * D] twice
        return linear(text, self.layers.key), linear(text, self.layers.value)

"""block_attention: active queries against keys and values picked from fresh and recorded rows."""

from __future__ import annotations

import torch
from torch import Tensor

from sige.errors import OpError
from sige.ops.checks import check_storage_dtype, check_tensor
from sige.ops.registry import IndexRange, register

__all__ = ["ATTENTION_BLOCK", "block_attention"]

ATTENTION_BLOCK = 64  # queries and keys per entry of the block mask; csrc/block_attention.h holds the same number


def block_attention(
    query: Tensor,  # [B, N, Hd * D]
    key: Tensor,  # [B, K, Hd * D]
    value: Tensor,  # [B, K, Hd * D]
    recorded_key: Tensor,  # [B, M, Hd * D]
    recorded_value: Tensor,  # [B, M, Hd * D]
    index: Tensor,  # int32 [L]
    heads: int,
    block_mask: Tensor | None = None,  # bool [ceil(N / 64), ceil(L / 64)]
    scale: float | None = None,
) -> Tensor:  # [B, N, Hd * D]
    """Softmax attention of each query over the keys that `index` lists, numbered as in a gather map.

    An entry v < 0 is hidden, v < K is fresh row v, v >= K is recorded row v - K. So `row_map` as the index reads fresh
    keys at the active positions and recorded keys at all others. A false entry of `block_mask` hides 64 consecutive
    entries of the index from 64 consecutive queries. A query that sees no key gives zeros. `scale` is 1 / sqrt(D)
    unless given.

    >>> query = key = torch.ones(1, 1, 2)
    >>> nothing = torch.empty(1, 0, 2)
    >>> block_attention(query, key, key, nothing, nothing, torch.tensor([0], dtype=torch.int32), heads=1).tolist()
    [[[1.0, 1.0]]]
    """
    if scale is None:
        scale = max(query.shape[-1] // max(heads, 1), 1) ** -0.5
    op = torch.ops.sige.block_attention.default
    return op(query, key, value, recorded_key, recorded_value, index, heads, block_mask, scale)  # type: ignore[no-any-return]


def _block_attention_fake(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    recorded_key: Tensor,
    recorded_value: Tensor,
    index: Tensor,
    heads: int,
    block_mask: Tensor | None,
    scale: float,
) -> Tensor:
    op, dtype = "block_attention", query.dtype
    check_tensor(op, "query", query, query, dtype, "[B, N, C]", (None, None, None))
    batch, queries, channels = query.shape
    if heads < 1 or channels % heads:
        raise OpError(f"{op}: heads is {heads}, expected a divisor of the {channels} channels of query")
    check_tensor(op, "key", key, query, dtype, "[B, K, C]", (batch, None, channels))
    check_tensor(op, "value", value, query, dtype, "[B, K, C]", (batch, key.shape[1], channels))
    check_tensor(op, "recorded_key", recorded_key, query, dtype, "[B, M, C]", (batch, None, channels))
    recorded = (batch, recorded_key.shape[1], channels)
    check_tensor(op, "recorded_value", recorded_value, query, dtype, "[B, M, C]", recorded)
    check_tensor(op, "index", index, query, torch.int32, "[L]", (None,))
    if block_mask is not None:
        blocks = (-(-queries // ATTENTION_BLOCK), -(-index.shape[0] // ATTENTION_BLOCK))
        letters = "[ceil(N / 64), ceil(L / 64)]"
        check_tensor(op, "block_mask", block_mask, query, torch.bool, letters, blocks)
    check_storage_dtype(op, "query", query)
    return torch.empty_like(query)


def _block_attention_reference(
    query: Tensor,  # [B, N, Hd * D]
    key: Tensor,  # [B, K, Hd * D]
    value: Tensor,  # [B, K, Hd * D]
    recorded_key: Tensor,  # [B, M, Hd * D]
    recorded_value: Tensor,  # [B, M, Hd * D]
    index: Tensor,  # int [L]
    heads: int,
    block_mask: Tensor | None,  # bool [ceil(N / 64), ceil(L / 64)]
    scale: float,
) -> Tensor:  # [B, N, Hd * D]
    dtype = torch.promote_types(query.dtype, torch.float32)
    rows = index.long().clamp(min=0)
    seen = (index >= 0).expand(query.shape[1], -1)  # [N, L]
    if block_mask is not None:
        blocks = block_mask.repeat_interleave(ATTENTION_BLOCK, 0).repeat_interleave(ATTENTION_BLOCK, 1)
        seen = seen & blocks[: query.shape[1], : index.shape[0]]
    if index.shape[0] == 0 or key.shape[1] + recorded_key.shape[1] == 0:
        return torch.zeros_like(query)
    keys = torch.cat([key, recorded_key], dim=1)[:, rows].to(dtype).unflatten(2, (heads, -1))  # [B, L, Hd, D]
    values = torch.cat([value, recorded_value], dim=1)[:, rows].to(dtype).unflatten(2, (heads, -1))  # [B, L, Hd, D]
    scores = torch.einsum("bnhd,blhd->bhnl", query.to(dtype).unflatten(2, (heads, -1)), keys) * scale
    weights = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1).masked_fill(~seen, 0.0)
    return torch.einsum("bhnl,blhd->bnhd", weights, values).to(query.dtype).flatten(2).contiguous()


def _attention_range(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    recorded_key: Tensor,
    recorded_value: Tensor,
    index: Tensor,
    *_: object,
) -> IndexRange:
    return IndexRange("index", index, -1, key.shape[1] + recorded_key.shape[1])


register(
    "block_attention(Tensor query, Tensor key, Tensor value, Tensor recorded_key, Tensor recorded_value, "
    "Tensor index, int heads, Tensor? block_mask, float scale) -> Tensor",
    reference=_block_attention_reference,
    fake=_block_attention_fake,
    index_range=_attention_range,
)

"""Attention with heads wider than flash attention takes, such as the VAE's of 512 channels: products and a softmax.

torch's SDPA has one block for each 64 or 128 queries of a head, so the one head of a small region leaves most of a GPU
idle. A product is cut along the keys, too. Its price is memory: the scores of a chunk of queries, and their softmax.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LARGEST_FLASH_HEAD", "is_wide", "wide_attention"]

LARGEST_FLASH_HEAD = 256  # of flash attention in torch; above it SDPA takes a kernel of few and slow blocks
# Of the fp32 scores of one chunk; beside them lies as much again, the softmax. At 1024x1024 this is 4096 of the VAE's
# 16384 queries: an edit of a quarter of the picture is one chunk.
MOST_SCORE_BYTES = 256 << 20


def is_wide(device: str, dtype: torch.dtype, head_size: int) -> bool:
    """Says whether two products are expected to be faster than SDPA for such heads; no GPU has timed them."""
    return device == "cuda" and dtype in (torch.float16, torch.bfloat16) and head_size > LARGEST_FLASH_HEAD


def wide_attention(
    query: Tensor,  # [B, Hd, N, D]
    key: Tensor,  # [B, Hd, L, D]
    value: Tensor,  # [B, Hd, L, D]
) -> Tensor:  # [B, Hd, N, D]
    """Softmax attention with the roundings of flash attention: scores and sums are fp32, weights have the dtype.

    >>> wide_attention(torch.ones(1, 2, 3, 320), torch.ones(1, 2, 5, 320), torch.ones(1, 2, 5, 320)).shape
    torch.Size([1, 2, 3, 320])
    """
    heads = query.shape[:2]
    query, key, value = (rows.flatten(0, 1) for rows in (query, key, value))  # copies where B and Hd are above one
    chunks: tuple[Tensor, ...] = query.split(_chunk_rows(query, key), dim=-2)  # [B * Hd, n, D] each
    outs = [_attend(chunk, key, value) for chunk in chunks]  # [B * Hd, n, D] each
    out = outs[0] if len(outs) == 1 else torch.cat(outs, dim=-2)  # [B * Hd, N, D]
    return out.view(*heads, *out.shape[1:])


def _chunk_rows(
    query: Tensor,  # [B * Hd, N, D]
    key: Tensor,  # [B * Hd, L, D]
) -> int:
    """The queries of a chunk: as many in each, so that no small rest is left."""
    row_bytes = 4 * key.shape[0] * key.shape[1]  # of the scores of one query of each head
    limit = max(MOST_SCORE_BYTES // row_bytes, 1)
    chunks = max(-(-query.shape[1] // limit), 1)
    return -(-query.shape[1] // chunks)


def _attend(
    query: Tensor,  # [B * Hd, n, D]
    key: Tensor,  # [B * Hd, L, D]
    value: Tensor,  # [B * Hd, L, D]
) -> Tensor:  # [B * Hd, n, D]
    scale = query.shape[2] ** -0.5
    scores = _product(query, key.transpose(1, 2)).mul_(scale)  # fp32 [B * Hd, n, L]
    weights = torch.softmax(scores, -1)  # fp32 [B * Hd, n, L]
    del scores  # its memory holds the rounded weights
    return _product(weights.to(value.dtype), value).to(value.dtype)


def _product(
    left: Tensor,  # [B * Hd, n, K]
    right: Tensor,  # [B * Hd, K, M]
) -> Tensor:  # fp32 [B * Hd, n, M]
    """The products in fp32. CUDA multiplies 16-bit numbers as they are; other devices have no such product."""
    if left.is_cuda:
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())

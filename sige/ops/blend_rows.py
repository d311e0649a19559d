"""blend_rows: a weighted sum of recorded rows, at some positions or at all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sige.ops.checks import check_storage_dtype, check_tensor, check_terms, check_weights
from sige.ops.registry import IndexRange, register

__all__ = ["blend_rows"]


def blend_rows(
    rows: Sequence[Tensor],  # [B, M, C] each, one to MOST_TERMS of them
    weights: Tensor,  # fp64 [K], one for each of rows
    index: Tensor | None = None,  # int32 [N], or None for all rows: N = M
) -> Tensor:  # [B, N, C]
    """The sum of `weights[k] * rows[k][:, index]`, rounded once; rows of weight 0 are not read.

    >>> first, second = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[3.0], [5.0]]])
    >>> weights, index = torch.tensor([2.0, -1.0]).double(), torch.tensor([1], dtype=torch.int32)
    >>> blend_rows([first, second], weights, index).tolist()
    [[[-1.0]]]
    """
    return torch.ops.sige.blend_rows.default(rows, weights, index)  # type: ignore[no-any-return]


def _blend_rows_fake(rows: Sequence[Tensor], weights: Tensor, index: Tensor | None) -> Tensor:
    op = "blend_rows"
    check_terms(op, "rows", rows)
    first = rows[0]
    check_tensor(op, "rows[0]", first, first, first.dtype, "[B, M, C]", (None, None, None))
    check_storage_dtype(op, "rows[0]", first)
    for k, term in enumerate(rows):
        check_tensor(op, f"rows[{k}]", term, first, first.dtype, "[B, M, C]", tuple(first.shape))
    check_weights(op, "weights", weights, rows)
    if index is not None:
        check_tensor(op, "index", index, first, torch.int32, "[N]", (None,))
    batch, count, channels = first.shape
    return first.new_empty(batch, count if index is None else index.shape[0], channels)


def _blend_rows_reference(
    rows: Sequence[Tensor],  # [B, M, C] each
    weights: Tensor,  # [K]
    index: Tensor | None,  # int [N]
) -> Tensor:  # [B, N, C]
    terms = rows if index is None else [term[:, index.long()] for term in rows]  # [B, N, C] each
    wide = torch.promote_types(rows[0].dtype, torch.float32)
    products = [weight * term.to(wide) for term, weight in zip(terms, weights.to(wide), strict=True)]
    read = [torch.where(weight == 0, 0, product) for product, weight in zip(products, weights, strict=True)]
    return torch.stack(read).sum(dim=0).to(rows[0].dtype)


def _blend_rows_range(rows: Sequence[Tensor], weights: Tensor, index: Tensor | None) -> IndexRange | None:
    return None if index is None else IndexRange("index", index, 0, rows[0].shape[1])


register(
    "blend_rows(Tensor[] rows, Tensor weights, Tensor? index) -> Tensor",
    reference=_blend_rows_reference,
    fake=_blend_rows_fake,
    index_range=_blend_rows_range,
)

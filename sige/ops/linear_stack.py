"""linear_stack: several linear layers of the same packed rows, in one call that reads their weights in place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sige.errors import OpError
from sige.ops.checks import check_as_many, check_storage_dtype, check_tensor
from sige.ops.registry import register

__all__ = ["MOST_LAYERS", "linear_stack"]

MOST_LAYERS = 4  # of one call; csrc/row_product.h holds the same number


def linear_stack(
    rows: Tensor,  # [B, N, C]
    weights: Sequence[Tensor],  # [C_out, C] each, one to MOST_LAYERS of them
    biases: Sequence[Tensor] = (),  # [C_out] each, one for each of weights, or none at all
) -> Tensor:  # [P, B, N, C_out]
    """`rows @ weights[p].T + biases[p]` for each of the P layers.

    >>> linear_stack(torch.tensor([[[3.0, 4.0]]]), [torch.eye(2), torch.ones(2, 2)]).tolist()
    [[[[3.0, 4.0]]], [[[7.0, 7.0]]]]
    """
    return torch.ops.sige.linear_stack.default(rows, weights, biases)  # type: ignore[no-any-return]


def _linear_stack_fake(rows: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    op = "linear_stack"
    check_tensor(op, "rows", rows, rows, rows.dtype, "[B, N, C]", (None, None, None))
    if not 1 <= len(weights) <= MOST_LAYERS:
        raise OpError(f"{op}: weights has {len(weights)} tensors, expected 1 to {MOST_LAYERS}")
    if biases:
        check_as_many(op, "biases", biases, "weights", weights)
    batch, count, channels = rows.shape
    for k, weight in enumerate(weights):
        columns = weights[0].shape[0] if k else None
        check_tensor(op, f"weights[{k}]", weight, rows, rows.dtype, "[C_out, C]", (columns, channels))
        if biases:
            check_tensor(op, f"biases[{k}]", biases[k], rows, rows.dtype, "[C_out]", (weights[0].shape[0],))
    check_storage_dtype(op, "rows", rows)
    return rows.new_empty(len(weights), batch, count, weights[0].shape[0])


def _linear_stack_reference(
    rows: Tensor,  # [B, N, C]
    weights: Sequence[Tensor],  # [C_out, C] each
    biases: Sequence[Tensor],  # [C_out] each, or none
) -> Tensor:  # [P, B, N, C_out]
    return torch.stack([F.linear(rows, weight, biases[k] if biases else None) for k, weight in enumerate(weights)])


register(
    "linear_stack(Tensor rows, Tensor[] weights, Tensor[] biases) -> Tensor",
    reference=_linear_stack_reference,
    fake=_linear_stack_fake,
)

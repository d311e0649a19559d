"""linear: a linear layer on packed rows, with the residual added on the way."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sige.ops.checks import check_storage_dtype, check_tensor
from sige.ops.registry import register

__all__ = ["linear"]


def linear(
    rows: Tensor,  # [B, N, C]
    weight: Tensor,  # [C_out, C]
    bias: Tensor | None = None,  # [C_out]
    residual: Tensor | None = None,  # [B, N, C_out]
) -> Tensor:  # [B, N, C_out]
    """`rows @ weight.T + bias + residual`.

    >>> linear(torch.ones(1, 1, 2), torch.ones(3, 2), residual=torch.ones(1, 1, 3)).tolist()
    [[[3.0, 3.0, 3.0]]]
    """
    return torch.ops.sige.linear.default(rows, weight, bias, residual)  # type: ignore[no-any-return]


def _linear_fake(rows: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    op = "linear"
    check_tensor(op, "rows", rows, rows, rows.dtype, "[B, N, C]", (None, None, None))
    batch, count, channels = rows.shape
    check_tensor(op, "weight", weight, rows, rows.dtype, "[C_out, C]", (None, channels))
    if bias is not None:
        check_tensor(op, "bias", bias, rows, rows.dtype, "[C_out]", (weight.shape[0],))
    out_shape = (batch, count, weight.shape[0])
    if residual is not None:
        check_tensor(op, "residual", residual, rows, rows.dtype, "[B, N, C_out]", out_shape)
    check_storage_dtype(op, "rows", rows)
    return rows.new_empty(out_shape)


def _linear_reference(
    rows: Tensor,  # [B, N, C]
    weight: Tensor,  # [C_out, C]
    bias: Tensor | None,  # [C_out]
    residual: Tensor | None,  # [B, N, C_out]
) -> Tensor:  # [B, N, C_out]
    product = F.linear(rows, weight, bias)
    return product if residual is None else product + residual


register(
    "linear(Tensor rows, Tensor weight, Tensor? bias, Tensor? residual) -> Tensor",
    reference=_linear_reference,
    fake=_linear_fake,
)

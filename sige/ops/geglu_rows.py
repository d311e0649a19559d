"""geglu_rows: the middle of the gated feed-forward, in one pass over its rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sige.errors import OpError
from sige.ops.checks import check_storage_dtype, check_tensor
from sige.ops.registry import register

__all__ = ["geglu_rows"]


def geglu_rows(rows: Tensor) -> Tensor:  # [B, N, 2 C] -> [B, N, C]
    """The first half of each row times the GELU of the second half.

    >>> geglu_rows(torch.tensor([[[2.0, 3.0, 0.0, 100.0]]])).tolist()
    [[[0.0, 300.0]]]
    """
    return torch.ops.sige.geglu_rows.default(rows)  # type: ignore[no-any-return]


def _geglu_rows_fake(rows: Tensor) -> Tensor:
    op = "geglu_rows"
    check_tensor(op, "rows", rows, rows, rows.dtype, "[B, N, 2 C]", (None, None, None))
    batch, count, channels = rows.shape
    if channels % 2:
        raise OpError(f"{op}: rows has {channels} channels, expected an even number")
    check_storage_dtype(op, "rows", rows)
    return rows.new_empty(batch, count, channels // 2)


def _geglu_rows_reference(rows: Tensor) -> Tensor:  # [B, N, 2 C] -> [B, N, C]
    hidden, gate = rows.chunk(2, dim=-1)
    return hidden * F.gelu(gate)


register("geglu_rows(Tensor rows) -> Tensor", reference=_geglu_rows_reference, fake=_geglu_rows_fake)

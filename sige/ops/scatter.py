"""scatter: packed rows into a dense tensor, in place, at the active positions."""

from __future__ import annotations

import torch
from torch import Tensor

from sige.errors import OpError
from sige.ops.checks import check_storage_dtype, check_tensor
from sige.ops.registry import IndexRange, register

__all__ = ["scatter"]


def scatter(
    dense: Tensor,  # [B, C, H, W], any strides; written
    packed: Tensor,  # [B, N, C]
    index: Tensor,  # int32 [N]
    residual: Tensor | None = None,  # [B, N, C]
) -> None:
    """Writes packed row n, plus the residual's, to position `index[n]` = h * W + w of `dense`, each at most once.

    >>> dense = torch.zeros(1, 1, 2, 2)
    >>> scatter(dense, torch.tensor([[[7.0]]]), torch.tensor([3], dtype=torch.int32))
    >>> dense.flatten().tolist()
    [0.0, 0.0, 0.0, 7.0]
    """
    torch.ops.sige.scatter.default(dense, packed, index, residual)


def _scatter_fake(dense: Tensor, packed: Tensor, index: Tensor, residual: Tensor | None) -> None:
    op = "scatter"
    letters = "[B, C, H, W]"
    check_tensor(op, "dense", dense, dense, dense.dtype, letters, (None, None, None, None), contiguous=False)
    batch, channels = dense.shape[:2]
    check_tensor(op, "packed", packed, dense, dense.dtype, "[B, N, C]", (batch, None, channels))
    check_tensor(op, "index", index, dense, torch.int32, "[N]", (packed.shape[1],))
    if residual is not None:
        check_tensor(op, "residual", residual, dense, dense.dtype, "[B, N, C]", tuple(packed.shape))
    check_storage_dtype(op, "dense", dense)


def _scatter_reference(
    dense: Tensor,  # [B, C, H, W]
    packed: Tensor,  # [B, N, C]
    index: Tensor,  # int [N]
    residual: Tensor | None,  # [B, N, C]
) -> None:
    values = packed if residual is None else packed + residual
    entries, counts = index.unique(return_counts=True)
    if (counts > 1).any():
        twice = int(entries[counts > 1][0])
        raise OpError(f"scatter: index names position {twice} twice, expected each at most once")
    position = index.long()
    width = dense.shape[3]
    dense[:, :, position // width, position % width] = values.transpose(1, 2)


def _scatter_range(dense: Tensor, packed: Tensor, index: Tensor, *_: object) -> IndexRange:
    return IndexRange("index", index, 0, dense.shape[2] * dense.shape[3])


register(
    "scatter(Tensor(a!) dense, Tensor packed, Tensor index, Tensor? residual) -> ()",
    reference=_scatter_reference,
    fake=_scatter_fake,
    index_range=_scatter_range,
)
